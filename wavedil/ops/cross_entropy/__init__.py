"""Negative log-likelihood of codes under logits."""

from torch import Tensor

from wavedil.ops.cross_entropy import cpu
from wavedil.ops.cross_entropy.reference import cross_entropy as reference


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`log(sum(exp(logits))) - logits[target]` of each row, in nats.

    Shapes: logits `(rows, codes)`, targets `(rows,)` int64 in [0, codes), result `(rows,)`, float32
    also for half-precision logits.

    On the CPU float32 and bfloat16 rows run as one fused loop each way where numba is installed;
    all else runs as plain PyTorch.
    """
    if cpu.supports(logits, targets):
        return cpu.cross_entropy(logits, targets)
    return reference(logits, targets)
