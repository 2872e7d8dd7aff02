"""The gated residual layer out of its parts: the definition the fused form is tested against."""

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
) -> tuple[Tensor, Tensor]:
    ones = (1,) * len(dilation)
    h = dilated_conv(x, weight, bias, stride=ones, padding=padding, dilation=dilation, groups=1)
    z = gate(h, order)
    none = [(0, 0)] * len(dilation)
    out = dilated_conv(z, residual_weight, residual_bias, stride=ones, padding=none, dilation=ones, groups=1)
    # The stream keeps the product's dtype: under autocast it stays in half precision.
    return x.to(out.dtype) + out, z
