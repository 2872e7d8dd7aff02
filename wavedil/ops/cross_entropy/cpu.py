"""The cross entropy as one fused numba loop each way.

Plain PyTorch widens bfloat16 logits to float32, writes all log-probabilities, and in backward
fills, subtracts and narrows; here forward only reads the logits and backward only writes gradients.
"""

from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.cross_entropy.reference import cross_entropy as reference
from wavedil.ops.fallback import differentiable_backward, flat, plain_eager, tried
from wavedil.ops.threads import over_rows

_DTYPES = (torch.float32, torch.bfloat16)
_MINIMUM_ELEMENTS = 2048  # below it numba's import is not worth it


@cache
def loops(dtype: torch.dtype) -> ModuleType | None:
    """The module of loops, compiled for a dtype and tried out; None where numba is not usable."""

    def trial(kernels: ModuleType) -> None:
        logits, targets = torch.zeros(1, 2, dtype=dtype), torch.zeros(1, dtype=torch.int64)
        nats, log_sums = forward(kernels, logits, targets)
        backward(kernels, logits, targets, log_sums, nats)

    return tried("wavedil.ops.cross_entropy.kernels", trial)


def supports(logits: Tensor, targets: Tensor) -> bool:
    """Whether the loop can take these; reads the targets, since a wrong one must not be followed."""
    return (
        plain_eager(logits, targets)
        and logits.dtype in _DTYPES
        and targets.dtype == torch.int64
        and logits.numel() >= _MINIMUM_ELEMENTS
        and logits.is_contiguous()
        and targets.shape == logits.shape[:1]
        and 0 <= int(targets.min())
        and int(targets.max()) < logits.shape[1]
        and loops(logits.dtype) is not None
    )


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return _CrossEntropy.apply(logits, targets)


def forward(kernels: ModuleType, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Nats and logarithms of the sums, `(rows,)` each."""
    rows, codes = logits.shape
    nats, log_sums = torch.empty(rows), torch.empty(rows)
    arrays = [flat(t) for t in (logits, targets, nats, log_sums)]
    over_rows(lambda first, last: kernels.forward(*arrays, codes, first, last), rows, codes)
    return nats, log_sums


def backward(kernels: ModuleType, logits: Tensor, targets: Tensor, log_sums: Tensor, grad: Tensor) -> Tensor:
    gradient = torch.empty_like(logits)
    rows, codes = logits.shape
    arrays = [flat(t) for t in (logits, targets, log_sums, grad.contiguous(), gradient)]
    over_rows(lambda first, last: kernels.backward(*arrays, codes, first, last), rows, codes)
    return gradient


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor) -> Tensor:
        nats, log_sums = forward(loops(logits.dtype), logits, targets)
        ctx.save_for_backward(logits, targets, log_sums)
        return nats

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None]:
        logits, targets, log_sums = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = differentiable_backward(ctx, lambda logits: reference(logits, targets), (logits,), (grad,))
            return gradient, None
        return backward(loops(logits.dtype), logits, targets, log_sums, grad), None
