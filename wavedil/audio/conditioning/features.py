"""Local features: what a model hears of a sound it is to make, a frame every ``hop_length`` samples.

Frame f belongs to the samples from ``f * hop_length`` up to
``(f + 1) * hop_length``, whatever net brings it to the sample rate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.spectrogram import hann_stft
from wavedil.errors import WavedilError
from wavedil.weights import register

_FLOOR = 1e-5  # of a magnitude: -100 dB of full scale, below 16-bit sound
_MIDDLE = 2.5  # minus the usual log10 of a mel band of speech, which spreads by about 1


@register
class Features(nn.Module):
    """Features that are made elsewhere: any array ``(batch, channels, frames)``.

    Args:
        channels: numbers in a frame.
        hop_length: samples from a frame to the next.
    """

    def __init__(self, channels: int, hop_length: int):
        super().__init__()
        _positive(channels=channels, hop_length=hop_length)
        self.channels, self.hop_length = channels, hop_length

    #: Samples of sound that the frames reach beyond the samples they belong to, on each side.
    margin = 0
    #: Whether they are computed from the sound.
    of_sound = False

    def forward(self, sound: Tensor) -> Tensor:
        """Features ``(batch, channels, ceil(time / hop_length))`` of a whole sound ``(batch, time)``."""
        time, hop = sound.shape[1], self.hop_length
        return self.inside(F.pad(sound, (self.margin, self.margin + -time % hop)))

    def inside(self, sound: Tensor) -> Tensor:
        """Features of an excerpt ``(batch, margin + frames * hop_length + margin)``: with its surroundings."""
        raise WavedilError(
            f"this model hears features that were made elsewhere: give them as an array (batch, {self.channels}, "
            f"frames), a frame every {self.hop_length} samples"
        )


@register
class LogMel(Features):
    """Log-mel spectrogram in the model's graph: log10 of the magnitudes in mel bands, + 2.5 so that it lies about zero.

    Hann windows, each in the middle of its frame's samples; zeros before and after the sound. Bands as librosa's and
    HiFi-GAN's: Slaney's scale and norm. Needs torchaudio, but only to be computed from sound.

    Args:
        sample_rate: in Hz, that of the model.
        n_mels: bands.
        n_fft: length of window and transform, in samples, even.
        hop_length: samples from a frame to the next.
        fmin, fmax: range of the bands in Hz; ``fmax=None`` is half the sample rate.
    """

    of_sound = True

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 80,
        n_fft: int = 1024,
        hop_length: int = 256,
        fmin: float = 0.0,
        fmax: float | None = None,
    ):
        super().__init__(n_mels, hop_length)
        _positive(sample_rate=sample_rate, n_fft=n_fft)
        if n_fft % 2:
            raise WavedilError(f"n_fft is {n_fft}: expected an even number, for which torchaudio has the bands right")
        if n_fft < hop_length:
            raise WavedilError(
                f"n_fft is {n_fft}, hop_length {hop_length}: windows shorter than the hop leave samples out"
            )
        top = sample_rate / 2 if fmax is None else fmax
        if not 0 <= fmin < top <= sample_rate / 2:
            raise WavedilError(f"fmin is {fmin} and fmax {top} Hz: expected 0 <= fmin < fmax <= {sample_rate / 2}")
        self.sample_rate, self.n_fft, self.fmin, self.fmax = sample_rate, n_fft, fmin, top
        self.margin = n_fft - hop_length - (n_fft - hop_length) // 2
        self._bands: Tensor | None = None

    @torch.no_grad()
    def inside(self, sound: Tensor) -> Tensor:
        before = (self.n_fft - self.hop_length) // 2
        after = self.n_fft - self.hop_length - before
        sound = sound[:, self.margin - before : sound.shape[1] - self.margin + after]
        with torch.autocast(sound.device.type, enabled=False):
            spectrum = hann_stft(sound, self.n_fft, self.hop_length, center=False)
            bands = self.bands().to(sound)
            return torch.log10((bands @ spectrum.abs()).clamp(min=_FLOOR)) + _MIDDLE

    def magnitudes(self, mels: Tensor) -> Tensor:
        """What mels are the logarithms of: magnitudes in bands, for full-scale sound in [-1, 1]."""
        return 10 ** (mels - _MIDDLE)

    def bands(self) -> Tensor:
        """``(n_mels, n_fft // 2 + 1)`` weights of the bands, on the CPU."""
        if self._bands is None:
            try:
                from torchaudio.functional import melscale_fbanks
            except (ImportError, OSError, RuntimeError) as error:
                raise WavedilError(
                    f"log-mel features need torchaudio, which cannot be imported ({type(error).__name__}): pip install "
                    "'wavedil[train]', or a torchaudio that fits this torch"
                ) from None
            with torch.device("cpu"):
                self._bands = melscale_fbanks(
                    self.n_fft // 2 + 1, self.fmin, self.fmax, self.channels, self.sample_rate, "slaney", "slaney"
                ).T.contiguous()
        return self._bands


def _positive(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise WavedilError(f"{name} is {value!r}: expected a positive integer")
