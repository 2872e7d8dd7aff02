"""The gate as one fused numba loop over channels-innermost rows, forward and backward.

Plain PyTorch makes six passes forward and ten backward, its bfloat16 tanh is slow, and `chunk` is
undone in backward by filling and copying; here each direction reads and writes once.
"""

from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.fallback import differentiable_backward, flat, plain_eager, tried
from wavedil.ops.gate.reference import gate as reference
from wavedil.ops.threads import over_rows

DTYPES = (torch.float32, torch.bfloat16)
# A few rows are not worth the call, nor numba's import: streaming sample by sample stays plain.
_MINIMUM_ELEMENTS = 2048
_ROWS_PER_SUM = 2048


@cache
def loops(dtype: torch.dtype) -> ModuleType | None:
    """The module of loops, compiled for a dtype and tried out; None where numba is not usable."""

    def trial(kernels: ModuleType) -> None:
        h = torch.zeros(1, 1, 2, dtype=dtype)
        backward(kernels, h, forward(kernels, h, "tanh_first"), "tanh_first")

    return tried("wavedil.ops.gate.kernels", trial)


def supports(h: Tensor) -> bool:
    """Whether the loop can take this tensor."""
    return (
        plain_eager(h)
        and h.dtype in DTYPES
        and h.numel() >= _MINIMUM_ELEMENTS
        and _rows(h).is_contiguous()
        and loops(h.dtype) is not None
    )


def gate(h: Tensor, order: str) -> Tensor:
    """`reference.gate` for a tensor that `suits`; the result has channels innermost too."""
    return _Gate.apply(h, order)


def _rows(x: Tensor) -> Tensor:
    """`(batch, channels, *space)` as `(batch, *space, channels)`: a view."""
    return x.movedim(1, -1)


def _halves(channels: int, order: str) -> tuple[int, int]:
    """Where tanh's half and the sigmoid's half begin in a row."""
    return (0, channels) if order == "tanh_first" else (channels, 0)


def forward(kernels: ModuleType, h: Tensor, order: str) -> Tensor:
    """Rows `(..., 2 * channels)` to the gate's `(..., channels)`."""
    channels = h.shape[-1] // 2
    g = h.new_empty(*h.shape[:-1], channels)
    flat_h, flat_g = flat(h), flat(g)
    halves = _halves(channels, order)

    def part(first: int, last: int) -> None:
        kernels.forward(flat_h, flat_g, channels, *halves, first, last)

    over_rows(part, g.numel() // channels, channels)
    return g


def backward(kernels: ModuleType, h: Tensor, d: Tensor, order: str) -> tuple[Tensor, Tensor]:
    """From rows of `h` and of the gradient at the gate: that at `h`, and its sum (float32)."""
    channels = d.shape[-1]
    dh = torch.empty_like(h)
    flat_h, flat_d, flat_dh = flat(h), flat(d), flat(dh)
    halves = _halves(channels, order)
    sums = []

    def part(first: int, last: int) -> None:
        # A sum of many float32 numbers one by one loses digits: short sums, then their sum.
        for start in range(first, last, _ROWS_PER_SUM):
            short = torch.zeros(2 * channels)
            stop = min(start + _ROWS_PER_SUM, last)
            numbers = short.numpy()
            kernels.backward(flat_h, flat_d, flat_dh, numbers, channels, *halves, start, stop)
            sums.append(short)

    over_rows(part, d.numel() // channels, 2 * channels)
    return dh, torch.stack(sums).sum(0)


class _Gate(torch.autograd.Function):
    """Keeps only h: two exponentials again are cheaper than writing and reading two halves."""

    @staticmethod
    def forward(ctx: FunctionCtx, h: Tensor, order: str) -> Tensor:
        ctx.save_for_backward(h)
        ctx.order = order
        return forward(loops(h.dtype), _rows(h), order).movedim(-1, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None]:
        (h,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = differentiable_backward(ctx, lambda h: reference(h, ctx.order), (h,), (grad,))
            return gradient, None
        d = _rows(grad).contiguous()
        return backward(loops(h.dtype), _rows(h), d, ctx.order)[0].movedim(-1, 1), None
