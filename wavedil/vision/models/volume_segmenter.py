"""Semantic segmentation of volumes: a stack of the core at full resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.core import ConvBlock, DilatedConv, DilatedStack, Schedule
from wavedil.core.receptive_field import PerAxis, per_axis
from wavedil.core.schema import Channels
from wavedil.errors import WavedilError, count_text, with_article
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.models.predictor import Mean, Std
from wavedil.vision.models.segmenter import LabelCount
from wavedil.weights import register

DILATIONS = ((1, 1, 1), (1, 2, 2), (2, 4, 4), (1, 1, 1))


@register
class VolumeSegmenter(nn.Module):
    """Segmentation network of volumes.

    ``(batch, in_channels, depth, height, width) -> (batch, num_classes, depth, height, width)``. The normalized volume
    passes 3x3x3 convolutions with batch norm and ReLU, one for each dilation and all at full resolution, and a 1x1x1
    convolution. Volumes can have any size.

    Args:
        num_classes: number of classes.
        in_channels: channels of the volumes, e.g. 2 for two sequences of one scan.
        channels: width of the layers.
        dilations: a schedule, or a list in which a layer has one integer per axis (depth, height, width), e.g. smaller
            ones along the depth if voxels are deeper than wide.
        classes: class names; default ``"0"``, ``"1"``, ...
        normalization: from volumes ``(batch, channels, *space)`` to normalized ones of the same shape, e.g.
            :class:`wavedil.vision.NormalizeIntensity`; None: (volume - mean) / std.
        mean, std: mean and standard deviation of each channel, without ``normalization``.

    Raises:
        WavedilError: names, means or deviations of another number than classes or channels, or besides a normalization.
    """

    title = "a VolumeSegmenter"

    def __init__(
        self,
        num_classes: LabelCount,
        in_channels: Channels = 1,
        channels: Channels = 16,
        dilations: Schedule | Sequence[PerAxis] = DILATIONS,
        *,
        classes: Sequence[str] | None = None,
        normalization: nn.Module | None = None,
        mean: Mean | None = None,
        std: Std | None = None,
    ):
        super().__init__()
        names = [str(label) for label in range(num_classes)] if classes is None else classes
        if len(names) != num_classes:
            raise WavedilError(
                f"classes has {count_text(len(names), 'name')}: expected one for each of {num_classes} classes"
            )
        if normalization is not None and (mean is not None or std is not None):
            raise WavedilError(
                f"mean and std are set, and normalization is {with_article(normalization)}: leave them out"
            )
        self.normalization = normalization
        mean, std = mean or [0.0] * in_channels, std or [1.0] * in_channels
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != in_channels:
                raise WavedilError(
                    f"{name} has {count_text(len(values), 'number')}: expected one for each of {in_channels} channels"
                )
        self.num_classes, self.in_channels, self.label_scheme = num_classes, in_channels, LabelScheme(names)
        layer = partial(ConvBlock, activation=partial(_norm_relu, channels), bias=False)
        self.first = layer(3, in_channels, channels)
        self.stack = DilatedStack(3, channels, dilations, 3, block=layer)
        self.final = DilatedConv(3, channels, num_classes, 1)
        # Not persistent: both are in config.json already.
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1), persistent=False)

    @property
    def classes(self) -> Sequence[str]:
        """Class names."""
        return self.label_scheme.classes

    @property
    def receptive_field(self) -> tuple[int, int, int]:
        """Voxels along (depth, height, width)."""
        return tuple(2 + field for field in per_axis("receptive_field", self.stack.receptive_field, 3))

    @staticmethod
    def inspection() -> tuple[Callable[[VolumeSegmenter], dict[str, Any]], Callable[[dict[str, Any]], str]]:
        """The functions behind ``wavedil inspect``: numbers of a model, and their text."""
        from wavedil.vision.inspection import inspect_volume_segmenter, render_volume_segmenter

        return inspect_volume_segmenter, render_volume_segmenter

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.vision.volume_evaluation import evaluate_volumes

        return evaluate_volumes

    @staticmethod
    def prediction() -> Callable[..., Any]:
        """The function behind ``wavedil segment``."""
        from wavedil.vision.volume_prediction import write_volume_predictions

        return write_volume_predictions

    def forward(self, volume: Tensor) -> Tensor:
        if volume.ndim != 5 or volume.shape[1] != self.in_channels or not volume.is_floating_point():
            raise WavedilError(
                f"volume is {volume.dtype} of shape {tuple(volume.shape)}: expected floats of shape (batch, "
                f"{self.in_channels}, depth, height, width)"
            )
        return self.scores(self.normalize(volume))

    def normalize(self, volume: Tensor) -> Tensor:
        """Normalized volumes, which have to be complete: parts of a volume may have other statistics."""
        if self.normalization is None:
            return _standardize(volume, self.mean, self.std)
        return self.normalization(volume)

    def scores(self, normalized: Tensor) -> Tensor:
        """Class scores of normalized volumes, or of parts of them."""
        return self.final(self.stack(self.first(normalized)))


def normalizer(
    normalization: nn.Module | None = None, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> Callable[[Tensor], Tensor]:
    """:meth:`VolumeSegmenter.normalize` of a network with these arguments."""
    if normalization is not None:
        return normalization
    views = {name: torch.tensor(values).view(-1, 1, 1, 1) for name, values in (("mean", mean), ("std", std))}
    return partial(_standardize, **views)


def _standardize(volume: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (volume - mean) / std


def _norm_relu(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm3d(channels), nn.ReLU(inplace=True))
