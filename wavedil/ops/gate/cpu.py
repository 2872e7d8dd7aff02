"""The gated activation as one fused numba kernel each for forward and backward, over rows of channels.

Plain PyTorch makes six passes over memory forward and ten backward, its bfloat16 tanh is slow, and the backward of
``chunk`` fills and copies. The kernels read and write each number once.
"""

from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.fallback import channels_last, differentiable_backward, flat_numpy, is_eager_cpu, load_kernels
from wavedil.ops.gate.reference import gate as reference
from wavedil.ops.threads import run_in_threads

DTYPES = (torch.float32, torch.bfloat16)
_MIN_ELEMENTS = 2048  # with fewer, as in streaming sample by sample, the call and numba's import are not worth it
_ROWS_PER_SUM = 2048


@cache
def compiled_kernels(dtype: torch.dtype) -> ModuleType | None:
    """The module of kernels, after a trial for this dtype; None if numba does not work."""

    def trial(kernels: ModuleType) -> None:
        h = torch.zeros(1, 1, 2, dtype=dtype)
        backward(kernels, h, forward(kernels, h, "tanh_first"), "tanh_first")

    return load_kernels("wavedil.ops.gate.kernels", trial)


def supports(h: Tensor) -> bool:
    """Whether the kernels support this tensor."""
    return (
        is_eager_cpu(h)
        and h.dtype in DTYPES
        and h.numel() >= _MIN_ELEMENTS
        and channels_last(h).is_contiguous()
        and compiled_kernels(h.dtype) is not None
    )


def _halves(channels: int, order: str) -> tuple[int, int]:
    """Offsets in a row of the inputs of tanh and of the sigmoid."""
    return (0, channels) if order == "tanh_first" else (channels, 0)


def forward(kernels: ModuleType, h: Tensor, order: str) -> Tensor:
    """Rows ``(..., 2 * channels) -> (..., channels)``."""
    channels = h.shape[-1] // 2
    g = h.new_empty(*h.shape[:-1], channels)
    arguments = flat_numpy(h), flat_numpy(g), channels, *_halves(channels, order)
    run_in_threads(partial(kernels.forward, *arguments), g.numel() // channels, channels)
    return g


def backward(kernels: ModuleType, h: Tensor, d: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """The gradient of rows of h from that of the output d, and its sum over all rows (float32)."""
    channels = d.shape[-1]
    dh = torch.empty_like(h)
    flat_h, flat_d, flat_dh = flat_numpy(h), flat_numpy(d), flat_numpy(dh)
    halves = _halves(channels, order)
    sums = []

    def run_rows(first: int, last: int) -> None:
        # A long sequential sum in float32 loses digits, so the rows are summed in short pieces.
        for start in range(first, last, _ROWS_PER_SUM):
            partial = torch.zeros(2 * channels)
            stop = min(start + _ROWS_PER_SUM, last)
            kernels.backward(flat_h, flat_d, flat_dh, partial.numpy(), channels, *halves, start, stop)
            sums.append(partial)

    run_in_threads(run_rows, d.numel() // channels, 2 * channels)
    return dh, torch.stack(sums).sum(0)


class Gate(torch.autograd.Function):
    """The gate of ``(h, order)``; the result has channels innermost in memory.

    Saves only h: recomputing two exponentials is cheaper than writing and reading both halves.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, h: Tensor, order: str) -> Tensor:
        ctx.save_for_backward(h)
        ctx.order = order
        return forward(compiled_kernels(h.dtype), channels_last(h), order).movedim(-1, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None]:
        (h,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = differentiable_backward(ctx, lambda h: reference(h, ctx.order), (h,), (grad,))
            return gradient, None
        d = channels_last(grad).contiguous()
        return backward(compiled_kernels(h.dtype), channels_last(h), d, ctx.order)[0].movedim(-1, 1), None
