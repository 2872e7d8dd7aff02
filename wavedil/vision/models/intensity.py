"""Normalization of the intensities of volumes, which a model applies in training and in prediction."""

from contextlib import suppress

import torch
from torch import Tensor, nn

from wavedil.core.schema import Scale
from wavedil.errors import WavedilError
from wavedil.weights import register

#: Smaller standard deviations, as a share of the mean, are rounding errors of a constant volume.
_CONSTANT = 1e-6


@register
class NormalizeIntensity(nn.Module):
    """Subtracts the mean and divides by the standard deviation of each channel of each volume.

    ``(batch, channels, *space) -> (batch, channels, *space)``. The usual normalization of magnetic resonance images;
    the same as ``NormalizeIntensity(channel_wise=True)`` of MONAI and ``ZScoreNormalization`` of nnU-Net. A constant
    channel becomes 0. The result of integers is float32.

    Args:
        nonzero: the mean and the deviation are those of the voxels that are not 0, and voxels that are 0 stay 0, e.g.
            the background of a brain without its skull.
    """

    def __init__(self, nonzero: bool = False):
        super().__init__()
        self.nonzero = nonzero

    def forward(self, volume: Tensor) -> Tensor:
        dtype = volume.dtype if volume.is_floating_point() else torch.float32
        x = volume.to(torch.promote_types(volume.dtype, torch.float32))
        axes = tuple(range(2, x.ndim))
        known = x != 0 if self.nonzero else torch.ones_like(x, dtype=torch.bool)
        count = known.sum(axes, keepdim=True).clamp(min=1)
        mean = x.sum(axes, keepdim=True, dtype=torch.float64) / count  # that of zeros is 0
        mean = mean.to(x.dtype)
        centered = torch.where(known, x - mean, 0)
        std = torch.linalg.vector_norm(centered, dim=axes, keepdim=True, dtype=torch.float64) / count.sqrt()
        std = std.to(x.dtype)
        varies = std > _CONSTANT * mean.abs()
        return torch.where(varies, centered / torch.where(varies, std, 1), 0).to(dtype)


@register
class ScaleIntensityRange(nn.Module):
    """Maps a window of intensities to [0, 1]; values outside it are clipped.

    ``(batch, channels, *space) -> (batch, channels, *space)``. For computed tomography, whose intensities are in
    Hounsfield units; the same as ``ScaleIntensityRange(b_min=0, b_max=1, clip=True)`` of MONAI.

    Args:
        a_min, a_max: the window, in the unit of the volumes, e.g. -160 and 240 for soft tissue.

    Raises:
        WavedilError: ``a_min`` is not less than ``a_max``.
    """

    def __init__(self, a_min: Scale, a_max: Scale):
        super().__init__()
        if not a_min < a_max:
            raise WavedilError(f"a_min is {a_min:g} and a_max {a_max:g}: expected a window, a_min less than a_max")
        self.a_min, self.a_max = a_min, a_max

    def forward(self, volume: Tensor) -> Tensor:
        return ((volume - self.a_min) / (self.a_max - self.a_min)).clamp(0, 1)


def check_normalization(normalization: nn.Module, channels: int) -> None:
    """Raises WavedilError unless a module maps a volume to one of the same shape and has no weights."""
    volume, result = torch.arange(8.0 * channels).view(1, channels, 2, 2, 2), None
    with suppress(Exception):  # modules of other kinds raise errors of all kinds
        result = normalization(volume)
    if getattr(result, "shape", None) != volume.shape or any(True for _ in normalization.parameters()):
        raise WavedilError(
            f"normalization is {type(normalization).__name__}: expected a module without weights that maps a volume to "
            "one of the same shape, e.g. NormalizeIntensity"
        )
