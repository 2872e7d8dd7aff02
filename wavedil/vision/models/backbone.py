"""Small backbones without pretrained weights. :mod:`wavedil.vision.dense` converts image classifiers to backbones."""

from functools import partial
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core import ConvBlock, DilatedConv
from wavedil.core.block import sequential_receptive_field
from wavedil.core.schema import Channels, Range, Stride
from wavedil.errors import WavedilError
from wavedil.weights import register

PatchSize = Annotated[int, Range(1, 2**7)]  # 49152 channels


@register
class SmallBackbone(nn.Module):
    """3x3 convolutions with batch norm: ``(batch, in_channels, h, w) -> (batch, channels, h / stride, w / stride)``.

    Each downsampling by 2 is a convolution of stride 2 and one of stride 1; the width doubles up to ``channels``.

    Args:
        channels: channels of the features; a multiple of ``output_stride``.
        output_stride: stride of the features in pixels, a power of two.
        in_channels: bands of the images: 3 for RGB, 1 for gray, 4 for RGB and a fourth band.
        levels: return a list with the feature map of each stride from 1 to ``output_stride``, from fine to coarse, for
            heads such as U-Net.
    """

    def __init__(
        self,
        channels: Channels = 48,
        output_stride: Stride = 4,
        in_channels: Channels = 3,
        levels: bool = False,
    ):
        super().__init__()
        if output_stride & (output_stride - 1):
            raise WavedilError(f"output_stride is {output_stride}: expected a power of two")
        if channels < output_stride or channels % output_stride:
            raise WavedilError(f"channels is {channels}: expected a multiple of output_stride {output_stride}")
        self.channels, self.output_stride, self.in_channels = channels, output_stride, in_channels
        self.align = "corner"  # odd kernels: cell i is centered on pixel i * stride
        width = channels // output_stride
        blocks: list[nn.Module] = [_conv_block(in_channels, width)]
        for _ in range(output_stride.bit_length() - 1):
            blocks += [_DownsamplingBlock(width, 2 * width), _conv_block(2 * width, 2 * width)]
            width *= 2
        steps = range(output_stride.bit_length())
        self.level_channels = [channels // output_stride << step for step in steps] if levels else None
        self.blocks = nn.Sequential(*blocks)

    @property
    def receptive_field(self) -> int:
        """Pixels along each axis."""
        field, stride = 1, 1
        for block in self.blocks:
            field += (sequential_receptive_field([block], 2) - 1) * stride
            stride *= block.stride if isinstance(block, _DownsamplingBlock) else 1
        return field

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        if self.level_channels is None:
            return self.blocks(image)
        maps = []
        for block in self.blocks:
            if isinstance(block, _DownsamplingBlock):
                maps.append(image)
            image = block(image)
        return [*maps, image]


@register
class PixelUnshuffle(nn.Module):
    """Rearranges image patches to channels, without weights: ``(batch, c, h, w) -> (batch, c s^2, h / s, w / s)``.

    Patches do not overlap, so only the layers after the backbone combine neighboring cells.

    Args:
        output_stride: s, the side of a patch in pixels.
        in_channels: c, the bands of the images.
    """

    def __init__(self, output_stride: PatchSize = 2, in_channels: Annotated[int, Range(1, 2**7)] = 3):
        super().__init__()
        self.channels, self.output_stride = in_channels * output_stride**2, output_stride
        self.in_channels = in_channels
        self.receptive_field = output_stride

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, self.output_stride)


class _DownsamplingBlock(nn.Module):
    """3x3 convolution of stride 2, batch norm, ReLU."""

    stride = 2

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.conv = DilatedConv(2, channels, out_channels, 3, stride=self.stride, bias=False)
        self.activation = _norm_relu(out_channels)

    @property
    def receptive_field(self) -> int:
        return self.conv.receptive_field

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))


def _conv_block(channels: int, out_channels: int) -> ConvBlock:
    """3x3 convolution, batch norm, ReLU."""
    return ConvBlock(2, channels, out_channels, activation=partial(_norm_relu, out_channels), bias=False)


def _norm_relu(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
