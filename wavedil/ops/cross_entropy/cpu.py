"""The cross entropy as one fused numba kernel each for forward and backward.

Plain PyTorch casts bfloat16 logits to float32, writes all log-probabilities, and in backward fills, subtracts and casts
back. The forward kernel only reads the logits, and the backward kernel only writes gradients.
"""

from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.cross_entropy.reference import cross_entropy as reference
from wavedil.ops.fallback import differentiable_backward, flat_numpy, is_eager_cpu, load_kernels
from wavedil.ops.threads import run_in_threads

_DTYPES = (torch.float32, torch.bfloat16)
_MIN_ELEMENTS = 2048  # with fewer, numba's import is not worth it


@cache
def compiled_kernels(dtype: torch.dtype) -> ModuleType | None:
    """The module of kernels, after a trial for this dtype; None if numba does not work."""

    def trial(kernels: ModuleType) -> None:
        logits, targets = torch.zeros(1, 2, dtype=dtype), torch.zeros(1, dtype=torch.int64)
        nats, log_sums = forward(kernels, logits, targets)
        backward(kernels, logits, targets, log_sums, nats)

    return load_kernels("wavedil.ops.cross_entropy.kernels", trial)


def supports(logits: Tensor, targets: Tensor) -> bool:
    """Whether the kernels support the arguments; checks all targets, since the kernels use them as indices."""
    return (
        is_eager_cpu(logits, targets)
        and logits.dtype in _DTYPES
        and logits.ndim == 2
        and targets.dtype == torch.int64
        and logits.numel() >= _MIN_ELEMENTS
        and logits.is_contiguous()
        and targets.shape == logits.shape[:1]
        and 0 <= int(targets.min())
        and int(targets.max()) < logits.shape[1]
        and compiled_kernels(logits.dtype) is not None
    )


def forward(kernels: ModuleType, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The cross entropy in nats and ``log(sum(exp(logits)))``, ``(rows,)`` each."""
    rows, num_classes = logits.shape
    nats, log_sums = torch.empty(rows), torch.empty(rows)
    arrays = [flat_numpy(t) for t in (logits, targets, nats, log_sums)]
    run_in_threads(partial(kernels.forward, *arrays, num_classes), rows, num_classes)
    return nats, log_sums


def backward(kernels: ModuleType, logits: Tensor, targets: Tensor, log_sums: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the logits from the gradient of the cross entropy."""
    gradient = torch.empty_like(logits)
    rows, num_classes = logits.shape
    arrays = [flat_numpy(t) for t in (logits, targets, log_sums, grad.contiguous(), gradient)]
    run_in_threads(partial(kernels.backward, *arrays, num_classes), rows, num_classes)
    return gradient


class CrossEntropy(torch.autograd.Function):
    """Arguments as in :func:`wavedil.ops.cross_entropy.cross_entropy`."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor) -> Tensor:
        nats, log_sums = forward(compiled_kernels(logits.dtype), logits, targets)
        ctx.save_for_backward(logits, targets, log_sums)
        return nats

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None]:
        logits, targets, log_sums = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = differentiable_backward(ctx, lambda logits: reference(logits, targets), (logits,), (grad,))
            return gradient, None
        return backward(compiled_kernels(logits.dtype), logits, targets, log_sums, grad), None
