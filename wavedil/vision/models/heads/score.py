"""The least head: a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.vision.models.heads.parts import Features, classifier, last, last_channels
from wavedil.weights import register


@register
class Conv1x1Head(nn.Module):
    """Each cell's class from its own features: what every other head has to beat.

    ``(batch, in_channels, height, width) -> (batch, num_classes, height, width)``.
    """

    level = -1
    receptive_field = 1

    def __init__(self, in_channels: int | Sequence[int], num_classes: int):
        super().__init__()
        self.score = classifier(last_channels(in_channels), num_classes)

    def forward(self, features: Features) -> Tensor:
        return self.score(last(features))
