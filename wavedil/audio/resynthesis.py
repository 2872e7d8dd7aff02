"""Evaluates a vocoder: spectral distance of clips generated from log-mels to the recordings, beside Griffin-Lim's."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.conditioning.features import LogMel
from wavedil.audio.generation.generate import generate
from wavedil.audio.models.wavenet import WaveNet
from wavedil.audio.spectrogram import hann_stft
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, matched

FFT, HOP = 1024, 256
RANGE_DB = 80.0  # magnitudes more than this below the recording's largest count as equal
DEFINITION = (
    "log-spectral distance to the recording in dB: root mean square over frequencies of the difference of magnitudes "
    f"in dB (clamped at {RANGE_DB:.0f} dB below the recording's largest), mean over frames and clips; Hann windows of "
    f"{FFT} samples, hop {HOP}, at {{rate}} Hz; the first {{seconds:g}} s of each file, generated from its mels at "
    "temperature {temperature:g} with guidance {guidance:g}"
)


@dataclass(frozen=True)
class Resynthesis:
    """Mean distance in dB of the model's clips, and of Griffin-Lim's, to the recordings."""

    distance_db: float
    griffin_lim_db: float
    clips: int
    definition: str

    def __str__(self) -> str:
        text = (
            f"{self.distance_db:.2f} dB by the model, {self.griffin_lim_db:.2f} dB by Griffin-Lim, {self.clips} clips"
        )
        return f"{text}\n({self.definition})"


def log_spectral_distance(sound: Tensor, recording: Tensor) -> float:
    """Log-spectral distance in dB (Gray & Markel 1976) on short-time spectra; see ``DEFINITION``.

    Args:
        sound, recording: ``(time,)`` of the same length, at least 1024 samples.
    """
    sound, recording = to_tensor("sound", sound), to_tensor("recording", recording)
    if sound.shape != recording.shape or sound.ndim != 1 or len(sound) < FFT:
        raise WavedilError(
            f"sound is {tuple(sound.shape)} and recording {tuple(recording.shape)}: expected (time,) of the same "
            f"length, at least {FFT}"
        )
    magnitudes = [hann_stft(x.double(), FFT, HOP).abs() for x in (sound, recording)]
    floor = max(float(magnitudes[1].max()), 1e-9) * 10 ** (-RANGE_DB / 20)
    ours, theirs = (20 * torch.log10(each.clamp(min=floor)) for each in magnitudes)
    return float((ours - theirs).square().mean(0).sqrt().mean())


def griffin_lim(features: LogMel, mels: Tensor, iterations: int = 60, seed: int = 0) -> Tensor:
    """Reconstructs sound ``(frames * hop_length,)`` from log-mels ``(n_mels, frames)`` with librosa.

    Non-negative least squares gives the magnitudes; Griffin & Lim (1984), in the fast version of Perraudin et al.
    (2013), gives the phases.
    """
    from librosa import griffinlim
    from librosa.util import nnls

    bands = features.bands().double().numpy()
    magnitudes = nnls(bands, features.magnitudes(mels).double().cpu().numpy())
    # librosa's frames are centered on multiples of the hop; those of LogMel half a hop later.
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
    """Generates the start of each recording from its log-mels, by the model and by Griffin-Lim, and compares them.

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
    ours = theirs = 0.0
    for index, (clip, speaker) in enumerate(clips):
        mels = model.features(clip.unsqueeze(0))
        options = {"condition": mels, "speaker": speaker, "temperature": temperature, "guidance": guidance}
        generated = generate(model, len(clip), seed=seed + index, **options)[0, 0].cpu()
        ours += log_spectral_distance(generated, clip) / len(clips)
        theirs += log_spectral_distance(griffin_lim(features, mels[0]), clip) / len(clips)
        if progress is not None:
            progress(index + 1, len(clips))
    definition = DEFINITION.format(rate=model.sample_rate, seconds=seconds, temperature=temperature, guidance=guidance)
    return Resynthesis(ours, theirs, len(clips), definition)
