"""The sum of all layers' skips in plain PyTorch: the definition the fast form is tested against."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wavedil.ops.dilated_conv import dilated_conv


def skip_sum(gates: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    joined = torch.cat(list(gates), dim=1)
    ones = (1,) * (joined.ndim - 2)
    none = [(0, 0)] * len(ones)
    return dilated_conv(joined, weight, bias, stride=ones, padding=none, dilation=ones, groups=1)
