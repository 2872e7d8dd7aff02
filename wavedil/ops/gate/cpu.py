"""The gate as one fused numba loop over channels-innermost rows, forward and backward.

Plain PyTorch makes six passes forward and ten backward, its bfloat16 tanh is slow, and `chunk` is
undone in backward by filling and copying; here each direction reads and writes once.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.fallback import differentiable_backward, plain_eager
from wavedil.ops.gate.reference import gate as reference
from wavedil.ops.threads import over_rows

# A few rows are not worth the call, nor numba's import: streaming sample by sample stays plain.
_MINIMUM_ELEMENTS = 2048


class _Loops(NamedTuple):
    forward: Callable[..., None]
    backward: Callable[..., None]


@cache
def _loops(dtype: torch.dtype) -> _Loops | None:
    """The loops of a dtype, compiled and tried out; None where numba is missing or fails."""
    try:
        from wavedil.ops.gate import kernels
    except ImportError:
        return None
    name = str(dtype).removeprefix("torch.")
    loops = _Loops(getattr(kernels, f"forward_{name}"), getattr(kernels, f"backward_{name}"))
    try:
        h, d = torch.zeros(1, 2, dtype=dtype), torch.zeros(1, 1, dtype=dtype)
        _forward(loops, h, torch.empty_like(d), "tanh_first")
        _backward(loops, h, d, "tanh_first")
    except Exception as error:  # numba is an accelerator: whatever it trips over, plain torch works
        warnings.warn(f"numba cannot run the gate ({error}); it runs as plain PyTorch", stacklevel=2)
        return None
    return loops


def suits(h: Tensor) -> bool:
    """Whether the loop can take this tensor."""
    return (
        plain_eager(h)
        and h.dtype in (torch.float32, torch.bfloat16)
        and h.numel() >= _MINIMUM_ELEMENTS
        and _rows(h).is_contiguous()
        and _loops(h.dtype) is not None
    )


def gate(h: Tensor, order: str) -> Tensor:
    """`reference.gate` for a tensor that `suits`; the result has channels innermost too."""
    return _Gate.apply(h, order)


def _rows(x: Tensor) -> Tensor:
    """`(batch, channels, *space)` as `(batch, *space, channels)`: a view."""
    return x.movedim(1, -1)


def _flat(x: Tensor) -> Any:
    """A contiguous tensor's numbers as a flat numpy array, bfloat16 as uint16; shares memory."""
    x = x.detach().reshape(-1)
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _halves(channels: int, order: str) -> tuple[int, int]:
    """Where tanh's half and the sigmoid's half begin in a row."""
    return (0, channels) if order == "tanh_first" else (channels, 0)


def _forward(loops: _Loops, h: Tensor, g: Tensor, order: str) -> None:
    channels = g.shape[-1]
    flat_h, flat_g = _flat(h), _flat(g)
    halves = _halves(channels, order)

    def part(first: int, last: int) -> None:
        loops.forward(flat_h, flat_g, channels, *halves, first, last)

    over_rows(part, g.numel() // channels, channels)


def _backward(loops: _Loops, h: Tensor, d: Tensor, order: str) -> Tensor:
    channels = d.shape[-1]
    dh = torch.empty_like(h)
    flat_h, flat_d, flat_dh = _flat(h), _flat(d), _flat(dh)
    halves = _halves(channels, order)

    def part(first: int, last: int) -> None:
        loops.backward(flat_h, flat_d, flat_dh, channels, *halves, first, last)

    over_rows(part, d.numel() // channels, 2 * channels)
    return dh


class _Gate(torch.autograd.Function):
    """Keeps only h: two exponentials again are cheaper than writing and reading two halves."""

    @staticmethod
    def forward(ctx: FunctionCtx, h: Tensor, order: str) -> Tensor:
        rows = _rows(h)
        g = rows.new_empty(*rows.shape[:-1], rows.shape[-1] // 2)
        _forward(_loops(h.dtype), rows, g, order)
        ctx.save_for_backward(h)
        ctx.order = order
        return g.movedim(-1, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None]:
        (h,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = differentiable_backward(
                ctx, lambda h: reference(h, ctx.order), (h,), grad
            )
            return gradient, None
        d = _rows(grad).contiguous()
        return _backward(_loops(h.dtype), _rows(h), d, ctx.order).movedim(-1, 1), None
