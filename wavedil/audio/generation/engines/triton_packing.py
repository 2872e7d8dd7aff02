"""How the triton engine lays out its weights: the kernel's tile sizes, and the weights padded and packed for it."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.audio.generation.plan import CodeEmbeddingPlan, GenerationPlan, LayerPlan

TILE = 16  # streams per program
BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Tiling:
    """The kernel's constants: padded widths, and how much of them one pass of its loop computes.

    A pass multiplies ``BLOCK`` hidden channels of a layer while the weights of the next ``STAGES - 1`` passes are
    loaded into shared memory.
    """

    C: int  # channels
    H: int  # hidden channels
    S: int  # skip channels
    E: int  # head channels
    Q: int  # codes
    F: int  # condition channels, 0 for none
    BLOCK: int
    HEAD_BLOCK: int
    STAGES: int

    @classmethod
    def choose(cls, plan: GenerationPlan, precision: str, shared: int) -> Self | None:
        """The tiling for a device with ``shared`` bytes of shared memory per program; None if none fits."""
        (head, _), (out, _) = plan.head
        skip = len(plan.skip_bias)
        widths = [_padded_width(n) for n in (plan.channels, plan.hidden, skip, len(head), len(out))]
        features = _padded_width(plan.condition_channels) if plan.condition_channels else 0
        taps = max_taps(plan)
        for stages in (3, 2, 1):
            for block in (64, 32, 16):
                tiling = cls(*widths, features, min(block, widths[1]), min(32, widths[3]), stages)
                if tiling.fits(taps, precision, shared):
                    return tiling
        return None

    def fits(self, taps: int, precision: str, shared: int) -> bool:
        """Whether registers and shared memory suffice, by an upper bound of what the compiler was seen to use."""
        products = 2 * (taps * self.C + self.F)
        if precision == "fp32" and products * self.BLOCK > 24576:
            return False  # without tensor cores the operands are in registers; more of them would spill
        layer = (products + self.C + self.S) * self.BLOCK + (taps - 1) * TILE * self.C
        head = (self.S + self.Q) * self.HEAD_BLOCK
        operands = TILE * max(self.C + self.F + self.BLOCK, self.S + self.HEAD_BLOCK)
        buffers = max(self.STAGES - 1, 1)
        loops = max(buffers * layer, buffers * head) * BYTES[precision] + buffers * 8 * TILE * self.BLOCK
        return max(loops + operands * 4, TILE * self.Q * 8) + 4096 <= shared


def pack_weights(plan: GenerationPlan, tiling: Tiling, dtype: torch.dtype, biases: Tensor) -> dict[str, Tensor]:
    """The kernel's weights by the names of its arguments, which state their shapes; padded with zeros."""
    depth, hidden, C, H, S, E, Q = len(plan.layers), plan.hidden, *list(vars(tiling).values())[:5]
    blocks = (H // tiling.BLOCK, tiling.BLOCK)

    def split_gates(values: Tensor, inputs: int) -> Tensor:
        """(…, 2 * hidden, inputs) -> (…, blocks, 2, padded inputs, BLOCK)"""
        values = values.unflatten(-2, (2, hidden)).transpose(-2, -1)  # (…, 2, inputs, hidden)
        values = pad_zeros(values, *values.shape[:-2], inputs, H).unflatten(-1, blocks)
        return values.movedim(-2, -4)

    empty = plan.skip_bias.new_zeros(0)
    embedding = plan.input_embedding
    if isinstance(embedding, CodeEmbeddingPlan):
        tables, levels, input_bias = (
            pad_zeros(embedding.tables, embedding.taps, embedding.num_codes + 1, C),
            empty,
            empty,
        )
    else:
        tables, levels = pad_zeros(embedding.weight, embedding.taps, C), F.pad(embedding.levels, (0, 1))
        input_bias = pad_zeros(embedding.bias, C)
    weights = torch.stack([padded_taps(layer, max_taps(plan))[1] for layer in plan.layers])
    conditions = empty
    if plan.condition_channels:
        conditions = torch.stack([layer.condition[:, : plan.condition_channels] for layer in plan.layers])
        conditions = split_gates(conditions, tiling.F)
    residuals, residual_biases = plan.skip_bias.new_zeros(depth, H, C), plan.skip_bias.new_zeros(depth, C)
    for index, layer in enumerate(plan.layers):
        if layer.residual is not None:
            residuals[index, :hidden, : plan.channels] = layer.residual.T
            residual_biases[index, : plan.channels] = layer.residual_bias
    (head, head_bias), (out, out_bias) = plan.head
    in_dtype = {
        "weights": split_gates(weights, C).movedim(1, 2),
        "conditions": conditions,
        "residuals": residuals,
        "skips": pad_zeros(plan.skip_weight.T.unflatten(0, (depth, hidden)), depth, H, S),
        "head": pad_zeros(head.T, S, E).unflatten(1, (-1, tiling.HEAD_BLOCK)).movedim(1, 0),
        "out": pad_zeros(out.T, E, Q),
    }
    in_float32 = {
        "tables": tables,
        "levels": levels,
        "input_bias": input_bias,
        "biases": biases,
        "residual_biases": residual_biases,
        "skip_bias": pad_zeros(plan.skip_bias, S),
        "head_bias": pad_zeros(head_bias, E),
        "out_bias": F.pad(out_bias, (0, Q - len(out_bias)), value=float("-inf")),
    }
    packed = {name: values.to(dtype).contiguous() for name, values in in_dtype.items()}
    return packed | {name: values.float().contiguous() for name, values in in_float32.items()}


def max_taps(plan: GenerationPlan) -> int:
    """The number of taps that every layer has in the kernel."""
    return max(len(layer.delays) for layer in plan.layers)


def padded_taps(layer: LayerPlan, taps: int) -> tuple[tuple[int, ...], Tensor]:
    """Delays and weights of a layer with zero weights for further taps, at its largest delay."""
    missing = taps - len(layer.delays)
    return (layer.span,) * missing + layer.delays, F.pad(layer.weight, (0, 0, 0, 0, missing, 0))


def _padded_width(width: int) -> int:
    """The next power of two, at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def pad_zeros(values: Tensor, *shape: int) -> Tensor:
    """Appends zeros along each axis, up to a shape."""
    padded = values.new_zeros(shape)
    padded[tuple(slice(size) for size in values.shape)] = values
    return padded
