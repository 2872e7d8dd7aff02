"""Atrous spatial pyramid pooling (ASPP): the heads of DeepLab v3 and v2."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from wavedil.core import DilatedConv, Schedule, parse_schedule
from wavedil.core.schema import Channels, Classes, Dropout, OptionalChannels
from wavedil.vision.models.heads.large_fov import LargeFOV
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, last_channels, last_map, score_layer
from wavedil.weights import register


@register
class ASPP(nn.Sequential):
    """The head of DeepLab v3 (Chen et al. 2017, arXiv 1706.05587, section 3.3).

    A 1x1 convolution, one 3x3 convolution per dilation and image pooling in parallel, joined by a 1x1 convolution; then
    a 3x3 convolution and the 1x1 convolution to scores. Tensor names are those of torchvision's ``DeepLabHead``: its
    ``state_dict`` loads without changes. A batch of one image can be trained on, where torchvision's head raises.

    Args:
        dilations: dilations of the 3x3 branches: (12, 24, 36) for features of stride 8, (6, 12, 18) for stride 16.
        channels: channels of each branch and of the layers after them.
        image_pooling: adds the branch with the mean of the feature map. Without it the receptive field is finite.
    """

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        dilations: Schedule = (12, 24, 36),
        channels: Channels = 256,
        *,
        image_pooling: bool = True,
        dropout: Dropout = 0.5,
    ):
        pyramid = _Pyramid(last_channels(in_channels), parse_schedule(dilations), channels, image_pooling, dropout)
        super().__init__(pyramid, *ConvNormReLU(2, channels, channels), score_layer(channels, num_classes))

    @property
    def receptive_field(self) -> int | None:
        """Cells along each axis; None with image pooling."""
        field = self[0].receptive_field
        return None if field is None else field + self[1].receptive_field - 1

    def forward(self, features: Features) -> Tensor:
        return super().forward(last_map(features))


class _Pyramid(nn.Module):
    """The parallel branches and the 1x1 convolution that joins them."""

    def __init__(self, in_channels: int, dilations: Sequence[int], channels: int, image_pooling: bool, dropout: float):
        super().__init__()
        self.convs = nn.ModuleList([ConvNormReLU(2, in_channels, channels, kernel_size=1)])
        self.convs.extend(ConvNormReLU(2, in_channels, channels, dilation=dilation) for dilation in dilations)
        self.receptive_field = None if image_pooling else max(conv.receptive_field for conv in self.convs)
        if image_pooling:
            self.convs.append(_ImagePooling(in_channels, channels))
        self.project = nn.Sequential(
            *ConvNormReLU(2, len(self.convs) * channels, channels, kernel_size=1), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class _ImagePooling(nn.Sequential):
    """Mean over the feature map, 1x1 convolution, and broadcast to the size of the map."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), *ConvNormReLU(2, in_channels, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).expand(-1, -1, *x.shape[2:])


@register
class SummedASPP(nn.Module):
    """The head of DeepLab v2: the sum of one score map per dilation (Chen et al. 2016, arXiv 1606.00915, section 3.2).

    Args:
        dilations: one branch each.
        hidden_channels: 0 for branches of one 3x3 convolution, as on ResNet-101; 1024 for branches that are a
            :class:`LargeFOV` each, as on VGG-16.
    """

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        dilations: Schedule = (6, 12, 18, 24),
        hidden_channels: OptionalChannels = 0,
        *,
        dropout: Dropout = 0.5,
    ):
        super().__init__()
        channels = last_channels(in_channels)
        self.branches = nn.ModuleList(
            LargeFOV(channels, num_classes, dilation, hidden_channels, dropout=dropout)
            if hidden_channels
            else DilatedConv(2, channels, num_classes, 3, dilation=dilation)
            for dilation in parse_schedule(dilations)
        )

    @property
    def receptive_field(self) -> int:
        return max(branch.receptive_field for branch in self.branches)

    def forward(self, features: Features) -> Tensor:
        x = last_map(features)
        return reduce(torch.add, (branch(x) for branch in self.branches))
