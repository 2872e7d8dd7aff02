"""Parallel dilations, fused without a grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from wavedil.core import DilatedConv, Schedule, parse_schedule
from wavedil.errors import WavedilError
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, Norm, classifier, last, last_channels
from wavedil.weights import register


@register
class ParallelDilations(nn.Module):
    """ESPNet's pyramid of dilations with hierarchical fusion (Mehta et al. 2018, arXiv 1803.06815, section 3).

    A 1x1 convolution to channels / K, K parallel 3x3 convolutions on it, one per dilation, each added to the sum of
    those before it, and the K sums side by side. The running sum is what mends gridding: a wide branch alone sees nine
    single cells, its sum sees the cells between as well.

    Args:
        dilations: rising, one per branch.
        channels: of all branches together, a multiple of their number.
    """

    level = -1

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_classes: int,
        dilations: Schedule = "1..8",
        channels: int = 256,
    ):
        super().__init__()
        rates = parse_schedule(dilations)
        if channels % len(rates):
            raise WavedilError(f"channels is {channels}: expected a multiple of the {len(rates)} branches")
        width = channels // len(rates)
        self.reduce = ConvNormReLU(2, last_channels(in_channels), width, kernel_size=1)
        self.branches = nn.ModuleList(DilatedConv(2, width, width, 3, dilation=rate, bias=False) for rate in rates)
        self.fuse = nn.Sequential(Norm(channels), nn.ReLU(inplace=True))
        self.score = classifier(channels, num_classes)

    @property
    def receptive_field(self) -> int:
        return max(branch.receptive_field for branch in self.branches)

    def forward(self, features: Features) -> Tensor:
        x = self.reduce(last(features))
        sums = accumulate((branch(x) for branch in self.branches), torch.add)
        return self.score(self.fuse(torch.cat(list(sums), dim=1)))
