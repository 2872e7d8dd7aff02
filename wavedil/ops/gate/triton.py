"""The gated activation on a GPU as one Triton kernel each for forward and backward.

Plain PyTorch adds the bias and the condition, and computes tanh, the sigmoid and their product, in a pass over memory
each; backward needs about twice as many. The kernels read and write each number once.
"""

from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.fallback import load_kernels
from wavedil.ops.gate.reference import add_bias
from wavedil.ops.gate.reference import gate as reference
from wavedil.ops.launch import can_launch, launch, memory_order, power_of_2

_BLOCK = 1024  # elements per program


@cache
def compiled_kernels(dtype: torch.dtype, device: torch.device) -> ModuleType | None:
    """The module of kernels, after a trial for this dtype and device; None if Triton does not work."""

    def trial(kernels: ModuleType) -> None:
        h = torch.zeros(1, 2, 4, dtype=dtype, device=device)
        z, _ = forward(kernels, h, None, h, "tanh_first")
        backward(kernels, h, None, z, "tanh_first", need_sums=True)

    return load_kernels("wavedil.ops.gate.triton_kernels", trial)


def supports(h: Tensor, bias: Tensor | None = None, condition: Tensor | None = None) -> bool:
    """Whether the kernels support the arguments."""
    return (
        can_launch(h, bias, condition)
        and (bias is None or bias.shape == h.shape[1:2])
        and (condition is None or (condition.dtype == h.dtype and _broadcasts(condition, h)))
        and compiled_kernels(h.dtype, h.device) is not None
    )


def _broadcasts(condition: Tensor, h: Tensor) -> bool:
    sizes = zip(condition.shape, h.shape, strict=False)
    return condition.ndim == h.ndim and all(size in (1, full) for size, full in sizes)


def blocks(batch: int, channels: int, size: int, is_channels_last: bool) -> tuple[int, int, dict[str, int | bool]]:
    """The number of programs, that of blocks of positions, and the constants of the kernels."""
    inner, outer = (channels, size) if is_channels_last else (size, channels)
    block_inner = min(power_of_2(inner), _BLOCK)
    block_outer = min(power_of_2(outer), _BLOCK // block_inner)
    block_c, block_n = (block_inner, block_outer) if is_channels_last else (block_outer, block_inner)
    columns = batch * -(-size // block_n)
    constants = {"CHANNELS_LAST": is_channels_last, "BLOCK_C": block_c, "BLOCK_N": block_n}
    return columns * -(-channels // block_c), columns, constants


def forward(
    kernels: ModuleType, h: Tensor, bias: Tensor | None, condition: Tensor | None, order: str
) -> tuple[Tensor, Tensor | None]:
    """The gated activation, and ``h + bias + condition`` if there is a condition. Both have the memory layout of h."""
    batch, channels, size = h.shape[0], h.shape[1] // 2, h[0, 0].numel()
    data, is_channels_last = memory_order(h)
    z = torch.empty_like(data.chunk(2, dim=-1 if is_channels_last else 1)[0], memory_format=torch.contiguous_format)
    total = strides = None
    if condition is not None:
        condition = condition.expand_as(h).reshape(batch, 2 * channels, size)
        total, strides = torch.empty_like(data), condition.stride()
    programs, _, constants = blocks(batch, channels, size, is_channels_last)
    arguments = data, bias, condition, total, z, channels, size, *(strides or (0, 0, 0))
    launch(kernels.forward, programs, h.device, *arguments, TANH_FIRST=order == "tanh_first", **constants)
    if is_channels_last:
        return z.movedim(-1, 1), None if total is None else total.movedim(-1, 1)
    return z, total


def backward(
    kernels: ModuleType, h: Tensor, bias: Tensor | None, dz: Tensor, order: str, need_sums: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradient of ``h`` from that of the output, and its sum over all positions (float32) if needed."""
    batch, channels, size = h.shape[0], h.shape[1] // 2, h[0, 0].numel()
    data, is_channels_last = memory_order(h)
    dz = (dz.movedim(1, -1) if is_channels_last else dz).contiguous()
    dh = torch.empty_like(data)
    programs, columns, constants = blocks(batch, channels, size, is_channels_last)
    sums = torch.empty(2 * channels, columns, dtype=torch.float32, device=h.device) if need_sums else None
    arguments = data, bias, dz, dh, sums, channels, size, columns
    launch(kernels.backward, programs, h.device, *arguments, TANH_FIRST=order == "tanh_first", **constants)
    return dh.movedim(-1, 1) if is_channels_last else dh, None if sums is None else sums.sum(1)


class Gate(torch.autograd.Function):
    """The gate of ``(h, bias, condition, order)``, and the sum of the three tensors if there is a condition.

    Saves only one tensor of the size of h: h without a condition, and the sum with one.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, h: Tensor, bias: Tensor | None, condition: Tensor | None, order: str
    ) -> tuple[Tensor, Tensor | None]:
        z, total = forward(compiled_kernels(h.dtype, h.device), h, bias, condition, order)
        ctx.set_materialize_grads(False)
        ctx.order = order
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.condition_shape = None if condition is None else condition.shape
        ctx.save_for_backward(*((h, bias) if total is None else (total, None)))
        return z, total

    @staticmethod
    def backward(ctx: FunctionCtx, dz: Tensor | None, dtotal: Tensor | None) -> tuple[Tensor | None, ...]:
        if dz is None and dtotal is None:
            return None, None, None, None
        h, bias = ctx.saved_tensors
        dh, sums = dtotal, None  # dtotal is given only in the second derivative
        if dz is not None and torch.is_grad_enabled():
            # The sum is an output of this node, so the second derivative reaches its inputs through dtotal.
            total = add_bias(h, bias)
            (dh,) = torch.autograd.grad(reference(total, ctx.order), total, dz, create_graph=True)
        elif dz is not None:
            kernels = compiled_kernels(h.dtype, h.device)
            dh, sums = backward(kernels, h, bias, dz, ctx.order, need_sums=ctx.needs_input_grad[1])
        if dz is not None and dtotal is not None:
            dh, sums = dh + dtotal, None
        dbias = dcondition = None
        if ctx.needs_input_grad[1]:
            sums = dh.movedim(1, 0).flatten(1).sum(1) if sums is None else sums
            dbias = sums.to(ctx.bias_dtype)
        if ctx.needs_input_grad[2]:
            dcondition = dh.sum_to_size(ctx.condition_shape)
        return dh, dbias, dcondition, None
