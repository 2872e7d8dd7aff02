"""Backbones that need no training before: a small one, and the image itself; others are classifiers made dense."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core import ConvBlock, DilatedConv
from wavedil.core.block import field_of
from wavedil.errors import WavedilError
from wavedil.weights import register


@register
class SmallBackbone(nn.Module):
    """3x3 convolutions with batch normalization: ``(batch, 3, h, w) -> (batch, channels, h / stride, w / stride)``.

    For each halving a convolution of stride 2 and one of stride 1, the width doubling up to ``channels``.

    Args:
        channels: of the features; must divide by ``output_stride``.
        output_stride: pixels of the image per feature: 1, 2, 4, 8 …
    """

    def __init__(self, channels: int = 48, output_stride: int = 4):
        super().__init__()
        if output_stride < 1 or output_stride & (output_stride - 1):
            raise WavedilError(f"output_stride is {output_stride}: expected a power of two")
        if channels < output_stride or channels % output_stride:
            raise WavedilError(f"channels is {channels}: expected a multiple of output_stride {output_stride}")
        self.channels, self.output_stride = channels, output_stride
        self.align = "corner"  # kernels of 3 pixels, so cell i is centered on pixel i * stride
        width = channels // output_stride
        blocks: list[nn.Module] = [_block(3, width)]
        for _ in range(output_stride.bit_length() - 1):
            blocks += [_Halving(width, 2 * width), _block(2 * width, 2 * width)]
            width *= 2
        self.blocks = nn.Sequential(*blocks)

    @property
    def receptive_field(self) -> int:
        """Pixels of the image that a feature sees, along each axis."""
        field, stride = 1, 1
        for block in self.blocks:
            field += (field_of([block], 2) - 1) * stride
            stride *= block.stride if isinstance(block, _Halving) else 1
        return field

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks(image)


@register
class PixelUnshuffle(nn.Module):
    """The image itself, a patch a cell: ``(batch, 3, h, w) -> (batch, 3 s^2, h / s, w / s)``. Nothing is learned here.

    No cell sees a pixel of another, so all that is known of a cell's neighbors comes from the layers above.

    Args:
        output_stride: s, pixels along the side of a patch.
    """

    def __init__(self, output_stride: int = 2):
        super().__init__()
        if output_stride < 1:
            raise WavedilError(f"output_stride is {output_stride}: expected pixels along a patch's side, at least 1")
        self.channels, self.output_stride = 3 * output_stride**2, output_stride
        self.receptive_field = output_stride

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, self.output_stride)


def _block(channels: int, out_channels: int) -> ConvBlock:
    return ConvBlock(2, channels, out_channels, activation=partial(_normalized, out_channels), bias=False)


def _normalized(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class _Halving(nn.Module):
    """A block of stride 2."""

    stride = 2

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv = DilatedConv(2, channels, out_channels, 3, stride=self.stride, bias=False)
        self.activation = _normalized(out_channels)

    @property
    def receptive_field(self) -> int:
        return self.conv.receptive_field

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))
