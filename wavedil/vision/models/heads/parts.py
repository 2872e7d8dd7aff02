"""What heads are made of: convolution with batch norm, the last layer, and the map that a head reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core import DilatedConv
from wavedil.core.conv import PerAxis, paddings
from wavedil.errors import WavedilError

#: One map ``(batch, channels, height, width)``, or several from fine to coarse.
Features = Tensor | Sequence[Tensor]


class Norm(nn.BatchNorm2d):
    """Batch norm that, in training too, uses its running statistics where a channel has one value.

    A single image behind image pooling is such a case: it has no deviation to divide by, and torch refuses it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class ConvNormReLU(nn.Sequential):
    """Dilated convolution to the same size without bias, batch norm, ReLU; a block for :class:`wavedil.DilatedStack`.

    ``(batch, channels, height, width) -> (batch, out_channels, height, width)``.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        out_channels: int,
        *,
        kernel_size: PerAxis = 3,
        dilation: PerAxis = 1,
        causal: bool | Sequence[bool] = False,
    ):
        if ndim != 2:
            raise WavedilError(f"ndim is {ndim}: ConvNormReLU normalizes maps of 2 space axes")
        super().__init__(
            DilatedConv(
                ndim,
                channels,
                out_channels,
                kernel_size,
                dilation=dilation,
                padding=paddings(ndim, causal=causal),
                bias=False,
            ),
            Norm(out_channels),
            nn.ReLU(inplace=True),
        )

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        return self[0].receptive_field


def classifier(channels: int, num_classes: int) -> DilatedConv:
    """The 1x1 convolution that ends a head."""
    return DilatedConv(2, channels, check_classes(num_classes), 1)


def check_classes(num_classes: int) -> int:
    if not isinstance(num_classes, int) or num_classes < 1:
        raise WavedilError(f"num_classes is {num_classes!r}: expected a positive integer")
    return num_classes


def last(features: Features) -> Tensor:
    """The map that a head of one map reads."""
    return features if isinstance(features, Tensor) else levels(features, 1)[-1]


def last_channels(in_channels: int | Sequence[int]) -> int:
    return in_channels if isinstance(in_channels, int) else level_channels(in_channels, 1)[-1]


def levels(features: Features, least: int) -> list[Tensor]:
    """The maps of a head that reads several."""
    if isinstance(features, Tensor) or len(features) < least:
        got = "one map" if isinstance(features, Tensor) else f"{len(features)} maps"
        raise WavedilError(f"features are {got}: expected a list of {least} or more, from fine to coarse")
    return list(features)


def level_channels(in_channels: int | Sequence[int], least: int) -> list[int]:
    if isinstance(in_channels, int) or len(in_channels) < least:
        raise WavedilError(
            f"in_channels is {in_channels!r}: expected those of {least} or more maps, from fine to coarse, as a "
            "backbone with levels gives them"
        )
    return list(in_channels)
