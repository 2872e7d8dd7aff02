"""Parallel dilated convolutions: the block of ESPNet, and a sum that merges into one convolution."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from wavedil.core import DilatedConv, MergeableDilations, Schedule, parse_schedule
from wavedil.core.batch_norm import BatchNorm2d
from wavedil.core.schema import Channels, Classes
from wavedil.errors import WavedilError
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, last_channels, last_map, score_layer
from wavedil.weights import register


@register
class ParallelDilations(nn.Module):
    """Pyramid of dilated convolutions with hierarchical fusion (Mehta et al. 2018, arXiv 1803.06815, section 3).

    A 1x1 convolution to channels / K, then K parallel 3x3 convolutions, one per dilation. The output of each branch is
    added to the sum of the branches before it, and the K sums are concatenated. The running sum removes gridding: a
    branch with a large dilation reads nine isolated cells, its sum reads the cells between them as well.

    Args:
        dilations: increasing, one per branch.
        channels: total channels of all branches, a multiple of the number of branches.
    """

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        dilations: Schedule = "1..8",
        channels: Channels = 256,
    ):
        super().__init__()
        dilations = parse_schedule(dilations)
        if channels % len(dilations):
            raise WavedilError(f"channels is {channels}: expected a multiple of the {len(dilations)} branches")
        width = channels // len(dilations)
        self.reduce = ConvNormReLU(2, last_channels(in_channels), width, kernel_size=1)
        self.branches = nn.ModuleList(DilatedConv(2, width, width, 3, dilation=d, bias=False) for d in dilations)
        self.fuse = nn.Sequential(BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.score = score_layer(channels, num_classes)

    @property
    def receptive_field(self) -> int:
        return max(branch.receptive_field for branch in self.branches)

    def forward(self, features: Features) -> Tensor:
        x = self.reduce(last_map(features))
        sums = accumulate((branch(x) for branch in self.branches), torch.add)
        return self.score(self.fuse(torch.cat(list(sums), dim=1)))


@register
class SummedDilations(nn.Module):
    """Pyramid of dilated convolutions whose sum merges into one convolution with few taps.

    A 1x1 convolution to ``channels``, then 3x3 convolutions in parallel, one per dilation, each with batch norm. Their
    sum and a ReLU follow. After training, :func:`wavedil.core.fold_dilations` merges the branches, as the dilated
    reparameterization of UniRepLKNet (Ding et al. 2023, arXiv 2311.15599); the model then saves and loads merged.

    Args:
        dilations: one per branch.
        channels: of each branch.
        merged: create the branches in merged form, e.g. to load merged weights.
    """

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        dilations: Schedule = "1..8",
        channels: Channels = 64,
        merged: bool = False,
    ):
        super().__init__()
        first, *others = parse_schedule(dilations)
        self.reduce = ConvNormReLU(2, last_channels(in_channels), channels, kernel_size=1)
        self.sum = MergeableDilations(
            2, channels, channels, 3, dilation=first, branches=[(3, other) for other in others], merged=merged
        )
        self.score = score_layer(channels, num_classes)

    @property
    def receptive_field(self) -> int:
        return self.sum.receptive_field

    def forward(self, features: Features) -> Tensor:
        return self.score(self.sum(self.reduce(last_map(features))).relu())
