"""Frames to samples: the nets that bring local features to the sample rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.conditioning.features import Features
from wavedil.core import DilatedConv
from wavedil.errors import WavedilError
from wavedil.weights import register


class Upsampling(nn.Module):
    """A convolution over frames, and then what a subclass does to get ``hop_length`` samples out of each.

    ``forward``: ``(batch, features.channels, reach + frames + reach) -> (batch, channels, frames * hop)``. A sample
    sees the frame that holds it and ``reach`` frames on each side; at the ends of a sound the outermost frame goes on.

    Args:
        features: :class:`wavedil.audio.conditioning.features.LogMel`, or ``Features`` for any other.
        channels: of the output; default those of the features.
        frame_kernel_size: frames that the convolution sees, odd.
    """

    def __init__(self, features: Features, channels: int | None, frame_kernel_size: int, spread: int):
        super().__init__()
        if not isinstance(features, Features):
            raise WavedilError(f"features is a {type(features).__name__}: expected LogMel, or Features for any other")
        if not isinstance(frame_kernel_size, int) or frame_kernel_size < 1 or frame_kernel_size % 2 == 0:
            raise WavedilError(f"frame_kernel_size is {frame_kernel_size!r}: expected an odd number of frames")
        self.features, self.hop_length = features, features.hop_length
        self.channels = features.channels if channels is None else channels
        self.conv = DilatedConv(1, features.channels, self.channels, frame_kernel_size, padding="valid")
        self.reach = frame_kernel_size // 2 + spread

    def forward(self, frames: Tensor) -> Tensor:
        return self.upsample(self.conv(frames))

    def upsample(self, frames: Tensor) -> Tensor:
        """``(batch, channels, spread + frames + spread) -> (batch, channels, frames * hop)``."""
        raise NotImplementedError

    def padded(self, features: Tensor) -> Tensor:
        """Whole features ``(batch, features.channels, frames)``, with ``reach`` more of the first and of the last."""
        return F.pad(features, (self.reach, self.reach), mode="replicate")

    def check(self, features: Tensor, batch: int) -> None:
        """Refuses features of another number of channels or streams, and NaN."""
        shape, channels = tuple(features.shape), self.features.channels
        if len(shape) != 3 or shape[0] not in (1, batch) or shape[1] != channels or shape[2] == 0:
            raise WavedilError(
                f"the condition has shape {shape}: expected (1 or {batch}, {channels}, frames), a frame every "
                f"{self.hop_length} samples"
            )
        if not bool(torch.isfinite(features).all()):
            count = int((~torch.isfinite(features)).sum())
            raise WavedilError(f"the condition has {count} values that are NaN or infinite: check how it was made")


@register
class NearestUpsampling(Upsampling):
    """Repeats each frame ``hop_length`` times and smooths the result (as r9y9's ConvInUpsample).

    One filter of ``2 * hop_length + 1`` taps serves all channels.

    The filter starts as the mean over its taps, and ``taps`` are multiples of that: a step of Adam is as large for
    every parameter, and it would make noise of taps of 1 / 401. It meets only three frames at a time, so it is summed
    up to three factors for each place in a frame, which is the same and costs a hundredth.
    """

    def __init__(self, features: Features, channels: int | None = None, frame_kernel_size: int = 3):
        super().__init__(features, channels, frame_kernel_size, spread=1)
        self.taps = nn.Parameter(torch.ones(2 * self.hop_length + 1))

    def upsample(self, frames: Tensor) -> Tensor:
        hop = self.hop_length
        reached = F.pad(self.taps.cumsum(0) / len(self.taps), (1, 0))  # reached[i]: the sum of the first i taps
        place = torch.arange(hop, device=frames.device)
        # Of the taps around place p, the first hop - p lie in the frame before, the next hop in its own.
        before, upto = reached[hop - place], reached[2 * hop - place]
        factors = torch.stack([before, upto - before, reached[-1] - upto])  # (3, hop)
        windows = torch.stack([frames[..., :-2], frames[..., 1:-1], frames[..., 2:]], dim=-1)
        return (windows @ factors.to(windows.dtype)).flatten(2)


@register
class TransposedUpsampling(Upsampling):
    """Transposed convolutions, one for each factor, with leaky ReLUs between.

    Args:
        factors: how many samples each makes of one; their product is the hop.
    """

    def __init__(
        self, features: Features, factors: Sequence[int], channels: int | None = None, frame_kernel_size: int = 3
    ):
        super().__init__(features, channels, frame_kernel_size, spread=1 if len(factors) == 1 else 2)
        if (
            not factors
            or any(not isinstance(f, int) or f < 2 for f in factors)
            or math.prod(factors) != self.hop_length
        ):
            raise WavedilError(
                f"factors are {list(factors)}, whose product is {math.prod(factors)}: expected factors "
                f"of 2 or more whose product is hop_length, {self.hop_length}"
            )
        # Twice the stride, so that every output sees two inputs; an odd stride needs one tap more to stay centered.
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
    """Transposed convolutions over features as an image of one map, bands by frames: what published vocoders have.

    As long as their stride, so that a sample sees the frame that holds it and neighboring bands. No factors leave
    features as they are, for those at the sample rate (hop 1).

    Args:
        factors: how many samples each makes of one; their product is the hop.
        band_kernel_size: bands that each sees, odd.
        slope: of the leaky ReLU after each: 0 is a ReLU, 1 is none.
    """

    def __init__(self, features: Features, factors: Sequence[int] = (), band_kernel_size: int = 3, slope: float = 0.0):
        super().__init__(features, None, frame_kernel_size=1, spread=0)
        self.conv = nn.Identity()  # these nets begin with the image
        if math.prod(factors) != self.hop_length:
            raise WavedilError(
                f"factors are {list(factors)}, whose product is {math.prod(factors)}: expected hop_length, "
                f"{self.hop_length}"
            )
        if not isinstance(band_kernel_size, int) or band_kernel_size < 1 or band_kernel_size % 2 == 0:
            raise WavedilError(f"band_kernel_size is {band_kernel_size!r}: expected an odd number of bands")
        self.slope = slope
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(1, 1, (band_kernel_size, f), (1, f), padding=(band_kernel_size // 2, 0)) for f in factors
        )

    def upsample(self, frames: Tensor) -> Tensor:
        image = frames.unsqueeze(1)
        for conv in self.convs:
            image = F.leaky_relu(conv(image), self.slope)
        return image.squeeze(1)
