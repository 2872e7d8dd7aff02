"""A plan as the flat arrays that the compiled loop reads, in the order in which it reads them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.generation.engines.cpu.drawing import CategoricalDrawing, MixtureDrawing, drawing_of
from wavedil.audio.generation.engines.cpu.products import LANES, PANEL
from wavedil.audio.generation.plan import CodeEmbeddingPlan, GenerationPlan, LayerPlan
from wavedil.ops.vector import round_bits

#: Columns of ``Packed.layers``.
LAYER = ("dilation", "taps", "ring", "slots", "block", "condition", "past", "now", "residual")


class Sizes(NamedTuple):
    """Widths, padded to vectors; what is cut in two halves (one for each of two threads) has the width of a half."""

    channels: int
    hidden: int  # of a half
    skip: int
    head: int  # of a half
    outputs: int
    num_parameters: int  # outputs before padding
    condition: int
    layers: int


class Packed(NamedTuple):
    """All weights in ``units``, and where each product's begin (indices into units; -1: there is none).

    Products with a K of channels, condition or skip make columns ``[half 0 | half 1]``, those of the gate each
    ``[tanh | sigmoid]``; products over a half's K are two, half 0 first, and their sums are added.
    """

    units: np.ndarray  # float32, or uint32: pairs of bfloat16
    layers: np.ndarray  # int64 (layers, LAYER)
    skip: int
    head: int
    out: int
    tables: (
        np.ndarray
    )  # float32 (taps, codes + 1, channels) of a CodeEmbeddingPlan; (taps, 1, channels) of a AmplitudeEmbeddingPlan
    input_bias: np.ndarray  # float32 (channels,)
    levels: np.ndarray  # float32 (codes + 1,) of a AmplitudeEmbeddingPlan, else empty
    residual_bias: np.ndarray  # float32 (layers, channels)
    skip_bias: np.ndarray
    head_bias: np.ndarray
    out_bias: np.ndarray
    nothing: np.ndarray  # float32 (head,) zeros
    residual_scale: np.float32
    rounded: bool  # units are float32, but inputs of products are rounded to bfloat16
    drawing: CategoricalDrawing | MixtureDrawing


def padded(size: int) -> int:
    """The next multiple of the vector's width."""
    return -(-size // LANES) * LANES


def sizes_of(plan: GenerationPlan) -> Sizes:
    (hidden_weight, _), (out_weight, _) = plan.head
    return Sizes(
        channels=padded(plan.channels),
        hidden=padded(-(-plan.hidden // 2)),
        skip=padded(len(plan.skip_bias)),
        head=padded(-(-len(hidden_weight) // 2)),
        outputs=padded(len(out_weight)),
        num_parameters=len(out_weight),
        condition=plan.condition_channels + plan.condition_channels % 2,
        layers=len(plan.layers),
    )


def pack(plan: GenerationPlan, precision: str, batch: int, pieces: int, longest_block: int) -> tuple[Sizes, Packed]:
    """``longest_block``: steps for which a layer's past may be multiplied at once."""
    size = sizes_of(plan)
    # Pairs halve the traffic of weights, but as soon as several streams share each load, unpacking costs more than
    # that: then float32 units hold the rounded weights.
    paired = precision == "bf16" and batch == 1
    writer = _Writer(precision, paired)
    channels, hidden = plan.channels, plan.hidden
    first = -(-hidden // 2)
    # Columns of the gate's product: [half 0: tanh, sigmoid | half 1: tanh, sigmoid].
    halves = [range(first), range(first, hidden)]
    gates = [[_cut(half, 0), _cut(half, hidden)] for half in halves]
    rows = np.zeros((len(plan.layers), len(LAYER)), np.int64)
    taps = [[_numpy(tap).T for tap in layer.weight] for layer in plan.layers]  # (channels, 2 * hidden) each

    def gate_product(weight: np.ndarray, count: int) -> int:
        return writer.add_halves(
            [[_columns(weight, part, size.hidden) for part in half] for half in gates], count, pieces
        )

    def before(index: int) -> tuple[int, int]:
        """Condition and past of a layer."""
        layer, condition = plan.layers[index], -1
        if plan.condition_channels:
            condition = gate_product(_numpy(layer.condition[:, : plan.condition_channels]).T, size.condition)
        past = [gate_product(tap, size.channels) for tap in taps[index][:-1]]
        return condition, past[0] if past else -1

    # What is read once in a block of steps lies apart, so that what each step reads lies in one piece.
    blocks = [_block(layer, longest_block) for layer in plan.layers]
    apart = {index: before(index) for index, block in enumerate(blocks) if block > 1}
    ring = 0
    for index, (row, layer) in enumerate(zip(rows, plan.layers, strict=True)):
        condition, past = apart[index] if index in apart else before(index)
        now = gate_product(taps[index][-1], size.channels)
        residual = -1
        if layer.residual is not None:
            weight = _numpy(layer.residual).T  # (hidden, channels)
            starts = [
                writer.add([_columns(weight[half], range(channels), size.channels)], size.hidden) for half in halves
            ]
            residual = starts[0]
        slots = layer.span + 1
        row[:] = (layer.dilation, len(taps[index]), ring, slots, blocks[index], condition, past, now, residual)
        ring += slots
    skip_weight = _numpy(plan.skip_weight).T.reshape(len(plan.layers), hidden, -1)
    skip = []
    for half in halves:
        whole = np.zeros((len(plan.layers), size.hidden, skip_weight.shape[2]), np.float32)
        whole[:, : len(half)] = skip_weight[:, half]
        skip.append(writer.add([_columns(whole.reshape(-1, whole.shape[2]), range(whole.shape[2]), size.skip)], None))
    (hidden_weight, hidden_bias), (out_weight, out_bias) = plan.head
    width = len(hidden_weight)
    head_halves = [range(-(-width // 2)), range(-(-width // 2), width)]
    weight = _numpy(hidden_weight).T
    head = writer.add_halves([[_columns(weight, half, size.head)] for half in head_halves], size.skip, pieces)
    weight = _numpy(out_weight).T
    out = [
        writer.add([_columns(weight[half], range(weight.shape[1]), size.outputs)], size.head) for half in head_halves
    ]
    tables, input_bias, levels = _input_tables(plan, size)
    residual_bias = np.zeros((len(plan.layers), size.channels), np.float32)
    for bias, layer in zip(residual_bias, plan.layers, strict=True):
        if layer.residual_bias is not None:
            bias[:channels] = _numpy(layer.residual_bias)
    return size, Packed(
        units=writer.units(),
        layers=rows,
        skip=skip[0],
        head=head,
        out=out[0],
        tables=tables,
        input_bias=input_bias,
        levels=levels,
        residual_bias=residual_bias,
        skip_bias=_padded_row(plan.skip_bias, size.skip),
        head_bias=np.concatenate([_columns(_numpy(hidden_bias)[None], half, size.head)[0] for half in head_halves]),
        out_bias=_padded_row(out_bias, size.outputs),
        nothing=np.zeros(size.head, np.float32),
        residual_scale=np.float32(plan.residual_scale),
        rounded=precision == "bf16" and not paired,
        drawing=drawing_of(plan.distribution),
    )


def _block(layer: LayerPlan, longest: int) -> int:
    """Steps for which the layer's past is known ahead: a power of two, at most its dilation."""
    known = min(longest, layer.dilation) if layer.span else longest
    return 1 << known.bit_length() - 1


def gate_bias(plan: GenerationPlan, size: Sizes, speaker: Tensor | None) -> np.ndarray:
    """(layers, batch or 1, 2 halves * 2 * hidden) float32: each layer's bias, with what the speaker adds to it."""
    first = -(-plan.hidden // 2)
    rows = []
    for layer in plan.layers:
        bias = layer.bias.double().unsqueeze(0)
        if speaker is not None:
            bias = bias + speaker.double() @ layer.condition[:, plan.condition_channels :].double().T
        bias = _numpy(bias)
        halves = [range(first), range(first, plan.hidden)]
        parts = [_columns(bias, _cut(half, offset), size.hidden) for half in halves for offset in (0, plan.hidden)]
        rows.append(np.concatenate(parts, axis=1))
    return np.stack(rows)


def _input_tables(plan: GenerationPlan, size: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    front, channels = plan.input_embedding, plan.channels
    table = np.zeros(
        (front.taps, front.num_codes + 1 if isinstance(front, CodeEmbeddingPlan) else 1, size.channels), np.float32
    )
    if isinstance(front, CodeEmbeddingPlan):  # the last row, of "no code yet", stays zero
        table[:, :-1, :channels] = _numpy(front.tables)
        return table, np.zeros(size.channels, np.float32), np.zeros(0, np.float32)
    table[:, 0, :channels] = _numpy(front.weight)
    return table, _padded_row(front.bias, size.channels), np.append(_numpy(front.levels), np.float32(0))


class _Writer:
    """Collects matrices as units, one after the other."""

    def __init__(self, precision: str, paired: bool):
        self.precision, self.paired = precision, paired
        self.parts: list[np.ndarray] = []
        self.length = 0

    def add(self, parts: list[np.ndarray], count: int | None) -> int:
        """Column blocks ``(k, columns)`` side by side as one matrix, its k padded to ``count``; where it begins."""
        matrix = np.concatenate(parts, axis=1)
        count = len(matrix) if count is None else count
        matrix = np.concatenate([matrix, np.zeros((count - len(matrix), matrix.shape[1]), np.float32)])
        units = _pairs(matrix) if self.paired else _rounded(matrix) if self.precision == "bf16" else matrix
        start = self.length
        for column in range(0, units.shape[1], PANEL):
            panel = np.ascontiguousarray(units[:, column : column + PANEL]).reshape(-1)
            self.parts.append(panel)
            self.length += len(panel)
        return start

    def add_halves(self, halves: list[list[np.ndarray]], count: int, pieces: int) -> int:
        """Both halves' columns: as one matrix, or for two threads as two that follow each other."""
        if pieces == 1:
            return self.add([part for half in halves for part in half], count)
        return [self.add(half, count) for half in halves][0]  # the second follows the first

    def units(self) -> np.ndarray:
        """All, from the start of a cache line on."""
        dtype = np.uint32 if self.paired else np.float32
        room = np.zeros(self.length + 16, dtype)
        skip = (-room.ctypes.data % 64) // 4
        whole = room[skip : skip + self.length]
        np.concatenate(self.parts, out=whole)
        return whole


def _cut(half: range, offset: int) -> range:
    return range(half.start + offset, half.stop + offset)


def _columns(matrix: np.ndarray, columns: range, width: int) -> np.ndarray:
    """Some columns, padded with zeros to a width."""
    out = np.zeros((len(matrix), width), np.float32)
    out[:, : len(columns)] = matrix[:, columns.start : columns.stop]
    return out


def _padded_row(values: Tensor, width: int) -> np.ndarray:
    return _columns(_numpy(values)[None], range(len(values)), width)[0]


def _rounded(matrix: np.ndarray) -> np.ndarray:
    """The float32 matrix whose numbers the pairs stand for."""
    units = _pairs(matrix)
    return np.stack([units.view(np.float32), (units << np.uint32(16)).view(np.float32)], axis=1).reshape(matrix.shape)


def _pairs(matrix: np.ndarray) -> np.ndarray:
    """``(k, columns)`` float32 to ``(k / 2, columns)`` units: even k in the upper half, odd k in the lower.

    The upper is used with the lower as its tail, so it is rounded such that both together are nearest to the weight: as
    exact as bfloat16.
    """
    bits = matrix.view(np.uint32).reshape(-1, 2, matrix.shape[1])
    lower = _to_bfloat16(bits[:, 1])
    size = (bits[:, 0] & np.uint32(0x7FFFFFFF)).astype(np.int64)
    upper = np.maximum(size - lower + 0x8000, 0) >> 16
    upper = np.where(size == 0, 0, upper).astype(np.uint32) | (bits[:, 0] >> np.uint32(16) & np.uint32(0x8000))
    return upper << np.uint32(16) | lower


def _to_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 bits to bfloat16 bits, to the nearest, ties to even."""
    return round_bits(bits) >> np.uint32(16)


def stored_rows(values: Tensor, like: Packed) -> np.ndarray:
    """Inputs of products ``(..., k)`` as units, as the loop itself would round them."""
    rows = np.ascontiguousarray(_numpy(values))
    if rows.shape[-1] % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[..., :1])], axis=-1)
    if like.units.dtype == np.float32 and not like.rounded:
        return rows
    short = _to_bfloat16(rows.view(np.uint32))
    if like.rounded:
        return (short << np.uint32(16)).view(np.float32)
    return np.ascontiguousarray(short[..., 0::2] << np.uint32(16) | short[..., 1::2])


def _numpy(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().to("cpu", torch.float32).numpy())


def unpacked_rows(units: np.ndarray, width: int) -> np.ndarray:
    """The float32 numbers of rows of units."""
    if units.dtype == np.float32:
        return np.ascontiguousarray(units[..., :width])
    both = np.stack([units & np.uint32(0xFFFF0000), units << np.uint32(16)], axis=-1)
    return np.ascontiguousarray(both.reshape(*units.shape[:-1], -1)[..., :width]).view(np.float32)
