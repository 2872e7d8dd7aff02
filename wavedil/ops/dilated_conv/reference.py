"""Dilated convolution in plain PyTorch: the definition for tests."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def dilated_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    padding: Sequence[int] | int = 0,
) -> Tensor:
    """``F.conv1d``, ``F.conv2d`` or ``F.conv3d`` by the number of axes; ``padding`` is the same on both sides."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(stride) - 1]
    return convolve(x, weight, bias, stride, padding, dilation, groups)
