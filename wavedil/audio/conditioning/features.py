"""Local features: one vector per frame of ``hop_length`` samples.

Frame f covers the samples from ``f * hop_length`` to ``(f + 1) * hop_length``, with any upsampling network.
"""

from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.data.levels import Levels, check_level
from wavedil.audio.spectrogram import hann_stft
from wavedil.core.schema import Channels, Range, SampleRate, Taps
from wavedil.errors import WavedilError
from wavedil.extras import install_extra
from wavedil.weights import register

_FLOOR = 1e-5  # smallest magnitude: -100 dB of full scale, below 16-bit sound
_OFFSET = 2.5  # log10 of a mel band of speech is about -2.5, with a deviation of about 1

Frequency = Annotated[float, Range(0, 1e7)]


@register
class Features(nn.Module):
    """Local features that are computed outside the model: any array ``(batch, channels, frames)``.

    For features computed from sound, write a subclass with :meth:`from_excerpt`, ``margin`` and ``from_sound = True``,
    as :class:`LogMel`, and decorate it with :func:`wavedil.weights.register`.

    Args:
        channels: values per frame.
        hop_length: samples per frame.
    """

    #: Extra context in samples on each side of a frame's hop.
    margin = 0
    #: Whether the features are computed from sound.
    from_sound = False

    def __init__(self, channels: Channels, hop_length: Taps):
        super().__init__()
        self.channels, self.hop_length = channels, hop_length

    def forward(self, sound: Tensor) -> Tensor:
        """Features ``(batch, channels, ceil(time / hop_length))`` of sound ``(batch, time)``, zero outside it.

        Raises:
            WavedilError: sound is of integers, or its peak exceeds 16.
        """
        check_level(sound, "sound", Levels())
        time, hop = sound.shape[1], self.hop_length
        return self.from_excerpt(F.pad(sound, (self.margin, self.margin + -time % hop)))

    def from_excerpt(self, sound: Tensor) -> Tensor:
        """Features of an excerpt with ``margin`` more samples on each side: ``(batch, margin + time + margin)``."""
        raise WavedilError(
            f"the features of this model are not computed from sound: give an array (batch, {self.channels}, frames), "
            f"a frame every {self.hop_length} samples"
        )


@register
class LogMel(Features):
    """Log-mel spectrogram, computed on the model's device: log10 of the magnitudes in mel bands, plus 2.5.

    The 2.5 centers speech around zero. Hann windows, each centered on its frame's samples, with zeros before and after
    the sound. Mel bands as in librosa and HiFi-GAN: Slaney's scale and norm. Computing it from sound needs torchaudio.

    Args:
        sample_rate: in Hz, that of the model.
        n_mels: number of bands.
        n_fft: length of window and transform, in samples, even.
        hop_length: samples per frame.
        fmin, fmax: range of the bands in Hz; ``fmax=None`` is half the sample rate.
    """

    from_sound = True

    def __init__(
        self,
        sample_rate: SampleRate = 16000,
        n_mels: Channels = 80,
        n_fft: Taps = 1024,
        hop_length: Taps = 256,
        fmin: Frequency = 0.0,
        fmax: Frequency | None = None,
    ):
        super().__init__(n_mels, hop_length)
        if n_fft % 2:
            raise WavedilError(f"n_fft is {n_fft}: expected an even number; torchaudio's bands are wrong for odd ones")
        if n_fft < hop_length:
            raise WavedilError(f"n_fft is {n_fft}: expected at least hop_length, {hop_length}, or samples are skipped")
        top = sample_rate / 2 if fmax is None else fmax
        if not 0 <= fmin < top <= sample_rate / 2:
            raise WavedilError(f"fmin is {fmin} and fmax is {top} Hz: expected 0 <= fmin < fmax <= {sample_rate / 2}")
        self.sample_rate, self.n_fft, self.fmin, self.fmax = sample_rate, n_fft, fmin, top
        self.margin = n_fft - hop_length - (n_fft - hop_length) // 2
        self._bands: Tensor | None = None

    @torch.no_grad()
    def from_excerpt(self, sound: Tensor) -> Tensor:
        before = (self.n_fft - self.hop_length) // 2
        after = self.n_fft - self.hop_length - before
        sound = sound[:, self.margin - before : sound.shape[1] - self.margin + after]
        with torch.autocast(sound.device.type, enabled=False):
            spectrum = hann_stft(sound, self.n_fft, self.hop_length, center=False)
            bands = self.bands().to(sound)
            return torch.log10((bands @ spectrum.abs()).clamp(min=_FLOOR)) + _OFFSET

    def magnitudes(self, mels: Tensor) -> Tensor:
        """Log-mels to magnitudes in mel bands, for sound in [-1, 1]."""
        return 10 ** (mels - _OFFSET)

    def bands(self) -> Tensor:
        """Weights of the mel bands, ``(n_mels, n_fft // 2 + 1)``, on the CPU."""
        if self._bands is None:
            try:
                from torchaudio.functional import melscale_fbanks
            except (ImportError, OSError, RuntimeError) as error:
                raise WavedilError(
                    f"log-mel features need torchaudio, which cannot be imported ({type(error).__name__}): "
                    f"{install_extra('train')}, or a torchaudio that fits this torch"
                ) from None
            with torch.device("cpu"), torch.inference_mode(False):  # used in any mode
                self._bands = melscale_fbanks(
                    self.n_fft // 2 + 1, self.fmin, self.fmax, self.channels, self.sample_rate, "slaney", "slaney"
                ).T.contiguous()
        return self._bands
