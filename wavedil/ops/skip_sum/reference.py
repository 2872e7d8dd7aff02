"""The sum of the skip projections in plain PyTorch: the definition for tests."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wavedil.ops.dilated_conv import dilated_conv


def skip_sum(gates: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """Arguments as in :func:`wavedil.ops.skip_sum.skip_sum`."""
    joined = torch.cat(list(gates), dim=1)
    ones = (1,) * (joined.ndim - 2)
    no_padding = [(0, 0)] * len(ones)
    return dilated_conv(joined, weight, bias, stride=ones, padding=no_padding, dilation=ones, groups=1)
