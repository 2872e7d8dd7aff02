"""The gated residual layer of WaveNet without its skip projection (van den Oord et al. 2016, figure 4)."""

import torch
from torch import Tensor

from wavedil.ops.dilated_conv import as_autocast
from wavedil.ops.gated_residual import cpu, triton
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
    condition: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes ``z = gate(dilated_conv(x) + condition)`` and returns ``(x + residual(z), z)``.

    Over one axis on the CPU, with gradients enabled and without a condition, the layer is one node of the autograd
    graph, which merges the additions of gradients into the matrix products. On a GPU, Triton kernels add the biases,
    the condition and x in the passes over memory that the gate and the sum need. Under autocast all results are in the
    autocast dtype.

    Args:
        x: ``(batch, channels, *space)``.
        weight, bias: of the dilated convolution, ``(2 * hidden, channels, *kernel)`` and ``(2 * hidden,)``.
        residual_weight, residual_bias: ``(channels, hidden, 1, ...)`` and ``(channels,)``.
        padding: number of zeros (before, after) per axis; must keep the size.
        dilation: one per axis.
        order: as in :func:`wavedil.ops.gate.gate`.
        condition: added to the input of the gate; broadcasts to ``(batch, 2 * hidden, *space)``.

    Returns:
        ``(batch, channels, *space)`` and z, ``(batch, hidden, *space)``.
    """
    (cast,) = as_autocast(x)
    inputs = (cast, weight, bias, residual_weight, residual_bias)
    if triton.supports(*inputs, condition):
        return triton.gated_residual(*inputs, padding, dilation, order, condition)
    if condition is None and torch.is_grad_enabled() and cpu.supports(*inputs, padding, dilation):
        return cpu.GatedResidual.apply(*inputs, padding[0], dilation[0], order)
    return reference(x, weight, bias, residual_weight, residual_bias, padding, dilation, order, condition)
