"""The decoder of U-Net, over the feature maps of any backbone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavedil.core.schema import Channels, Classes
from wavedil.errors import WavedilError
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, check_channels, check_maps, score_layer
from wavedil.vision.models.upsample import upsample
from wavedil.weights import register


@register
class UNet(nn.Module):
    """From coarse to fine: upsample, concatenate with the next finer map, two 3x3 convolutions.

    After Ronneberger et al. 2015, arXiv 1505.04597. Reads a list of feature maps, each with the resolution of the next
    (dilated backbones) or twice that resolution. Scores have the resolution of the first map. Odd sizes stay aligned,
    see :func:`wavedil.vision.upsample`. The blocks are those of the decoder of segmentation_models.pytorch, with
    bilinear upsampling.

    Args:
        in_channels: channels of two or more feature maps, from fine to coarse.
        channels: channels of each step, from coarse to fine; default 256, halved at each step, at least 32.
    """

    def __init__(
        self, in_channels: Sequence[Channels], num_classes: Classes, channels: Sequence[Channels] | None = None
    ):
        super().__init__()
        *skips, x = check_channels(in_channels, 2)
        if channels is None:
            channels = [max(256 >> step, 32) for step in range(len(skips))]
        if len(channels) != len(skips):
            raise WavedilError(f"channels is {list(channels)}: expected one number for each of {len(skips)} steps")
        self.steps = nn.ModuleList()
        for skip, width in zip(reversed(skips), channels, strict=True):
            self.steps.append(nn.Sequential(ConvNormReLU(2, x + skip, width), ConvNormReLU(2, width, width)))
            x = width
        self.score = score_layer(x, num_classes)

    @property
    def receptive_field(self) -> int:
        """Largest receptive field of a score on the last map, in cells, if each map is twice as fine as the next.

        It depends on the position.
        """
        field = 1
        for _ in self.steps:
            field = (field + 4) // 2 + 2  # two 3x3 convolutions, then interpolation by 2
        return field

    def forward(self, features: Features) -> Tensor:
        maps = check_maps(features, 2)
        if len(maps) != len(self.steps) + 1:
            raise WavedilError(f"features is a list of {len(maps)} feature maps: expected {len(self.steps) + 1}")
        *skips, x = maps
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            x = step(torch.cat([upsample(x, skip.shape[2:]), skip], dim=1))
        return self.score(x)
