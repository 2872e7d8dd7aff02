"""Upsampling networks: from frames of local features to the sample rate.

:class:`Upsampling` and its subclasses are for WaveNet's conditioning, where an excerpt of the features must give the
same samples as all of them. :class:`StretchUpsampling` and :class:`SpectrogramUpsampling` are those of Parallel WaveGAN
and DiffWave, which pad the ends of the features themselves.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.conditioning.features import Features
from wavedil.core import DilatedConv
from wavedil.core.schema import Channels, Range, Stride, Taps, checked
from wavedil.errors import WavedilError
from wavedil.weights import register

Context = Annotated[int, Range(0, 2**10)]  # frames
Factor = Annotated[int, Range(2, 2**16)]
Slope = Annotated[float, Range(0, 1)]


class Upsampling(nn.Module):
    """Convolution over frames, then the upsampling of a subclass: ``hop_length`` samples per frame.

    ``forward``: ``(batch, features.channels, reach + frames + reach) -> (batch, channels, frames * hop_length)``. A
    sample sees its own frame and ``reach`` frames on each side. At the ends of a sound the outermost frame is repeated.

    To add one, write a subclass with :meth:`upsample` and decorate it with :func:`wavedil.weights.register`.

    Args:
        features: :class:`wavedil.audio.conditioning.features.LogMel`, or ``Features`` for any other.
        channels: of the output; default those of the features.
        frame_kernel_size: frames that the convolution sees, odd.
        spread: frames on each side that :meth:`upsample` sees.
    """

    def __init__(self, features: Features, channels: Channels | None, frame_kernel_size: Taps, spread: int):
        super().__init__()
        if frame_kernel_size % 2 == 0:
            raise WavedilError(f"frame_kernel_size is {frame_kernel_size!r}: expected an odd number of frames")
        self.features, self.hop_length = features, features.hop_length
        self.channels = features.channels if channels is None else channels
        self.conv = DilatedConv(1, features.channels, self.channels, frame_kernel_size, padding="valid")
        self.reach = frame_kernel_size // 2 + spread

    def forward(self, frames: Tensor) -> Tensor:
        return self.upsample(self.conv(frames))

    def upsample(self, frames: Tensor) -> Tensor:
        """``(batch, channels, spread + frames + spread) -> (batch, channels, frames * hop_length)``."""
        raise NotImplementedError

    def pad(self, features: Tensor) -> Tensor:
        """Repeats the first and the last frame of ``(batch, features.channels, frames)`` ``reach`` times each."""
        return F.pad(features, (self.reach, self.reach), mode="replicate")

    def crop_features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features ``(batch, channels, reach + frames + reach)`` of a batch of crops.

        Either ``batch["features"]``, or computed from ``batch["sound"]`` and indexed by ``batch["frames"]``, which
        repeats the file's first or last frame outside the file.
        """
        if "features" in batch:
            return batch["features"]
        features = self.features.from_excerpt(batch["sound"])
        return features.gather(2, batch["frames"].unsqueeze(1).expand(-1, features.shape[1], -1))

    def check(self, features: Tensor, batch: int) -> None:
        """Raises WavedilError for another number of channels or streams, and for NaN."""
        shape, channels = tuple(features.shape), self.features.channels
        if len(shape) != 3 or shape[0] not in (1, batch) or shape[1] != channels or shape[2] == 0:
            raise WavedilError(
                f"condition is {shape}: expected (1 or {batch}, {channels}, frames), one per {self.hop_length} samples"
            )
        if not bool(torch.isfinite(features).all()):
            count = int((~torch.isfinite(features)).sum())
            raise WavedilError(f"condition has {count} values that are NaN or infinite: check how it was made")


@register
class NearestUpsampling(Upsampling):
    """Nearest-neighbor upsampling, smoothed by one filter of ``2 * hop_length + 1`` taps for all channels.

    As ConvInUpsample in r9y9's wavenet_vocoder. The filter is initialized to a moving mean, and the parameters ``taps``
    are factors of its taps: Adam's steps have the same size for every parameter and would turn taps of 1 / 401 into
    noise. Since the filter covers only three frames at a time, it is computed with three factors per position in a
    frame, at a hundredth of the cost.

    Args:
        features: e.g. :class:`wavedil.audio.LogMel`.
        channels: of the output; default those of the features.
        frame_kernel_size: kernel size of the convolution before the upsampling, in frames; odd.
    """

    def __init__(self, features: Features, channels: Channels | None = None, frame_kernel_size: Taps = 3):
        super().__init__(features, channels, frame_kernel_size, spread=1)
        self.taps = nn.Parameter(torch.ones(2 * self.hop_length + 1))

    def upsample(self, frames: Tensor) -> Tensor:
        hop = self.hop_length
        sums = F.pad(self.taps.cumsum(0) / len(self.taps), (1, 0))  # sums[i]: the first i taps
        position = torch.arange(hop, device=frames.device)
        # Around position p of a frame, the first hop - p taps are in the frame before, the next hop in its own.
        before, up_to = sums[hop - position], sums[2 * hop - position]
        factors = torch.stack([before, up_to - before, sums[-1] - up_to])  # (3, hop)
        windows = torch.stack([frames[..., :-2], frames[..., 1:-1], frames[..., 2:]], dim=-1)
        return (windows @ factors.to(windows.dtype)).flatten(2)


@register
class TransposedUpsampling(Upsampling):
    """Transposed convolutions, one per factor, with leaky ReLUs between them.

    Args:
        features: e.g. :class:`wavedil.audio.LogMel`.
        factors: upsampling factor of each; their product is ``hop_length``.
        channels: of the output; default those of the features.
        frame_kernel_size: kernel size of the convolution before the upsampling, in frames; odd.
    """

    def __init__(
        self,
        features: Features,
        factors: Sequence[Factor],
        channels: Channels | None = None,
        frame_kernel_size: Taps = 3,
    ):
        super().__init__(features, channels, frame_kernel_size, spread=1 if len(factors) == 1 else 2)
        if not factors:
            raise WavedilError("factors is empty: expected one or more, whose product is hop_length")
        _check_product(factors, self.hop_length)
        # Twice the stride, so that every output sees two inputs; an odd stride needs one more tap to stay centered.
        self.convs = nn.ModuleList(
            nn.ConvTranspose1d(self.channels, self.channels, 2 * f + f % 2, f, padding=(f + f % 2) // 2)
            for f in factors
        )
        self.spread = self.reach - frame_kernel_size // 2

    def upsample(self, frames: Tensor) -> Tensor:
        for index, conv in enumerate(self.convs):
            frames = conv(F.leaky_relu(frames, 0.1) if index else frames)
        return frames[..., self.spread * self.hop_length : frames.shape[-1] - self.spread * self.hop_length]


@register
class ImageUpsampling(Upsampling):
    """:class:`SpectrogramUpsampling` without overlap, as published WaveNet vocoders have it.

    A sample sees its own frame only, and neighboring bands. Without factors the features pass unchanged, for features
    at the sample rate (hop length 1).

    Args:
        factors, band_kernel_size, slope: see :class:`SpectrogramUpsampling`; slope 0 is a ReLU, 1 is no activation.
    """

    def __init__(
        self, features: Features, factors: Sequence[Stride] = (), band_kernel_size: Taps = 3, slope: Slope = 0.0
    ):
        super().__init__(features, None, frame_kernel_size=1, spread=0)
        self.conv = nn.Identity()  # these networks have no convolution over frames
        _check_product(factors, self.hop_length)
        self.convs = SpectrogramConvs(factors, band_kernel_size, overlap=1, slope=slope)

    def upsample(self, frames: Tensor) -> Tensor:
        return self.convs(frames)


class SpectrogramUpsampling(nn.Module):
    """Transposed convolutions over the features as a one-channel image of bands by frames, each with a leaky ReLU.

    ``forward``: ``(batch, bands, frames) -> (batch, bands, frames * hop_length)``.

    Args:
        factors: upsampling factor of each convolution; their product is ``hop_length``.
        band_kernel_size: bands that each convolution sees, odd.
        overlap: length of the kernels along time, as a multiple of their stride.
        slope: of the leaky ReLUs.
    """

    @checked
    def __init__(self, factors: Sequence[Stride], band_kernel_size: Taps = 3, overlap: Stride = 2, slope: Slope = 0.4):
        super().__init__()
        self.hop_length = math.prod(factors)
        self.convs = SpectrogramConvs(factors, band_kernel_size, overlap, slope)

    def forward(self, frames: Tensor) -> Tensor:
        return self.convs(frames)


class StretchUpsampling(nn.Module):
    """Convolution over frames; then per factor nearest-neighbor upsampling, smoothed by one filter for all channels.

    ``forward``: ``(batch, channels, frames) -> (batch, channels, frames * hop_length)``. It is the
    ConvInUpsampleNetwork of kan-bayashi's ``parallel_wavegan``: the convolution pads by repeating the outermost frames,
    the smoothing filters with zeros.

    Args:
        factors: upsampling factors; their product is ``hop_length``.
        context: frames on each side that the convolution sees.
    """

    @checked
    def __init__(self, channels: Channels, factors: Sequence[Stride], context: Context):
        super().__init__()
        self.factors, self.context, self.hop_length = tuple(factors), context, math.prod(factors)
        self.conv = DilatedConv(1, channels, channels, 2 * context + 1, padding="valid", bias=False)
        self.filters = nn.ModuleList(DilatedConv(2, 1, 1, (1, 2 * factor + 1), bias=False) for factor in factors)
        for smoothing in self.filters:
            nn.init.constant_(smoothing.weight, 1 / smoothing.weight.numel())

    def forward(self, frames: Tensor) -> Tensor:
        x = F.pad(frames, (self.context, self.context), mode="replicate") if self.context else frames
        x = self.conv(x).unsqueeze(1)
        for factor, smoothing in zip(self.factors, self.filters, strict=True):
            x = smoothing(x.repeat_interleave(factor, dim=3))
        return x.squeeze(1)


class SpectrogramConvs(nn.ModuleList):
    """The convolutions of :class:`SpectrogramUpsampling`: ``(batch, bands, frames) -> (batch, bands, time)``."""

    def __init__(self, factors: Sequence[int], band_kernel_size: int, overlap: int, slope: float):
        if band_kernel_size % 2 == 0:
            raise WavedilError(f"band_kernel_size is {band_kernel_size!r}: expected an odd number of bands")
        super().__init__(
            nn.ConvTranspose2d(
                1,
                1,
                (band_kernel_size, overlap * factor),
                (1, factor),
                padding=(band_kernel_size // 2, (overlap - 1) * factor // 2),
            )
            for factor in factors
        )
        self.slope = slope

    def forward(self, frames: Tensor) -> Tensor:
        image = frames.unsqueeze(1)
        for conv in self:
            image = F.leaky_relu(conv(image), self.slope)
        return image.squeeze(1)


def _check_product(factors: Sequence[int], hop_length: int) -> None:
    if math.prod(factors) != hop_length:
        raise WavedilError(
            f"factors is {list(factors)}, whose product is {math.prod(factors)}: expected hop_length, {hop_length}"
        )
