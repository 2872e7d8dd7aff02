"""Dilated convolution, and convolution with taps at any offsets, in plain PyTorch: the definitions for tests."""

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


def tap_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Sequence[Sequence[int]],
    stride: tuple[int, ...],
    groups: int,
) -> Tensor:
    """The sum over taps of a 1x1 convolution of x, shifted by the tap's offset, one integer of at least 0 per axis.

    ``weight`` is ``(out_channels, in_channels / groups, taps)``.
    """
    reach = [max(places) for places in zip(*offsets, strict=True)]
    ones = (1,) * len(stride)
    total = None
    for tap, offset in enumerate(offsets):
        # The end counts from the end of x, so that sizes may be symbols.
        rows = [slice(at, (at - last) or None, s) for at, last, s in zip(offset, reach, stride, strict=True)]
        matrix = weight[:, :, tap].reshape(*weight.shape[:2], *ones)
        part = dilated_conv(x[(..., *rows)], matrix, bias if tap == 0 else None, ones, ones, groups)
        total = part if total is None else total + part
    return total
