"""How near a vocoder's sound is to the recording whose mels it was made from; Griffin and Lim's beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.conditioning.features import LogMel
from wavedil.audio.generation.generate import generate
from wavedil.audio.models.wavenet import WaveNet
from wavedil.errors import WavedilError

FFT, HOP = 1024, 256
RANGE_DB = 80.0  # below a recording's loudest magnitude, all is silence
DEFINITION = (
    "log-spectral distance in dB to the recording: root of the mean square, over frequencies, of the difference of "
    f"magnitudes in dB (held to the {RANGE_DB:.0f} dB below the recording's largest), mean over frames and clips; Hann "
    f"windows of {FFT} samples, hop {HOP}, at {{rate}} Hz; the first {{seconds:g}} s of each file, from its mels, "
    "drawn at temperature {temperature:g} with guidance {guidance:g}"
)


@dataclass(frozen=True)
class Resynthesis:
    distance_db: float  # of the model's clips
    griffin_lim_db: float
    clips: int
    definition: str

    def __str__(self) -> str:
        text = (
            f"{self.distance_db:.2f} dB by the model, {self.griffin_lim_db:.2f} dB by Griffin-Lim, {self.clips} clips"
        )
        return f"{text}\n({self.definition})"


def log_spectral_distance(sound: Tensor, recording: Tensor) -> float:
    """In dB, of two ``(time,)`` of one length: Gray & Markel 1976, on short-time spectra; see DEFINITION."""
    if sound.shape != recording.shape or sound.ndim != 1 or len(sound) < FFT:
        raise WavedilError(
            f"sounds are {tuple(sound.shape)} and {tuple(recording.shape)}: expected (time,) alike, {FFT} at least"
        )
    window = torch.hann_window(FFT, dtype=torch.float64)
    magnitudes = [
        torch.stft(x.double(), FFT, HOP, window=window, return_complex=True).abs() for x in (sound, recording)
    ]
    floor = max(float(magnitudes[1].max()), 1e-9) * 10 ** (-RANGE_DB / 20)
    ours, theirs = (20 * torch.log10(each.clamp(min=floor)) for each in magnitudes)
    return float((ours - theirs).square().mean(0).sqrt().mean())


def griffin_lim(features: LogMel, mels: Tensor, iterations: int = 60, seed: int = 0) -> Tensor:
    """Sound ``(frames * hop,)`` from log-mels ``(n_mels, frames)`` by librosa: non-negative least squares for the
    magnitudes, then Griffin & Lim (1984), fast (Perraudin et al. 2013), for the phases."""
    from librosa import griffinlim
    from librosa.util import nnls

    bands = features.bands().double().numpy()
    magnitudes = nnls(bands, features.magnitudes(mels).double().cpu().numpy())
    # Frames of librosa are centered on multiples of the hop, ours on the middle of their samples: half a hop more.
    shift = features.hop_length // 2
    sound = griffinlim(
        np.pad(magnitudes, [(0, 0), (0, 1)], mode="edge"),
        n_iter=iterations,
        hop_length=features.hop_length,
        n_fft=features.n_fft,
        random_state=seed,
        length=features.hop_length * mels.shape[1] + shift,
    )
    sound = np.pad(sound, (shift, 0))[: features.hop_length * mels.shape[1]]
    return torch.from_numpy(sound.astype(np.float32))


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
    """Makes the first ``seconds`` of each float ``(time,)`` again from its mels, by the model and by Griffin-Lim.

    ``temperature`` and ``guidance`` are those of :func:`wavedil.audio.generate`.

    Raises:
        WavedilError: a model that is not conditioned on log-mels; no recording as long as a window.
    """
    local = model.conditioner.local
    features = getattr(local, "features", None)
    if not isinstance(features, LogMel):
        raise WavedilError(
            "resynthesis is from log-mels, which this model does not hear: train e.g. the recipe vocoder"
        )
    whole = round(seconds * model.sample_rate) // features.hop_length * features.hop_length
    named = zip(recordings, itertools.repeat(None) if speakers is None else speakers, strict=False)
    cut = (
        (recording[: min(whole, len(recording) // features.hop_length * features.hop_length)], name)
        for recording, name in named
    )
    clips = [(clip, name) for clip, name in cut if len(clip) >= FFT]  # over which spectra are compared
    if not clips:
        raise WavedilError(
            f"no recording, of {seconds:g} seconds at most, is as long as {FFT} samples: give longer ones"
        )
    ours = theirs = 0.0
    for index, (clip, name) in enumerate(clips):
        mels = model.features(clip.unsqueeze(0))
        given = {"condition": mels, "speaker": name, "temperature": temperature, "guidance": guidance}
        made = generate(model, len(clip), seed=seed + index, **given)[0, 0].cpu()
        ours += log_spectral_distance(made, clip) / len(clips)
        theirs += log_spectral_distance(griffin_lim(features, mels[0]), clip) / len(clips)
        if progress is not None:
            progress(index + 1, len(clips))
    definition = DEFINITION.format(rate=model.sample_rate, seconds=seconds, temperature=temperature, guidance=guidance)
    return Resynthesis(ours, theirs, len(clips), definition)
