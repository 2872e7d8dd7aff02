"""The gated residual layer composed of separate operations: the definition for tests."""

from torch import Tensor

from wavedil.ops.dilated_conv import dilated_conv
from wavedil.ops.gate import gate


def gated_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    padding: list[tuple[int, int]],
    dilation: tuple[int, ...],
    order: str,
    condition: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns ``(x + residual(z), z)``; arguments as in :func:`wavedil.ops.gated_residual.gated_residual`."""
    ones = (1,) * len(dilation)
    h = dilated_conv(x, weight, bias, stride=ones, padding=padding, dilation=dilation, groups=1)
    z = gate(h, order, condition=condition)
    no_padding = [(0, 0)] * len(dilation)
    out = dilated_conv(z, residual_weight, residual_bias, stride=ones, padding=no_padding, dilation=ones, groups=1)
    # x takes the dtype of the product, so that it stays in half precision under autocast.
    return x.to(out.dtype) + out, z
