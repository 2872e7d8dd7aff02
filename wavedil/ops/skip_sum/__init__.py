"""The sum of the skip projections of all layers of a stack, as one product over the concatenated gated activations."""

from collections.abc import Sequence

from torch import Tensor

from wavedil.ops.dilated_conv import as_autocast
from wavedil.ops.skip_sum import cpu
from wavedil.ops.skip_sum.reference import skip_sum as reference


def skip_sum(gates: Sequence[Tensor], weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The sum over layers of ``weight_i @ gates_i``, plus the bias.

    One product for all layers writes the sum once, where one product per layer writes the skips of every layer.

    Args:
        gates: gated activations of each layer, ``(batch, hidden_i, *space)``.
        weight: ``(skip_channels, sum of hidden_i, 1, ...)``.
        bias: ``(skip_channels,)``.

    Returns:
        ``(batch, skip_channels, *space)``.
    """
    *gates, weight, bias = as_autocast(*gates, weight, bias)
    if cpu.supports(gates, weight, bias):
        return cpu.SkipSum.apply(weight, bias, *gates)
    return reference(gates, weight, bias)
