"""Parallel WaveGAN's generator (Yamamoto et al. 2019, arXiv 1910.11480): a non-causal WaveNet from noise to sound.

The network follows kan-bayashi's ``parallel_wavegan``, which espnet has too; ``wavedil.interop.parallel_wavegan`` reads
its weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core import DilatedConv, DilatedStack, Schedule, add_weight_norm
from wavedil.errors import WavedilError
from wavedil.weights import register


class StretchUpsampler(nn.Module):
    """Frames ``(batch, channels, frames)`` to samples: a convolution over frames, then for each scale every value so
    many times, smoothed by one filter for all channels. ``hop_length`` is the product of the scales."""

    def __init__(self, channels: int, scales: Sequence[int], context: int):
        super().__init__()
        self.scales, self.context, self.hop_length = tuple(scales), context, math.prod(scales)
        self.conv = DilatedConv(1, channels, channels, 2 * context + 1, padding="valid", bias=False)
        self.filters = nn.ModuleList(DilatedConv(2, 1, 1, (1, 2 * scale + 1), bias=False) for scale in scales)
        for smoothing in self.filters:
            nn.init.constant_(smoothing.weight, 1 / smoothing.weight.numel())

    def forward(self, frames: Tensor) -> Tensor:
        x = F.pad(frames, (self.context, self.context), mode="replicate") if self.context else frames
        x = self.conv(x).unsqueeze(1)
        for scale, smoothing in zip(self.scales, self.filters, strict=True):
            x = smoothing(x.repeat_interleave(scale, dim=3))
        return x.squeeze(1)


@register
class ParallelWaveGANGenerator(nn.Module):
    """Noise and mel features to sound, all samples at once.

    ``forward(noise, mel)``: ``(batch, 1, time)`` and ``(batch, mels, frames)`` with time = hop * frames ->
    ``(batch, 1, time)``.

    Args:
        channels, skip_channels, hidden_channels: residual, skip and gated channels.
        dilations, kernel_size: of the stack; the kernel is odd.
        mels: of the features.
        scales: of the upsampling; their product is the hop.
        context: frames on each side that a frame's features see.
        weight_norm: normalize all weights, as in its training.
        sample_rate: in Hz.
    """

    def __init__(
        self,
        channels: int = 64,
        skip_channels: int = 64,
        dilations: Schedule = "1..512 x3",
        kernel_size: int = 3,
        *,
        hidden_channels: int = 64,
        mels: int = 80,
        scales: Sequence[int] = (4, 4, 4, 4),
        context: int = 2,
        weight_norm: bool = False,
        sample_rate: int = 24000,
    ):
        super().__init__()
        self.mels, self.sample_rate = mels, sample_rate
        self.input_conv = DilatedConv(1, 1, channels, 1)
        self.upsampler = StretchUpsampler(mels, scales, context)
        self.stack = DilatedStack(
            ndim=1,
            channels=channels,
            dilations=dilations,
            kernel_size=kernel_size,
            skip_channels=skip_channels,
            hidden_channels=hidden_channels,
            condition_channels=mels,
            residual_scale=0.5**0.5,
        )
        self.skip_scale = 1 / math.sqrt(len(self.stack.layers))
        self.hidden = DilatedConv(1, skip_channels, skip_channels, 1)
        self.out = DilatedConv(1, skip_channels, 1, 1)
        if weight_norm:
            add_weight_norm(self)

    @property
    def receptive_field(self) -> int:
        """Samples of the noise that a sample sees."""
        return self.stack.receptive_field

    def forward(self, noise: Tensor, mel: Tensor) -> Tensor:
        hop = self.upsampler.hop_length
        if mel.ndim != 3 or mel.shape[1] != self.mels or noise.shape != (mel.shape[0], 1, hop * mel.shape[2]):
            raise WavedilError(
                f"noise has shape {tuple(noise.shape)} and mel {tuple(mel.shape)}: expected (batch, 1, {hop} * frames) "
                f"and (batch, {self.mels}, frames)"
            )
        skips = self.stack(self.input_conv(noise), self.upsampler(mel)) * self.skip_scale
        return self.out(F.relu(self.hidden(F.relu(skips))))
