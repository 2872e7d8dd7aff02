"""The decoder of a U-Net over any backbone's maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, classifier, level_channels, levels
from wavedil.vision.models.upsample import upsample
from wavedil.weights import register


@register
class UNet(nn.Module):
    """From coarse to fine: enlarge, join with the finer map, two 3x3 convolutions.

    After Ronneberger et al. 2015, arXiv 1505.04597. Reads a list of maps, each once or twice as fine as the next, e.g.
    of a dilated backbone; scores are at the resolution of the first. Odd sizes keep their cells in place (see
    :func:`wavedil.vision.upsample`). The blocks are those of segmentation_models.pytorch's decoder, with bilinear
    enlarging.

    Args:
        in_channels: those of the maps, fine to coarse, two or more.
        channels: of each step, coarse to fine; default 256, halved at each step, at least 32.
    """

    level = 0

    def __init__(self, in_channels: Sequence[int], num_classes: int, channels: Sequence[int] | None = None):
        super().__init__()
        *skips, x = level_channels(in_channels, 2)
        if channels is None:
            channels = [max(256 >> step, 32) for step in range(len(skips))]
        if len(channels) != len(skips):
            raise WavedilError(f"channels are {list(channels)}: expected one for each of {len(skips)} steps")
        self.steps = nn.ModuleList()
        for skip, width in zip(reversed(skips), channels, strict=True):
            self.steps.append(nn.Sequential(ConvNormReLU(2, x + skip, width), ConvNormReLU(2, width, width)))
            x = width
        self.score = classifier(x, num_classes)

    @property
    def receptive_field(self) -> int:
        """Cells of the last map that a score sees, at most (it depends on the place), where all maps halve."""
        field = 1
        for _ in self.steps:
            field = (field + 4) // 2 + 2  # two convolutions; an interpolation by 2 of as many cells
        return field

    def forward(self, features: Features) -> Tensor:
        maps = levels(features, 2)
        if len(maps) != len(self.steps) + 1:
            raise WavedilError(
                f"features are {len(maps)} maps: expected {len(self.steps) + 1}, one for each in_channels"
            )
        *skips, x = maps
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            x = step(torch.cat([upsample(x, skip.shape[2:]), skip], dim=1))
        return self.score(x)
