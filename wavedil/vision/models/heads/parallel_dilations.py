"""Parallel dilated convolutions, fused without gridding: the block of ESPNet."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from wavedil.core import DilatedConv, Schedule, parse_schedule
from wavedil.core.schema import Channels, Classes
from wavedil.errors import WavedilError
from wavedil.vision.models.heads.parts import BatchNorm, ConvNormReLU, Features, last_channels, last_map, score_layer
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
        self.fuse = nn.Sequential(BatchNorm(channels), nn.ReLU(inplace=True))
        self.score = score_layer(channels, num_classes)

    @property
    def receptive_field(self) -> int:
        return max(branch.receptive_field for branch in self.branches)

    def forward(self, features: Features) -> Tensor:
        x = self.reduce(last_map(features))
        sums = accumulate((branch(x) for branch in self.branches), torch.add)
        return self.score(self.fuse(torch.cat(list(sums), dim=1)))
