"""Cross entropy of logits and class indices, without reduction."""

from torch import Tensor

from wavedil.ops.cross_entropy import cpu, triton
from wavedil.ops.cross_entropy.reference import IGNORED as IGNORED
from wavedil.ops.cross_entropy.reference import cross_entropy as reference


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``log(sum(exp(logits))) - logits[target]`` of each row or position, in nats; 0 where the target is ``IGNORED``.

    On a GPU in eager mode, float32, bfloat16 and float16 logits use one fused Triton kernel each for forward and
    backward, unless they are small. There a target out of range makes the result and its gradient NaN, since checking
    it would wait for the GPU. On the CPU, rows of float32 and bfloat16 logits use numba kernels. Others use plain
    PyTorch.

    Args:
        logits: ``(rows, num_classes)`` or ``(batch, num_classes, time)``.
        targets: ``(rows,)`` or ``(batch, time)``, int64 in [0, num_classes), or ``IGNORED``.

    Returns:
        ``(rows,)`` or ``(batch, time)``, in float32 also for half-precision logits.
    """
    if triton.supports(logits, targets):
        return triton.CrossEntropy.apply(logits, targets)
    return cpu.CrossEntropy.apply(logits, targets) if cpu.supports(logits, targets) else reference(logits, targets)
