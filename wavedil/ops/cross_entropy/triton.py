"""The cross entropy on a GPU as one Triton kernel each for forward and backward.

Plain PyTorch casts half-precision logits to float32, writes all log-probabilities, and casts the gradient back. The
forward kernel only reads the logits, and the backward kernel only writes gradients.
"""

from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.cross_entropy.reference import IGNORED
from wavedil.ops.cross_entropy.reference import cross_entropy as reference
from wavedil.ops.fallback import differentiable_backward, load_kernels
from wavedil.ops.launch import can_launch, launch, memory_order, power_of_2

_BLOCK = 8192  # elements that a program holds in registers, 32 per thread
_MAX_CLASSES = 256  # at a time


@cache
def compiled_kernels(dtype: torch.dtype, device: torch.device) -> ModuleType | None:
    """The module of kernels, after a trial for this dtype and device; None if Triton does not work."""

    def trial(kernels: ModuleType) -> None:
        logits = torch.zeros(1, 2, 3, dtype=dtype, device=device)
        targets = torch.zeros(1, 3, dtype=torch.int64, device=device)
        nats, *sums = forward(kernels, logits, targets)
        backward(kernels, logits, targets, *sums, nats)

    return load_kernels("wavedil.ops.cross_entropy.triton_kernels", trial)


def supports(logits: Tensor, targets: Tensor) -> bool:
    """Whether the kernels support the arguments."""
    return (
        can_launch(logits, targets)
        and logits.ndim in (2, 3)
        and targets.dtype == torch.int64
        and targets.shape == logits.shape[:1] + logits.shape[2:]
        and compiled_kernels(logits.dtype, logits.device) is not None
    )


def _layout(logits: Tensor) -> tuple[Tensor, dict[str, int | bool], int]:
    """Contiguous logits, the constants of the kernels, and the number of programs."""
    data, is_channels_last = (logits.contiguous(), True) if logits.ndim == 2 else memory_order(logits)
    num_classes = logits.shape[1]
    positions = logits.numel() // num_classes
    block_k = min(power_of_2(num_classes), _MAX_CLASSES)
    block_n = min(power_of_2(positions), _BLOCK // block_k, 256)
    blocks = {"CHANNELS_LAST": is_channels_last, "BLOCK_K": block_k, "BLOCK_N": block_n}
    constants = {"NUM_CLASSES": num_classes, "IGNORED": IGNORED, **blocks}
    return data, constants, -(-positions // block_n)


def forward(kernels: ModuleType, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cross entropy in nats, and two parts of ``log(sum(exp(logits)))``; all have the shape of the targets."""
    results = [torch.empty(targets.shape, dtype=torch.float32, device=logits.device) for _ in range(3)]
    data, constants, programs = _layout(logits)
    sizes = targets.numel(), targets.shape[-1]
    arguments = data, targets.contiguous(), *results, *sizes
    launch(kernels.forward, programs, logits.device, *arguments, num_warps=8, **constants)
    return tuple(results)


def backward(
    kernels: ModuleType, logits: Tensor, targets: Tensor, highest: Tensor, log_sums: Tensor, grad: Tensor
) -> Tensor:
    """The gradient of the logits from that of the cross entropy, in the memory layout of the logits."""
    data, constants, programs = _layout(logits)
    gradient = torch.empty_like(data)
    sizes = targets.numel(), targets.shape[-1]
    arguments = data, targets.contiguous(), highest, log_sums, grad.contiguous(), gradient, *sizes
    launch(kernels.backward, programs, logits.device, *arguments, num_warps=8, **constants)
    return gradient.movedim(-1, 1) if constants["CHANNELS_LAST"] else gradient


class CrossEntropy(torch.autograd.Function):
    """Arguments as in :func:`wavedil.ops.cross_entropy.cross_entropy`."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor) -> Tensor:
        nats, *sums = forward(compiled_kernels(logits.dtype, logits.device), logits, targets)
        ctx.save_for_backward(logits, targets, *sums)
        return nats

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, None]:
        logits, targets, *sums = ctx.saved_tensors
        if torch.is_grad_enabled():
            (gradient,) = differentiable_backward(ctx, lambda logits: reference(logits, targets), (logits,), (grad,))
            return gradient, None
        kernels = compiled_kernels(logits.dtype, logits.device)
        return backward(kernels, logits, targets, *sums, grad), None
