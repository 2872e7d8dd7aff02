"""A generator that estimates the magnitudes of a spectrum with a dilated stack, and the phases with Griffin-Lim."""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.spectrogram import hann_stft, reconstruct_phases
from wavedil.core import DilatedConv, DilatedStack, Schedule
from wavedil.core.schema import Channels, Range, SampleRate, Taps
from wavedil.errors import WavedilError
from wavedil.weights import register

FLOOR = 3e-3  # smallest magnitude in the loss: below the noise of 16-bit sound in a window of 1024 samples
Iterations = Annotated[int, Range(1, 10000)]


@register
class SpectralGenerator(nn.Module):
    """Generates audio from log-mel spectrograms: a non-causal dilated stack over frames, then Griffin-Lim.

    The stack estimates the log magnitudes of the short-time Fourier transform, including the harmonics that mel bands
    average out. It operates on frames instead of samples, with about 3% of the multiply-adds of a WaveNet. The phases
    are estimated as in Tacotron (Wang et al. 2017, arXiv 1703.10135, section 3.4), by the algorithm of Griffin & Lim
    (1984) in the fast version of Perraudin et al. (2013).

    ``forward(mel)``: ``(batch, mels, frames) -> (batch, n_fft // 2 + 1, frames)``, natural logarithms of magnitudes.

    Args:
        channels: residual, skip and gated channels.
        dilations, kernel_size: of the stack, in frames; the kernel size is odd.
        mels: mel bands.
        n_fft: length of the Hann window and the transform, in samples.
        hop_length: samples per frame.
        iterations: of Griffin-Lim.
        sample_rate: in Hz.
    """

    #: Its layers see one position per frame, not one per sample.
    works_on_frames = True

    def __init__(
        self,
        channels: Channels = 192,
        dilations: Schedule = "1..16 x2",
        kernel_size: Taps = 3,
        *,
        mels: Channels = 80,
        n_fft: Taps = 1024,
        hop_length: Taps = 256,
        iterations: Iterations = 60,
        sample_rate: SampleRate = 16000,
    ):
        super().__init__()
        if n_fft < 2 * hop_length or n_fft % 2:
            raise WavedilError(
                f"n_fft is {n_fft} and hop_length {hop_length}: expected an even n_fft of at least twice hop_length, "
                "because windows must overlap"
            )
        self.mels, self.n_fft, self.hop_length = mels, n_fft, hop_length
        self.iterations, self.sample_rate = iterations, sample_rate
        self.input_conv = DilatedConv(1, mels, channels, kernel_size)
        self.stack = DilatedStack(
            ndim=1,
            channels=channels,
            dilations=dilations,
            kernel_size=kernel_size,
            skip_channels=channels,
            residual_scale=0.5**0.5,
        )
        self.hidden = DilatedConv(1, channels, channels, 1)
        self.out = DilatedConv(1, channels, n_fft // 2 + 1, 1)
        nn.init.constant_(self.out.bias, -3.0)  # near the mean log magnitude of speech

    @property
    def receptive_field(self) -> int:
        """Samples of the sound that an output sample depends on, without Griffin-Lim."""
        frames = self.stack.receptive_field + self.input_conv.kernel_size[0] - 1
        return (frames - 1) * self.hop_length + self.n_fft

    @property
    def dilations(self) -> tuple[int, ...]:
        return self.stack.dilations

    def forward(self, mel: Tensor) -> Tensor:
        if mel.ndim != 3 or mel.shape[1] != self.mels:
            raise WavedilError(f"mel has shape {tuple(mel.shape)}: expected (batch, {self.mels}, frames)")
        skips = self.stack(self.input_conv(mel))
        return self.out(F.relu(self.hidden(F.relu(skips))))

    def loss(self, sound: Tensor, mel: Tensor) -> Tensor:
        """Mean absolute error of the log magnitudes, over frames whose window is inside the sound.

        Args:
            sound: ``(batch, 1, hop_length * frames)``.
            mel: ``(batch, mels, frames)``.
        """
        before = (self.n_fft - self.hop_length) // 2
        cut = -(-(self.n_fft - self.hop_length - before) // self.hop_length)
        inner = slice(cut, mel.shape[2] - cut) if mel.shape[2] > 2 * cut else slice(None)
        padded = F.pad(sound[:, 0].float(), (before, self.n_fft - self.hop_length - before))
        magnitudes = hann_stft(padded, self.n_fft, self.hop_length, center=False).abs()
        return F.l1_loss(self(mel)[..., inner].float(), magnitudes[..., inner].clamp(min=FLOOR).log())

    @torch.no_grad()
    def sample(self, mel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Generates sound ``(batch, 1, hop_length * frames)``; ``generator`` draws the first phases."""
        sounds = []
        for magnitudes in self(mel).float().exp().cpu():
            seed = int(torch.randint(2**31, (), generator=generator))
            sounds.append(reconstruct_phases(magnitudes, self.n_fft, self.hop_length, self.iterations, seed))
        return torch.stack(sounds).unsqueeze(1).to(mel.device)
