"""The gated residual layer on a GPU: PyTorch's convolutions without their biases, and Triton kernels for the rest.

PyTorch adds the bias of a convolution in a separate pass over its output. Here the kernel of the gate adds the first
bias, and one kernel computes the residual sum with the second.
"""

from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.dilated_conv import dilated_conv
from wavedil.ops.fallback import load_kernels
from wavedil.ops.gate import gate
from wavedil.ops.gate.reference import add_bias
from wavedil.ops.gate.triton import blocks
from wavedil.ops.launch import can_launch, launch, memory_order


@cache
def compiled_kernels(dtype: torch.dtype, device: torch.device) -> ModuleType | None:
    """The module of kernels, after a trial for this dtype and device; None if Triton does not work."""

    def trial(kernels: ModuleType) -> None:
        x = torch.zeros(1, 2, 4, dtype=dtype, device=device)
        add_residual(kernels, x, x, None)

    return load_kernels("wavedil.ops.gated_residual.triton_kernels", trial)


def supports(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    condition: Tensor | None,
) -> bool:
    """Whether the kernels support the arguments."""
    return (
        can_launch(x, weight, bias, residual_weight, residual_bias, condition)
        and compiled_kernels(x.dtype, x.device) is not None
    )


def gated_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    padding: list[tuple[int, int]],
    dilation: tuple[int, ...],
    order: str,
    condition: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns ``(x + residual(z), z)``; arguments as in :func:`wavedil.ops.gated_residual.gated_residual`."""
    ones = (1,) * len(dilation)
    h = dilated_conv(x, weight, stride=ones, padding=padding, dilation=dilation, groups=1)
    z = gate(h, order, bias, condition)
    no_padding = [(0, 0)] * len(dilation)
    product = dilated_conv(z, residual_weight, stride=ones, padding=no_padding, dilation=ones, groups=1)
    # The shapes differ where the condition has a larger batch, and the dtypes under autocast.
    if x.shape != product.shape or compiled_kernels(product.dtype, product.device) is None:
        return x.to(product.dtype) + add_bias(product, residual_bias), z
    return AddResidual.apply(x, product, residual_bias), z


def add_residual(kernels: ModuleType, x: Tensor, product: Tensor, bias: Tensor | None) -> Tensor:
    """``x + product + bias`` in the dtype and memory layout of the product."""
    data, is_channels_last = memory_order(product)
    x = (x.movedim(1, -1) if is_channels_last else x).contiguous()
    out = torch.empty_like(data)
    batch, channels, size = x.shape[0], product.shape[1], product[0, 0].numel()
    programs, _, constants = blocks(batch, channels, size, is_channels_last)
    launch(kernels.add_residual, programs, x.device, x, data, bias, out, channels, size, **constants)
    return out.movedim(-1, 1) if is_channels_last else out


class AddResidual(torch.autograd.Function):
    """``x + product + bias``, of the dtype of the product: x stays in half precision under autocast."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, product: Tensor, bias: Tensor | None) -> Tensor:
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        return add_residual(compiled_kernels(product.dtype, product.device), x, product, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_dtype, bias_dtype = ctx.dtypes
        dbias = None
        if ctx.needs_input_grad[2]:
            dbias = grad.movedim(1, 0).flatten(1).sum(1, dtype=torch.float32).to(bias_dtype)
        return grad.to(x_dtype), grad, dbias
