"""The head of FCN without skips, as torchvision has it; usual as an auxiliary head."""

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.core.schema import Channels, Classes, Dropout
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, last_channels, last_map, score_layer
from wavedil.weights import register


@register
class FCNHead(nn.Module):
    """3x3 convolution with batch norm and ReLU, dropout, scores: the auxiliary head of PSPNet and torchvision.

    ``(batch, in_channels, height, width) -> (batch, num_classes, height, width)``.

    Args:
        channels: of the convolution; default a quarter of the input's, as in torchvision.
    """

    receptive_field = 3

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        channels: Channels | None = None,
        *,
        dropout: Dropout = 0.1,
    ):
        super().__init__()
        inputs = last_channels(in_channels)
        width = max(inputs // 4, 1) if channels is None else channels
        self.conv = ConvNormReLU(2, inputs, width)
        self.dropout = nn.Dropout(dropout)
        self.score = score_layer(width, num_classes)

    def forward(self, features: Features) -> Tensor:
        return self.score(self.dropout(self.conv(last_map(features))))
