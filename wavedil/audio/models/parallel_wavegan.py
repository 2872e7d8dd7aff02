"""Parallel WaveGAN's generator (Yamamoto et al. 2019, arXiv 1910.11480): a non-causal WaveNet from noise to sound.

The network is that of kan-bayashi's ``parallel_wavegan`` and of espnet; ``wavedil.interop.parallel_wavegan`` converts
their weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.conditioning.upsampling import Context, StretchUpsampling
from wavedil.audio.effects.losses import MultiResolutionSTFT
from wavedil.core import DilatedConv, DilatedStack, Schedule, add_weight_norm
from wavedil.core.schema import Channels, SampleRate, Stride, Taps
from wavedil.errors import WavedilError
from wavedil.weights import register

_DISTANCE = MultiResolutionSTFT()


@register
class ParallelWaveGANGenerator(nn.Module):
    """Generates all samples at once from noise and mel features.

    ``forward(noise, mel)``: ``(batch, 1, time)`` and ``(batch, mels, frames)`` with time = hop_length * frames ``->
    (batch, 1, time)``.

    Args:
        channels, skip_channels, hidden_channels: residual, skip and gated channels.
        dilations, kernel_size: of the stack; the kernel size is odd.
        mels: mel bands.
        scales: upsampling factors; their product is the hop length.
        context: frames on each side that the upsampling's convolution sees.
        weight_norm: normalize all weights, as in the original's training.
        sample_rate: in Hz.
    """

    def __init__(
        self,
        channels: Channels = 64,
        skip_channels: Channels = 64,
        dilations: Schedule = "1..512 x3",
        kernel_size: Taps = 3,
        *,
        hidden_channels: Channels = 64,
        mels: Channels = 80,
        scales: Sequence[Stride] = (4, 4, 4, 4),
        context: Context = 2,
        weight_norm: bool = False,
        sample_rate: SampleRate = 24000,
    ):
        super().__init__()
        self.mels, self.sample_rate, self.hop_length = mels, sample_rate, math.prod(scales)
        self.input_conv = DilatedConv(1, 1, channels, 1)
        self.upsampling = StretchUpsampling(mels, scales, context)
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

    def loss(self, sound: Tensor, mel: Tensor) -> Tensor:
        """Multi-resolution STFT loss (eq. 7) of sound ``(batch, 1, time)`` from new noise, without adversarial term."""
        return _DISTANCE(self(torch.randn_like(sound), mel), sound)

    @torch.no_grad()
    def sample(self, mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Generates sound ``(batch, 1, hop_length * frames)`` from new noise."""
        noise = torch.randn(mel.shape[0], 1, self.hop_length * mel.shape[2], generator=generator, dtype=mel.dtype)
        return self(noise.to(mel.device), mel)

    @property
    def receptive_field(self) -> int:
        """Samples of the noise that an output sample depends on."""
        return self.stack.receptive_field

    def forward(self, noise: Tensor, mel: Tensor) -> Tensor:
        hop = self.hop_length
        if mel.ndim != 3 or mel.shape[1] != self.mels or noise.shape != (mel.shape[0], 1, hop * mel.shape[2]):
            raise WavedilError(
                f"noise has shape {tuple(noise.shape)} and mel {tuple(mel.shape)}: expected (batch, 1, {hop} * frames) "
                f"and (batch, {self.mels}, frames)"
            )
        skips = self.stack(self.input_conv(noise), self.upsampling(mel)) * self.skip_scale
        return self.out(F.relu(self.hidden(F.relu(skips))))
