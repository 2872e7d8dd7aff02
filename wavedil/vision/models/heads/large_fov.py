"""The head of DeepLab-LargeFOV: one layer with a large dilation in place of fc6 of VGG-16."""

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.core import ConvBlock
from wavedil.core.schema import Channels, Classes, Dilation, Dropout
from wavedil.vision.models.heads.parts import Features, last_channels, last_map, score_layer
from wavedil.weights import register


@register
class LargeFOV(nn.Module):
    """3x3 convolution with a large dilation, 1x1 convolution, scores (Chen et al. 2015, arXiv 1412.7062).

    ``(batch, in_channels, height, width) -> (batch, num_classes, height, width)``.
    """

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        dilation: Dilation = 12,
        hidden_channels: Channels = 1024,
        *,
        dropout: Dropout = 0.5,
    ):
        super().__init__()
        self.fc6 = ConvBlock(2, last_channels(in_channels), hidden_channels, kernel_size=3, dilation=dilation)
        self.fc7 = ConvBlock(2, hidden_channels, hidden_channels, kernel_size=1)
        self.score = score_layer(hidden_channels, num_classes)
        self.dropout = nn.Dropout(dropout)

    @property
    def receptive_field(self) -> int:
        return self.fc6.receptive_field

    def forward(self, features: Features) -> Tensor:
        x = self.dropout(self.fc6(last_map(features)))
        return self.score(self.dropout(self.fc7(x)))
