"""Shared parts of heads: convolution with batch norm and ReLU, the final 1x1 convolution, and input selection."""

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.core import DilatedConv
from wavedil.core.batch_norm import BatchNorm2d
from wavedil.core.padded_conv import paddings
from wavedil.core.receptive_field import PerAxis
from wavedil.core.schema import Dimensions, Width, checked
from wavedil.errors import WavedilError

#: One feature map ``(batch, channels, height, width)``, or several from fine to coarse.
Features = Tensor | Sequence[Tensor]


class ConvNormReLU(nn.Sequential):
    """Same-size dilated convolution without bias, batch norm and ReLU; a block for :class:`wavedil.DilatedStack`.

    ``(batch, channels, height, width) -> (batch, out_channels, height, width)``.
    """

    @checked
    def __init__(
        self,
        ndim: Dimensions,
        channels: Width,
        out_channels: Width,
        *,
        kernel_size: PerAxis = 3,
        dilation: PerAxis = 1,
        causal: bool | Sequence[bool] = False,
    ):
        if ndim != 2:
            raise WavedilError(f"ndim is {ndim}: ConvNormReLU expects feature maps with 2 space axes")
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
            BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        return self[0].receptive_field


def score_layer(channels: int, num_classes: int) -> DilatedConv:
    """The 1x1 convolution from features to class scores at the end of a head."""
    return DilatedConv(2, channels, num_classes, 1)


def last_map(features: Features) -> Tensor:
    """The feature map that single-map heads read: the only one, or the last of a list."""
    return features if isinstance(features, Tensor) else check_maps(features, 1)[-1]


def last_channels(in_channels: int | Sequence[int]) -> int:
    """Channels of :func:`last_map`."""
    return in_channels if isinstance(in_channels, int) else check_channels(in_channels, 1)[-1]


def check_maps(features: Features, minimum: int) -> list[Tensor]:
    """The feature maps as a list of at least ``minimum``; raises WavedilError otherwise."""
    if isinstance(features, Tensor) or len(features) < minimum:
        found = "a single feature map" if isinstance(features, Tensor) else f"a list of {len(features)} feature maps"
        raise WavedilError(f"features is {found}: expected a list of at least {minimum}, from fine to coarse")
    return list(features)


def check_channels(in_channels: int | Sequence[int], minimum: int) -> list[int]:
    """The channels of each feature map as a list of at least ``minimum``; raises WavedilError otherwise."""
    if isinstance(in_channels, int) or len(in_channels) < minimum:
        raise WavedilError(
            f"in_channels is {in_channels!r}: expected a list of at least {minimum}, from fine to coarse; use a "
            "backbone that returns several feature maps (argument levels)"
        )
    return list(in_channels)
