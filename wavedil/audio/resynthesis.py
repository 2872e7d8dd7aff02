"""Evaluates a vocoder: clips generated from log-mels, beside Griffin-Lim's, filtered noise and the codes' own error."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.conditioning.features import LogMel
from wavedil.audio.generation.generate import generate
from wavedil.audio.models.vocoder import Vocoder
from wavedil.audio.models.wavenet import WaveNet
from wavedil.audio.spectrogram import invert_frames, reconstruct_phases
from wavedil.audio.speech_measures import DEFINITION, FFT, UNITS, mean_measures, speech_measures
from wavedil.errors import WavedilError, count_text, matched

#: What is compared with the recordings, by the keys of ``Resynthesis.measures``.
SOURCES = {
    "model": "the model",
    "griffin_lim": "Griffin-Lim, from the same mels",
    "noise": "white noise filtered by the mels",
    "codes": "the recording, encoded and decoded",
}
CLIPS = (
    "means over clips, each compared with its recording; the first {seconds:g} s of each file at {rate} Hz, generated "
    "from its mels{options}. "
)


@dataclass(frozen=True)
class Resynthesis:
    """Mean distance in dB of the model's clips, and of Griffin-Lim's, to the recordings, and all measures.

    ``measures`` has a dictionary for each of :data:`SOURCES` (``codes`` only for a WaveNet), by the names of
    :data:`wavedil.audio.speech_measures.UNITS`; a value that is undefined for all clips is None.
    """

    distance_db: float
    griffin_lim_db: float
    clips: int
    measures: dict[str, dict[str, float | None]]
    definition: str

    def __str__(self) -> str:
        names = list(self.measures["model"])
        head = [f"{name.replace('_', ' ')}{f' ({UNITS[name]})' if UNITS[name] else ''}" for name in names]
        rows = [["", *head]]
        for source in self.measures:
            text = SOURCES[source]
            values = [self.measures[source][name] for name in names]
            rows.append([text, *("-" if value is None else f"{value:.2f}" for value in values)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, count_text(self.clips, "clip"), f"({self.definition})"])


def griffin_lim(features: LogMel, mels: Tensor, iterations: int = 60, seed: int = 0) -> Tensor:
    """Reconstructs sound ``(frames * hop_length,)`` from log-mels ``(n_mels, frames)`` with librosa.

    Non-negative least squares gives the magnitudes; see :func:`wavedil.audio.spectrogram.reconstruct_phases` for the
    phases.
    """
    return reconstruct_phases(_magnitudes(features, mels), features.n_fft, features.hop_length, iterations, seed)


def filtered_noise(features: LogMel, mels: Tensor, seed: int = 0) -> Tensor:
    """White noise with the magnitudes of log-mels ``(n_mels, frames)``: sound ``(frames * hop_length,)`` without pitch.

    The baseline of a vocoder that has learned the spectrum and nothing else.
    """
    from librosa import istft, stft

    def excite(magnitudes: np.ndarray, length: int) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal(length)
        spectrum = stft(noise, n_fft=features.n_fft, hop_length=features.hop_length)
        spectrum /= np.sqrt(np.mean(np.abs(spectrum) ** 2))
        excited = magnitudes * spectrum[:, : magnitudes.shape[1]]
        return istft(excited, n_fft=features.n_fft, hop_length=features.hop_length, length=length)

    return invert_frames(_magnitudes(features, mels), features.hop_length, excite)


def _magnitudes(features: LogMel, mels: Tensor) -> Tensor:
    """Magnitudes ``(n_fft // 2 + 1, frames)`` of log-mels ``(n_mels, frames)``, by non-negative least squares."""
    from librosa.util import nnls

    found = nnls(features.bands().double().numpy(), features.magnitudes(mels).double().cpu().numpy())
    return torch.from_numpy(found)


def resynthesize(
    model: WaveNet | Vocoder,
    recordings: Iterable[Tensor],
    speakers: Iterable[str] | None = None,
    seconds: float = 3.0,
    seed: int = 0,
    temperature: float = 1.0,
    guidance: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Resynthesis:
    """Generates the start of each recording from its log-mels and compares it with the recording.

    Beside the model's clips it measures those of Griffin-Lim, filtered noise, and for a WaveNet the recordings after
    encoding and decoding, the best that its codes allow.

    Args:
        model: a Vocoder, or a WaveNet that is conditioned on log-mels.
        recordings: float ``(time,)`` in [-1, 1] at the model's sample rate.
        speakers: speaker of each recording, for a model with speakers.
        seconds: length of the start of each recording.
        seed: of the first clip; clip i uses ``seed + i``.
        temperature, guidance: of a WaveNet; see :func:`wavedil.audio.generate`.
        progress: called with the number of finished clips and the number of clips.

    Raises:
        WavedilError: the model is not conditioned on log-mels, or no recording has 1024 samples.
    """
    features = log_mel_features(model)
    if features is None:
        raise WavedilError("model is not conditioned on log-mels: expected a vocoder, e.g. of the recipe vocoder")
    hop = features.hop_length
    longest = round(seconds * model.sample_rate)
    clips = []
    for recording, speaker in matched(recordings=recordings, speakers=speakers):
        length = min(longest, len(recording)) // hop * hop
        if length >= FFT:
            clips.append((recording[:length], speaker))
    if not clips:
        raise WavedilError(f"recordings: no clip of at most {seconds:g} s has {FFT} samples: use longer recordings")
    options = {"temperature": temperature, "guidance": guidance} if isinstance(model, WaveNet) else {}
    found: dict[str, list[dict[str, float]]] = {}
    for index, (clip, speaker) in enumerate(clips):
        mels = model.features(clip.unsqueeze(0))
        if isinstance(model, WaveNet):
            ours = generate(model, len(clip), seed=seed + index, condition=mels, speaker=speaker, **options)
        else:
            ours = model(mels, seed=seed + index)
        sounds = {
            "model": ours[0, 0].cpu(),
            "griffin_lim": griffin_lim(features, mels[0]),
            "noise": filtered_noise(features, mels[0]),
        }
        if isinstance(model, WaveNet):
            sounds["codes"] = model.decode(model.encode(clip))
        for source, sound in sounds.items():
            found.setdefault(source, []).append(speech_measures(sound, clip, model.sample_rate))
        if progress is not None:
            progress(index + 1, len(clips))
    measures = {source: mean_measures(each) for source, each in found.items()}
    text = f" at temperature {temperature:g} with guidance {guidance:g}" if options else ""
    settings = {"rate": model.sample_rate, "seconds": seconds, "options": text}
    distances = (measures[source]["log_spectral_distance"] for source in ("model", "griffin_lim"))
    return Resynthesis(*distances, len(clips), measures, CLIPS.format(**settings) + DEFINITION)


def log_mel_features(model: WaveNet | Vocoder) -> LogMel | None:
    """The log-mels that a model is conditioned on; None if it is conditioned on something else or on nothing."""
    found = model.features if isinstance(model, Vocoder) else getattr(model.conditioner.upsampling, "features", None)
    return found if isinstance(found, LogMel) else None
