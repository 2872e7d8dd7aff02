"""DiffWave (Kong et al. 2020, arXiv 2009.09761): a non-causal WaveNet that removes noise from sound step by step.

The network is that of lmnt-com's ``diffwave`` 0.1.7, the reference; ``wavedil.interop.diffwave`` converts its weights.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.conditioning.upsampling import SpectrogramUpsampling
from wavedil.core import DilatedConv, DilatedStack, GatedBlock, Schedule
from wavedil.core.schema import Channels, Range, SampleRate
from wavedil.errors import WavedilError
from wavedil.weights import register

Variance = Annotated[float, Range(0, 1, exclude_low=True, exclude_high=True)]
Condition = tuple[Tensor, Tensor]  # (upsampled mels, step embedding)


class DiffusionBlock(GatedBlock):
    """Gated block with the step embedding added to the convolution's input, not to the residual (figure 2)."""

    def __init__(self, ndim: int, channels: int, *, step_channels: int, **options):
        super().__init__(ndim, channels, **options)
        self.step_projection = DilatedConv(ndim, step_channels, channels, 1)

    def forward_gated(self, x: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        mels, step = condition
        return self._combine(x, self.conv(x + self.step_projection(step)), mels)


class StepEmbedding(nn.Module):
    """Steps ``(batch,)`` to embeddings ``(batch, 512, 1)``: sines and cosines, then two layers (section 3.2).

    A fractional step is interpolated between its neighbors.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        frequencies = 10.0 ** (torch.arange(64) * 4.0 / 63.0)
        angles = torch.arange(steps).unsqueeze(1) * frequencies
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], dim=1), persistent=False)
        self.first = nn.Linear(128, 512)
        self.second = nn.Linear(512, 512)

    def forward(self, step: Tensor) -> Tensor:
        if step.ndim != 1 or bool((step < 0).any() | (step > self.steps - 1).any()):
            raise WavedilError(f"step is {step.tolist()}: expected (batch,) numbers from 0 to {self.steps - 1}")
        low = self.table[step.floor().long()]
        high = self.table[step.ceil().long()]
        row = low + (high - low) * (step - step.floor()).to(low.dtype).unsqueeze(1)
        return F.silu(self.second(F.silu(self.first(row)))).unsqueeze(2)


@register
class DiffWave(nn.Module):
    """Estimates the noise in noisy sound, conditioned on mels and on the diffusion step.

    ``forward(sound, mel, step)``: noisy sound ``(batch, 1, time)``, features ``(batch, mels, frames)`` with time =
    256 * frames, and steps ``(batch,)`` from 0 to len(noise) - 1 ``-> (batch, 1, time)``.

    Args:
        channels: residual and skip channels.
        dilations: schedule; kernels have 3 taps.
        mels: mel bands; the hop length is 256.
        noise: the variance β that each diffusion step adds; default 50 steps from 1e-4 to 0.05.
        sample_rate: in Hz.
    """

    def __init__(
        self,
        channels: Channels = 64,
        dilations: Schedule = "1..512 x3",
        *,
        mels: Channels = 80,
        noise: Sequence[Variance] | None = None,
        sample_rate: SampleRate = 22050,
    ):
        super().__init__()
        betas = np.linspace(1e-4, 0.05, 50).tolist() if noise is None else list(noise)
        if not betas:
            raise WavedilError(f"noise is {noise!r}: expected the variance that each step adds, between 0 and 1")
        self.noise, self.sample_rate, self.mels = betas, sample_rate, mels
        self.input_conv = DilatedConv(1, 1, channels, 1)
        self.embedding = StepEmbedding(len(betas))
        self.upsampling = SpectrogramUpsampling(factors=(16, 16))
        self.hop_length = self.upsampling.hop_length
        self.stack = DilatedStack(
            ndim=1,
            channels=channels,
            dilations=dilations,
            kernel_size=3,
            block=DiffusionBlock,
            skip_channels=channels,
            condition_channels=mels,
            step_channels=512,
            gate_order="sigmoid_first",
            residual_scale=0.5**0.5,
        )
        self.skip_scale = 1 / math.sqrt(len(self.stack.layers))
        self.hidden = DilatedConv(1, channels, channels, 1)
        self.out = DilatedConv(1, channels, 1, 1)
        nn.init.zeros_(self.out.weight)

    @property
    def receptive_field(self) -> int:
        return self.stack.receptive_field

    def forward(self, sound: Tensor, mel: Tensor, step: Tensor) -> Tensor:
        if sound.ndim != 3 or sound.shape[1] != 1 or mel.ndim != 3 or mel.shape[1] != self.mels:
            raise WavedilError(
                f"sound has shape {tuple(sound.shape)} and mel {tuple(mel.shape)}: expected (batch, 1, time) and "
                f"(batch, {self.mels}, frames)"
            )
        hop = self.hop_length
        if sound.shape[2] != hop * mel.shape[2]:
            raise WavedilError(
                f"sound has {sound.shape[2]} samples, mel {mel.shape[2]} frames of {hop}: expected "
                f"{hop * mel.shape[2]} samples; crop or pad one of them"
            )
        x = F.relu(self.input_conv(sound))
        skips = self.stack(x, (self.upsampling(mel), self.embedding(step)))
        return self.out(F.relu(self.hidden(skips * self.skip_scale)))

    def loss(self, sound: Tensor, mel: Tensor) -> Tensor:
        """Mean absolute error of the estimated noise at random steps (algorithm 1; the reference takes this norm)."""
        step = torch.randint(len(self.noise), sound.shape[:1], device=sound.device)
        kept = torch.tensor(self.noise, dtype=torch.float64).neg().add(1).cumprod(0)
        level = kept.to(sound.device, sound.dtype)[step].view(-1, 1, 1)
        noise = torch.randn_like(sound)
        return F.l1_loss(self(level.sqrt() * sound + (1 - level).sqrt() * noise, mel, step), noise)

    @torch.no_grad()
    def sample(self, mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Generates sound ``(batch, 1, 256 * frames)`` in [-1, 1] from mels, in len(noise) steps (algorithm 2)."""
        shape = (mel.shape[0], 1, self.hop_length * mel.shape[2])

        def draw() -> Tensor:
            return torch.randn(shape, generator=generator, dtype=mel.dtype).to(mel.device)

        sound = draw()
        kept = 1.0 - torch.tensor(self.noise, dtype=torch.float64)
        level = kept.cumprod(0)
        for n in reversed(range(len(self.noise))):
            step = torch.full(shape[:1], n, device=mel.device)
            share = float(self.noise[n] / (1 - level[n]).sqrt())
            sound = (sound - share * self(sound, mel, step)) / float(kept[n].sqrt())
            if n:
                sound = sound + float(((1 - level[n - 1]) / (1 - level[n]) * self.noise[n]).sqrt()) * draw()
            sound = sound.clamp(-1, 1)
        return sound
