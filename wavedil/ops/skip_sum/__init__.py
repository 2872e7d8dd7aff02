"""The skips of all layers of a stack, summed: one product over the concatenated gates."""

from collections.abc import Sequence

from torch import Tensor

from wavedil.ops.dilated_conv import as_autocast
from wavedil.ops.skip_sum import cpu
from wavedil.ops.skip_sum.reference import skip_sum as reference


def skip_sum(gates: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`sum of weight_i @ gates_i` over the layers, plus the bias.

    Shapes: gates `(batch, hidden_i, *space)`, weight `(skip, sum of hidden_i, 1, ...)`, bias
    `(skip,)`, result `(batch, skip, *space)`. Equal to the sum of one product per layer, and moves
    layers x hidden instead of layers x skip channels through memory.
    """
    *parts, weight, bias = as_autocast(*gates, weight, bias)
    if cpu.supports(parts, weight, bias):
        return cpu.skip_sum(parts, weight, bias)
    return reference(parts, weight, bias)
