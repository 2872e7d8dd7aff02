"""The simplest head: one 1x1 convolution."""

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.core.schema import Channels, Classes
from wavedil.vision.models.heads.parts import Features, last_channels, last_map, score_layer
from wavedil.weights import register


@register
class Conv1x1Head(nn.Module):
    """A 1x1 convolution from features to class scores.

    ``(batch, in_channels, height, width) -> (batch, num_classes, height, width)``.
    """

    receptive_field = 1

    def __init__(self, in_channels: Channels | Sequence[Channels], num_classes: Classes):
        super().__init__()
        self.score = score_layer(last_channels(in_channels), num_classes)

    def forward(self, features: Features) -> Tensor:
        return self.score(last_map(features))
