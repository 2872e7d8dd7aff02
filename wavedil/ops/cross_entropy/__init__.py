"""Cross entropy of logits and class indices, without reduction."""

from torch import Tensor

from wavedil.ops.cross_entropy import cpu
from wavedil.ops.cross_entropy.reference import cross_entropy as reference


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``log(sum(exp(logits))) - logits[target]`` of each row, in nats.

    On the CPU, float32 and bfloat16 logits use one fused numba kernel each for forward and backward; others use plain
    PyTorch.

    Args:
        logits: ``(rows, num_classes)``.
        targets: ``(rows,)``, int64 in [0, num_classes).

    Returns:
        ``(rows,)``, in float32 also for half-precision logits.
    """
    return cpu.CrossEntropy.apply(logits, targets) if cpu.supports(logits, targets) else reference(logits, targets)
