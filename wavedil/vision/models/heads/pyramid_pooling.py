"""Pyramid pooling: the head of PSPNet."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.schema import Channels, Classes, Dropout, Stride, Taps
from wavedil.errors import WavedilError, shown
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, last_channels, last_map, score_layer
from wavedil.weights import register


class BinMeans(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling. In torch.export as two matrix products, since ONNX has it for fixed sizes only."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            return super().forward(x)
        rows, columns = (self._weights(n, x) for n in x.shape[2:])
        return rows @ x @ columns.t()

    def _weights(self, size: int, like: Tensor) -> Tensor:
        """The share of each position in each bin, ``(bins, size)``."""
        bins = torch.arange(self.output_size, device=like.device)[:, None]
        first, last = bins * size // self.output_size, ((bins + 1) * size + self.output_size - 1) // self.output_size
        position = torch.arange(size, device=like.device)
        inside = ((position >= first) & (position < last)).to(like.dtype)
        return inside / inside.sum(1, keepdim=True)


@register
class PyramidPooling(nn.Module):
    """Means over 1x1, 2x2, 3x3 and 6x6 bins, concatenated with the features (Zhao et al. 2017, arXiv 1612.01105, 3.2).

    ``(batch, in_channels, height, width) -> (batch, num_classes, height, width)``, any size. A batch of one image can
    be trained on.

    Args:
        bins: number of bins along each axis, one branch each, of in_channels / len(bins) channels.
        channels, kernel_size: parameters of the convolution that joins the branches (3x3 in the paper; 1x1 in
            segmentation_models.pytorch).
        align_corners: argument of the interpolation of the bins. False places each bin at the center of the cells it
            averages; segmentation_models.pytorch uses True, so its weights need it.
    """

    receptive_field = None

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        bins: Sequence[Stride] = (1, 2, 3, 6),
        channels: Channels = 512,
        *,
        kernel_size: Taps = 3,
        dropout: Dropout = 0.1,
        align_corners: bool = False,
    ):
        super().__init__()
        inputs = last_channels(in_channels)
        if not bins or inputs < len(bins):
            raise WavedilError(
                f"bins is {shown(bins)}: expected 1 to {inputs} positive integers (the input has {inputs} channels)"
            )
        self.align_corners = align_corners
        width = inputs // len(bins)
        self.branches = nn.ModuleList(
            nn.Sequential(BinMeans(n), *ConvNormReLU(2, inputs, width, kernel_size=1)) for n in bins
        )
        self.join = ConvNormReLU(2, inputs + len(bins) * width, channels, kernel_size=kernel_size)
        self.dropout = nn.Dropout2d(dropout)
        self.score = score_layer(channels, num_classes)

    def forward(self, features: Features) -> Tensor:
        x = last_map(features)
        size = x.shape[2:]
        pooled = [
            F.interpolate(branch(x), size=size, mode="bilinear", align_corners=self.align_corners)
            for branch in self.branches
        ]
        return self.score(self.dropout(self.join(torch.cat([x, *pooled], dim=1))))
