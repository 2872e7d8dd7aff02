"""Atrous spatial pyramid pooling: DeepLab's parallel dilations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from wavedil.core import DilatedConv, Schedule, parse_schedule
from wavedil.vision.models.heads.large_fov import LargeFOV
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, check_classes, classifier, last, last_channels
from wavedil.weights import register


@register
class ASPP(nn.Sequential):
    """DeepLab v3's head (Chen et al. 2017, arXiv 1706.05587, section 3.3).

    A 1x1 convolution, a 3x3 convolution for each rate and the mean of the whole map, joined by a 1x1 convolution; then
    a 3x3 convolution and the scores. The tensors have the names of torchvision's ``DeepLabHead``, whose ``state_dict``
    loads as it is. A batch of one image trains too, where torchvision's head raises.

    Args:
        rates: dilations: (12, 24, 36) for features of stride 8, (6, 12, 18) for stride 16.
        channels: of each branch and of what joins them.
        image_pooling: the branch of the whole map's mean. Without it the receptive field is finite.
    """

    level = -1

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_classes: int,
        rates: Schedule = (12, 24, 36),
        channels: int = 256,
        *,
        image_pooling: bool = True,
        dropout: float = 0.5,
    ):
        pyramid = _Pyramid(last_channels(in_channels), parse_schedule(rates), channels, image_pooling, dropout)
        super().__init__(pyramid, *ConvNormReLU(2, channels, channels), classifier(channels, num_classes))

    @property
    def receptive_field(self) -> int | None:
        """Cells along each axis; None with image pooling."""
        field = self[0].receptive_field
        return None if field is None else field + self[1].receptive_field - 1

    def forward(self, features: Features) -> Tensor:
        return super().forward(last(features))


class _Pyramid(nn.Module):
    def __init__(self, in_channels: int, rates: tuple[int, ...], channels: int, image_pooling: bool, dropout: float):
        super().__init__()
        self.convs = nn.ModuleList([ConvNormReLU(2, in_channels, channels, kernel_size=1)])
        self.convs.extend(ConvNormReLU(2, in_channels, channels, dilation=rate) for rate in rates)
        self.receptive_field = None if image_pooling else max(conv.receptive_field for conv in self.convs)
        if image_pooling:
            self.convs.append(_ImagePooling(in_channels, channels))
        self.project = nn.Sequential(
            *ConvNormReLU(2, len(self.convs) * channels, channels, kernel_size=1), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class _ImagePooling(nn.Sequential):
    def __init__(self, in_channels: int, channels: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), *ConvNormReLU(2, in_channels, channels, kernel_size=1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).expand(-1, -1, *x.shape[2:])


@register
class SummedASPP(nn.Module):
    """DeepLab v2's head (Chen et al. 2016, arXiv 1606.00915, section 3.2): scores of each rate, added.

    Args:
        rates: dilations of the branches.
        hidden_channels: 0 for branches of one 3x3 convolution, as on ResNet-101; 1024 for branches that are a
            :class:`LargeFOV` each, as on VGG-16.
    """

    level = -1

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_classes: int,
        rates: Schedule = (6, 12, 18, 24),
        hidden_channels: int = 0,
        *,
        dropout: float = 0.5,
    ):
        super().__init__()
        inputs = last_channels(in_channels)
        self.branches = nn.ModuleList(
            LargeFOV(inputs, num_classes, rate, hidden_channels, dropout=dropout)
            if hidden_channels
            else DilatedConv(2, inputs, check_classes(num_classes), 3, dilation=rate)
            for rate in parse_schedule(rates)
        )

    @property
    def receptive_field(self) -> int:
        return max(branch.receptive_field for branch in self.branches)

    def forward(self, features: Features) -> Tensor:
        x = last(features)
        return reduce(torch.add, (branch(x) for branch in self.branches))
