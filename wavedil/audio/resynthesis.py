"""Evaluates a vocoder: clips generated from log-mels, beside Griffin-Lim's, filtered noise and the codes' own error."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.conditioning.features import LogMel
from wavedil.audio.generation.generate import generate
from wavedil.audio.models.wavenet import WaveNet
from wavedil.audio.speech_measures import DEFINITION, FFT, UNITS, mean_measures, speech_measures
from wavedil.errors import WavedilError, matched

#: What is compared with the recordings, by the keys of ``Resynthesis.measures``.
SOURCES = {
    "model": "the model",
    "griffin_lim": "Griffin-Lim, from the same mels",
    "noise": "white noise filtered by the mels",
    "codes": "the recording, encoded and decoded",
}
CLIPS = (
    "means over clips, each compared with its recording; the first {seconds:g} s of each file at {rate} Hz, generated "
    "from its mels at temperature {temperature:g} with guidance {guidance:g}. "
)


@dataclass(frozen=True)
class Resynthesis:
    """Mean distance in dB of the model's clips, and of Griffin-Lim's, to the recordings, and all measures.

    ``measures`` has a dictionary for each of :data:`SOURCES`, by the names of
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
        for source, text in SOURCES.items():
            values = [self.measures[source][name] for name in names]
            rows.append([text, *("-" if value is None else f"{value:.2f}" for value in values)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, f"{self.clips} clips", f"({self.definition})"])


def griffin_lim(features: LogMel, mels: Tensor, iterations: int = 60, seed: int = 0) -> Tensor:
    """Reconstructs sound ``(frames * hop_length,)`` from log-mels ``(n_mels, frames)`` with librosa.

    Non-negative least squares gives the magnitudes; Griffin & Lim (1984), in the fast version of Perraudin et al.
    (2013), gives the phases.
    """
    from librosa import griffinlim

    options = {"n_fft": features.n_fft, "n_iter": iterations, "random_state": seed}
    return _invert(features, mels, lambda magnitudes, common: griffinlim(magnitudes, **options, **common))


def filtered_noise(features: LogMel, mels: Tensor, seed: int = 0) -> Tensor:
    """White noise with the magnitudes of log-mels ``(n_mels, frames)``: sound ``(frames * hop_length,)`` without pitch.

    The baseline of a vocoder that has learned the spectrum and nothing else.
    """
    from librosa import istft, stft

    def excite(magnitudes: np.ndarray, common: dict) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal(common["length"])
        spectrum = stft(noise, n_fft=features.n_fft, hop_length=common["hop_length"])
        spectrum /= np.sqrt(np.mean(np.abs(spectrum) ** 2))
        return istft(magnitudes * spectrum[:, : magnitudes.shape[1]], n_fft=features.n_fft, **common)

    return _invert(features, mels, excite)


def _invert(features: LogMel, mels: Tensor, synthesize: Callable[[np.ndarray, dict], np.ndarray]) -> Tensor:
    """Sound of log-mels: ``synthesize`` makes it from magnitudes, ``(n_fft // 2 + 1, frames + 1)``."""
    from librosa.util import nnls

    magnitudes = nnls(features.bands().double().numpy(), features.magnitudes(mels).double().cpu().numpy())
    # librosa's frames are centered on multiples of the hop; those of LogMel half a hop later.
    shift, time = features.hop_length // 2, features.hop_length * mels.shape[1]
    common = {"hop_length": features.hop_length, "length": time + shift}
    sound = synthesize(np.pad(magnitudes, [(0, 0), (0, 1)], mode="edge"), common)
    return torch.from_numpy(np.pad(sound, (shift, 0))[:time].astype(np.float32))


def resynthesize(
    model: WaveNet,
    recordings: Iterable[Tensor],
    speakers: Iterable[str] | None = None,
    seconds: float = 3.0,
    seed: int = 0,
    temperature: float = 1.0,
    guidance: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Resynthesis:
    """Generates the start of each recording from its log-mels and compares it with the recording.

    Beside the model's clips it measures those of Griffin-Lim, filtered noise, and the recordings after encoding and
    decoding, the best that the model's codes allow.

    Args:
        model: conditioned on log-mels.
        recordings: float ``(time,)`` in [-1, 1] at the model's sample rate.
        speakers: speaker of each recording, for a model with speakers.
        seconds: length of the start of each recording.
        seed: of the first clip; clip i uses ``seed + i``.
        temperature, guidance: see :func:`wavedil.audio.generate`.
        progress: called with the number of finished clips and the number of clips.

    Raises:
        WavedilError: the model is not conditioned on log-mels, or no recording has 1024 samples.
    """
    local = model.conditioner.upsampling
    features = getattr(local, "features", None)
    if not isinstance(features, LogMel):
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
    found: dict[str, list[dict[str, float]]] = {source: [] for source in SOURCES}
    for index, (clip, speaker) in enumerate(clips):
        mels = model.features(clip.unsqueeze(0))
        options = {"condition": mels, "speaker": speaker, "temperature": temperature, "guidance": guidance}
        sounds = {
            "model": generate(model, len(clip), seed=seed + index, **options)[0, 0].cpu(),
            "griffin_lim": griffin_lim(features, mels[0]),
            "noise": filtered_noise(features, mels[0]),
            "codes": model.decode(model.encode(clip)),
        }
        for source, sound in sounds.items():
            found[source].append(speech_measures(sound, clip, model.sample_rate))
        if progress is not None:
            progress(index + 1, len(clips))
    measures = {source: mean_measures(each) for source, each in found.items()}
    settings = {"rate": model.sample_rate, "seconds": seconds, "temperature": temperature, "guidance": guidance}
    distances = (measures[source]["log_spectral_distance"] for source in ("model", "griffin_lim"))
    return Resynthesis(*distances, len(clips), measures, CLIPS.format(**settings) + DEFINITION)
