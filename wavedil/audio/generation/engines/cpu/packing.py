"""Packs a plan's weights into the flat arrays that the compiled loop reads, in the order in which it reads them."""

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS
from wavedil.audio.generation.engines.cpu.formats import Format, RoundedFormat
from wavedil.audio.generation.engines.cpu.layout import LAYER_COLUMNS, PackedWeights, Widths
from wavedil.audio.generation.engines.cpu.sparse import pack_sparse
from wavedil.audio.generation.engines.cpu.specs import make_spec
from wavedil.audio.generation.plan import CodeEmbeddingPlan, GenerationPlan, LayerPlan


def padded_width(width: int) -> int:
    """The next multiple of the vector width."""
    return -(-width // VECTORS.lanes) * VECTORS.lanes


def pack(plan: GenerationPlan, numbers: Format, threads: int, longest_block: int) -> tuple[Widths, PackedWeights]:
    """Widths and weights of a plan.

    Args:
        numbers: format of weights and of inputs of products.
        threads: that share a stream, 1 or 2.
        longest_block: most steps for which the products with past inputs are computed at once.
    """
    (hidden_weight, hidden_bias), (out_weight, out_bias) = plan.head
    widths = Widths(
        channels=padded_width(plan.channels),
        hidden=padded_width(-(-plan.hidden // 2)),
        skip=padded_width(len(plan.skip_bias)),
        head=padded_width(-(-len(hidden_weight) // 2)),
        outputs=padded_width(len(out_weight)),
        num_parameters=len(out_weight),
        condition=-(-plan.condition_channels // 4) * 4,
        layers=len(plan.layers),
    )
    writer = _Writer(numbers)
    channels, hidden = plan.channels, plan.hidden
    halves = _halves(hidden)
    # Output columns of the gates' products: [half 0: tanh, sigmoid | half 1: tanh, sigmoid].
    gate_columns = [[_shifted(half, 0), _shifted(half, hidden)] for half in halves]
    rows = np.zeros((len(plan.layers), LAYER_COLUMNS), np.int64)
    taps = [[_numpy(tap).T for tap in layer.weight] for layer in plan.layers]  # (channels, 2 * hidden) each

    def add_gate_product(weight: np.ndarray, count: int) -> int:
        parts = [[_columns(weight, part, widths.hidden) for part in half] for half in gate_columns]
        return writer.add_halves(parts, count, threads)

    def add_block_products(index: int) -> tuple[int, int]:
        """The matrices of a layer that are read once per block of steps: for condition and past inputs."""
        layer, condition = plan.layers[index], -1
        if plan.condition_channels:
            condition = add_gate_product(_numpy(layer.condition[:, : plan.condition_channels]).T, widths.condition)
        past = [add_gate_product(tap, widths.channels) for tap in taps[index][:-1]]
        return condition, past[0] if past else -1

    # The matrices that are not read in every step come first, so that those that are follow each other in memory.
    blocks = [_block_length(layer, longest_block) for layer in plan.layers]
    separate = {index: add_block_products(index) for index, block in enumerate(blocks) if block > 1}
    ring, delays = 0, []
    for index, (row, layer) in enumerate(zip(rows, plan.layers, strict=True)):
        condition, past = separate[index] if index in separate else add_block_products(index)
        current = add_gate_product(taps[index][-1], widths.channels)
        residual = -1
        if layer.residual is not None:
            weight = _numpy(layer.residual).T  # (hidden, channels)
            parts = [_columns(weight[half], range(channels), widths.channels) for half in halves]
            residual = [writer.add([part], widths.hidden) for part in parts][0]
        slots = layer.span + 1
        row[:] = (len(delays), len(taps[index]), ring, slots, blocks[index], condition, past, current, residual)
        ring += slots
        delays += layer.delays[:-1]
    skip_weight = _numpy(plan.skip_weight).T.reshape(len(plan.layers), hidden, -1)
    skip = []
    for half in halves:
        matrix = np.zeros((len(plan.layers), widths.hidden, skip_weight.shape[2]), np.float32)
        matrix[:, : len(half)] = skip_weight[:, half]
        matrix = matrix.reshape(-1, matrix.shape[2])
        skip.append(writer.add([_columns(matrix, range(matrix.shape[1]), widths.skip)], len(matrix)))
    head_halves = _halves(len(hidden_weight))
    weight = _numpy(hidden_weight).T
    head = writer.add_halves([[_columns(weight, half, widths.head)] for half in head_halves], widths.skip, threads)
    weight = _numpy(out_weight).T
    out = [
        writer.add([_columns(weight[half], range(weight.shape[1]), widths.outputs)], widths.head)
        for half in head_halves
    ]
    tables, input_bias, levels = _input_tables(plan, widths)
    residual_bias = np.zeros((len(plan.layers), widths.channels), np.float32)
    for bias, layer in zip(residual_bias, plan.layers, strict=True):
        if layer.residual_bias is not None:
            bias[:channels] = _numpy(layer.residual_bias)
    return widths, PackedWeights(
        words=writer.words(),
        starts=np.array(writer.starts, np.int64),
        layers=rows,
        delays=np.array(delays, np.int64),
        skip=skip[0],
        head=head,
        out=out[0],
        tables=tables,
        input_bias=input_bias,
        levels=levels,
        residual_bias=residual_bias,
        skip_bias=_padded_row(plan.skip_bias, widths.skip),
        head_bias=np.concatenate([_columns(_numpy(hidden_bias)[None], half, widths.head)[0] for half in head_halves]),
        out_bias=_padded_row(out_bias, widths.outputs),
        zeros=np.zeros(widths.head, np.float32),
        residual_scale=np.float32(plan.residual_scale),
        rounded=isinstance(numbers, RoundedFormat),
        unit=np.array([1 / 127], np.float32),
        spec=make_spec(plan.distribution),
    )


def gate_bias(plan: GenerationPlan, widths: Widths, speaker: Tensor | None) -> np.ndarray:
    """The bias of each layer, plus its product with the speaker: float32 (layers, batch or 1, 4 * hidden)."""
    rows = []
    for layer in plan.layers:
        bias = layer.bias.double().unsqueeze(0)
        if speaker is not None:
            bias = bias + speaker.double() @ layer.condition[:, plan.condition_channels :].double().T
        bias = _numpy(bias)
        parts = [
            _columns(bias, _shifted(half, offset), widths.hidden)
            for half in _halves(plan.hidden)
            for offset in (0, plan.hidden)
        ]
        rows.append(np.concatenate(parts, axis=1))
    return np.stack(rows)


def to_words(values: Tensor, numbers: Format, width: int) -> np.ndarray:
    """Inputs of products ``(..., k)``, padded with zeros to a width, as words, rounded as in the loop."""
    rows = np.zeros((*values.shape[:-1], width), np.float32)
    rows[..., : values.shape[-1]] = _numpy(values)
    return np.ascontiguousarray(numbers.inputs(rows))


def _block_length(layer: LayerPlan, longest: int) -> int:
    """Steps for which the layer's past inputs are known in advance: a power of two, at most its smallest delay."""
    known = min((longest, *layer.delays[-2:-1]))  # the last delay is 0
    return 1 << known.bit_length() - 1


def _input_tables(plan: GenerationPlan, widths: Widths) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``tables``, ``input_bias`` and ``levels`` of PackedWeights."""
    embedding, channels = plan.input_embedding, plan.channels
    is_lookup = isinstance(embedding, CodeEmbeddingPlan)
    table = np.zeros((embedding.taps, embedding.num_codes + 1 if is_lookup else 1, widths.channels), np.float32)
    if is_lookup:  # the last row, for "no code yet", stays zero
        table[:, :-1, :channels] = _numpy(embedding.tables)
        return table, np.zeros(widths.channels, np.float32), np.zeros(0, np.float32)
    table[:, 0, :channels] = _numpy(embedding.weight)
    levels = np.append(_numpy(embedding.levels), np.float32(0))
    return table, _padded_row(embedding.bias, widths.channels), levels


class _Writer:
    """Collects matrices as words, one after the other: sparse if they have many blocks of zeros, else dense."""

    def __init__(self, numbers: Format):
        self.format = numbers
        self.pieces: list[np.ndarray] = []
        self.length = 0
        self.starts: list[int] = []

    def add(self, parts: list[np.ndarray], count: int) -> int:
        """Adds the matrix of column blocks ``(k, columns)``, k padded to ``count``; returns its number."""
        matrix = np.concatenate(parts, axis=1) + np.float32(0)  # so that -0 becomes 0
        rows = -(-len(matrix) // self.format.numbers_per_word)
        matrix = np.concatenate([matrix, np.zeros((count - len(matrix), matrix.shape[1]), np.float32)])
        words = self.format.weights(matrix)
        header = len(words) - count // self.format.numbers_per_word
        packed = pack_sparse(words, header, rows, VECTORS.groups)
        if packed is None:
            self.starts.append(self.length)
            for column in range(0, words.shape[1], VECTORS.panel):
                self._append(words[:, column : column + VECTORS.panel])
        else:
            self._append(np.zeros(-self.length % 16, self.format.dtype))  # to the next cache line
            self.starts.append(~self.length)
            self._append(packed)
        return len(self.starts) - 1

    def _append(self, words: np.ndarray) -> None:
        self.pieces.append(np.ascontiguousarray(words).reshape(-1))
        self.length += words.size

    def add_halves(self, halves: list[list[np.ndarray]], count: int, threads: int) -> int:
        """Adds the columns of both halves: as one matrix, or for two threads as two consecutive matrices."""
        if threads == 1:
            return self.add([part for half in halves for part in half], count)
        return [self.add(half, count) for half in halves][0]

    def words(self) -> np.ndarray:
        """All matrices, aligned to a cache line."""
        memory = np.zeros(self.length + 16, self.format.dtype)
        skip = (-memory.ctypes.data % 64) // 4
        words = memory[skip : skip + self.length]
        np.concatenate(self.pieces, out=words)
        return words


def _halves(width: int) -> list[range]:
    """The channels of half 0 and of half 1."""
    first = -(-width // 2)
    return [range(first), range(first, width)]


def _shifted(half: range, offset: int) -> range:
    return range(half.start + offset, half.stop + offset)


def _columns(matrix: np.ndarray, columns: range, width: int) -> np.ndarray:
    """Some columns of a matrix, padded with zeros to a width."""
    out = np.zeros((len(matrix), width), np.float32)
    out[:, : len(columns)] = matrix[:, columns.start : columns.stop]
    return out


def _padded_row(values: Tensor, width: int) -> np.ndarray:
    return _columns(_numpy(values)[None], range(len(values)), width)[0]


def _numpy(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().to("cpu", torch.float32).numpy())
