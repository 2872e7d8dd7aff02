"""Degridding layers: convolutions of decreasing dilation that remove the gridding of a dilated backbone."""

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.core import DilatedStack, Schedule, parse_schedule
from wavedil.core.schema import Channels, Classes
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, last_channels, last_map, score_layer
from wavedil.weights import register


@register
class Degridding(nn.Module):
    """Levels 7 and 8 of a dilated residual network, and the scores (Yu et al. 2017, arXiv 1705.09914, section 4).

    3x3 convolutions with batch norm and ReLU. There are no residual connections, since they would pass the grid on.

    Args:
        dilations: decreasing to 1. ``"2,1"`` is DRN-D, for a backbone that ends at dilation 4; ``"2,2,1,1"`` is DRN-C,
            which has blocks of two layers.
        channels: channels of each layer.
    """

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        dilations: Schedule = "2,1",
        channels: Channels = 512,
    ):
        super().__init__()
        dilations = parse_schedule(dilations)
        widths = [last_channels(in_channels), *[channels] * len(dilations)]
        self.stack = DilatedStack(2, widths, dilations, kernel_size=3, block=ConvNormReLU)
        self.score = score_layer(channels, num_classes)

    @property
    def receptive_field(self) -> int:
        return self.stack.receptive_field

    def forward(self, features: Features) -> Tensor:
        return self.score(self.stack(last_map(features)))
