"""Layers of falling dilation that take out the grid a dilated backbone leaves."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.core import DilatedStack, Schedule, parse_schedule
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, classifier, last, last_channels
from wavedil.weights import register


@register
class Degridding(nn.Module):
    """Levels 7 and 8 of a dilated residual network (Yu et al. 2017, arXiv 1705.09914, section 4), then the scores.

    3x3 convolutions with batch norm and ReLU, without residual connections, which would carry the grid past them.

    Args:
        dilations: falling to 1. ``"2,1"`` is DRN-D's, for a backbone that ends at dilation 4; DRN-C's blocks of two
            layers are ``"2,2,1,1"``.
        channels: of each layer.
    """

    level = -1

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_classes: int,
        dilations: Schedule = "2,1",
        channels: int = 512,
    ):
        super().__init__()
        rates = parse_schedule(dilations)
        widths = [last_channels(in_channels), *[channels] * len(rates)]
        self.stack = DilatedStack(2, widths, rates, kernel_size=3, block=ConvNormReLU)
        self.score = classifier(channels, num_classes)

    @property
    def receptive_field(self) -> int:
        return self.stack.receptive_field

    def forward(self, features: Features) -> Tensor:
        return self.score(self.stack(last(features)))
