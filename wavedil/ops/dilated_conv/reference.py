"""Dilated convolution in plain PyTorch: the definition the fast forms are tested against."""

import torch.nn.functional as F
from torch import Tensor


def dilated_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """`F.conv1d`, `F.conv2d` or `F.conv3d` without padding, by the number of axes."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(stride) - 1]
    return convolve(x, weight, bias, stride, 0, dilation, groups)
