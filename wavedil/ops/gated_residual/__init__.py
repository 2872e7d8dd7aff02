"""One layer of a WaveNet between its input and its skip (van den Oord et al. 2016, figure 4)."""

import torch
from torch import Tensor

from wavedil.ops.dilated_conv import as_autocast
from wavedil.ops.gated_residual import cpu
from wavedil.ops.gated_residual.reference import gated_residual as reference


def gated_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    *,
    padding: list[tuple[int, int]],
    dilation: tuple[int, ...],
    order: str = "tanh_first",
) -> tuple[Tensor, Tensor]:
    """`z = gate(dilated_conv(x))` and `x + residual(z)`: returns `(x + residual(z), z)`.

    Shapes: x and the first result `(batch, channels, *space)`, z `(batch, hidden, *space)`, weight
    `(2 * hidden, channels, *kernel)`, residual_weight `(channels, hidden, 1, ...)`. `padding` must
    keep the size. Under autocast all of it, the sum too, is in autocast's dtype.

    Over one axis on the CPU, with gradients wanted, the layer is one node of the graph: the sums
    that autograd makes where paths join become part of the matrix products.
    """
    (narrow,) = as_autocast(x)
    parts = (narrow, weight, bias, residual_weight, residual_bias)
    if torch.is_grad_enabled() and cpu.supports(*parts, padding, dilation):
        return cpu.GatedResidual.apply(*parts, padding[0], dilation[0], order)
    return reference(x, weight, bias, residual_weight, residual_bias, padding, dilation, order)
