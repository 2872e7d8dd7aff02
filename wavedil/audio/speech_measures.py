"""Measures of generated speech against its recording: what a listener would notice, beside the spectral distance.

PESQ and STOI need the packages ``pesq`` and ``pystoi`` (the extra ``metrics``); without them they are left out.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.conditioning.features import LogMel
from wavedil.audio.spectrogram import hann_stft
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError

FFT, HOP = 1024, 256
RANGE_DB = 80.0  # magnitudes more than this below the recording's largest count as equal
CEPSTRA, BANDS = 13, 80
LOWEST_F0, HIGHEST_F0 = 60.0, 500.0  # Hz
UNITS = {
    "log_spectral_distance": "dB",
    "mel_cepstral_distortion": "dB",
    "f0_error": "cents",
    "voicing_error": "%",
    "pesq": "",
    "stoi": "",
}
DEFINITION = (
    "log-spectral distance: root mean square over frequencies of the difference of magnitudes in dB, mean over frames; "
    f"Hann windows of {FFT} samples, hop {HOP}; magnitudes clamped at {RANGE_DB:.0f} dB below the recording's largest. "
    "Mel-cepstral distortion: 10 / ln 10 * sqrt(2 * sum of the squared differences of cepstra 1 to "
    f"{CEPSTRA} of {BANDS} mel bands), mean over frames, without time warping. F0 error: root mean square over frames "
    f"voiced in both, by pYIN from {LOWEST_F0:.0f} to {HIGHEST_F0:.0f} Hz. Voicing error: share of frames voiced in "
    "only one of the two. PESQ: wide-band at 16 kHz; narrow-band at 8 kHz for rates below 16 kHz"
)


def speech_measures(sound: Tensor, recording: Tensor, sample_rate: int) -> dict[str, float]:
    """All measures of one clip, by the names of :data:`UNITS`; NaN where one is undefined, e.g. pitch without voice.

    Args:
        sound, recording: ``(time,)`` of the same length, at least 1024 samples.
        sample_rate: in Hz.
    """
    sound, recording = _checked(sound, recording)
    f0, voicing = pitch_errors(sound, recording, sample_rate)
    found = {
        "log_spectral_distance": log_spectral_distance(sound, recording),
        "mel_cepstral_distortion": mel_cepstral_distortion(sound, recording, sample_rate),
        "f0_error": f0,
        "voicing_error": voicing,
    }
    return found | {name: measure(sound, recording, sample_rate) for name, measure in _installed().items()}


def log_spectral_distance(sound: Tensor, recording: Tensor) -> float:
    """Log-spectral distance in dB (Gray & Markel 1976) on short-time spectra; see :data:`DEFINITION`.

    Two independent realizations of one white noise are 7.9 dB apart.

    Args:
        sound, recording: ``(time,)`` of the same length, at least 1024 samples.
    """
    sound, recording = _checked(sound, recording)
    magnitudes = [hann_stft(x.double(), FFT, HOP).abs() for x in (sound, recording)]
    ours, theirs = (20 * torch.log10(each) for each in _clamped(*magnitudes))
    return float((ours - theirs).square().mean(0).sqrt().mean())


def mel_cepstral_distortion(sound: Tensor, recording: Tensor, sample_rate: int) -> float:
    """Mel-cepstral distortion in dB (Kubichek 1993), on cepstra of mel bands; see :data:`DEFINITION`.

    The gain, cepstrum 0, does not count.

    Args:
        sound, recording: ``(time,)`` of the same length, at least 1024 samples.
        sample_rate: in Hz; needed for the mel scale.
    """
    sound, recording = _checked(sound, recording)
    features = LogMel(sample_rate, BANDS, FFT, HOP)
    bands = [features.magnitudes(features(x.float().unsqueeze(0))[0]).double() for x in (sound, recording)]
    ours, theirs = (2 * torch.log(each) for each in _clamped(*bands))  # of power
    order = torch.arange(1, CEPSTRA + 1, dtype=torch.float64).unsqueeze(1)
    cosines = torch.cos(math.pi / BANDS * order * (torch.arange(BANDS) + 0.5)) / BANDS
    difference = cosines @ (ours - theirs)
    return float((2 * difference.square().sum(0)).sqrt().mean() * 10 / math.log(10))


def pitch_errors(sound: Tensor, recording: Tensor, sample_rate: int) -> tuple[float, float]:
    """F0 error in cents and voicing error in percent, by pYIN (Mauch & Dixon 2014); see :data:`DEFINITION`.

    Args:
        sound, recording: ``(time,)`` of the same length, at least 1024 samples.
        sample_rate: in Hz.
    """
    from librosa import pyin

    sound, recording = _checked(sound, recording)
    window = 2 ** math.ceil(math.log2(4 * sample_rate / LOWEST_F0))  # four periods of the lowest pitch
    highest = min(HIGHEST_F0, sample_rate / 4)
    pitches, voiced = [], []
    for x in (sound, recording):
        found = pyin(
            x.double().numpy(),
            fmin=LOWEST_F0,
            fmax=highest,
            sr=sample_rate,
            frame_length=window,
            hop_length=window // 4,
        )
        pitches.append(found[0])
        voiced.append(found[1])
    both = voiced[0] & voiced[1]
    cents = 1200 * np.log2(pitches[0][both] / pitches[1][both])
    f0 = math.sqrt(float(np.mean(cents**2))) if both.any() else math.nan
    return f0, 100 * float(np.mean(voiced[0] != voiced[1]))


def pesq(sound: Tensor, recording: Tensor, sample_rate: int) -> float:
    """Perceptual evaluation of speech quality, -0.5 to 4.6 (ITU-T P.862).

    NaN for a clip without speech or shorter than a quarter of a second.
    """
    from pesq import BufferTooShortError, NoUtterancesError
    from torchmetrics.functional.audio import perceptual_evaluation_speech_quality

    rate, mode = (16000, "wb") if sample_rate >= 16000 else (8000, "nb")
    ours, theirs = (_resampled(x, sample_rate, rate) for x in _checked(sound, recording))
    try:
        return float(perceptual_evaluation_speech_quality(ours, theirs, rate, mode))
    except (BufferTooShortError, NoUtterancesError):
        return math.nan


def stoi(sound: Tensor, recording: Tensor, sample_rate: int) -> float:
    """Short-time objective intelligibility, 0 to 1 (Taal et al. 2011); NaN with less than 0.4 seconds of sound."""
    from torchmetrics.functional.audio import short_time_objective_intelligibility

    sound, recording = _checked(sound, recording)
    if not bool(recording.any()):
        return math.nan
    with warnings.catch_warnings(action="error", category=RuntimeWarning):  # it warns, and returns 1e-5
        try:
            return float(short_time_objective_intelligibility(sound.double(), recording.double(), sample_rate))
        except RuntimeWarning:
            return math.nan


def mean_measures(clips: list[Mapping[str, float]]) -> dict[str, float | None]:
    """Means over clips, of those where a measure is defined; None if it is nowhere."""
    means = {}
    for name in clips[0]:
        values = [clip[name] for clip in clips if not math.isnan(clip[name])]
        means[name] = sum(values) / len(values) if values else None
    return means


def _installed() -> dict[str, Callable[[Tensor, Tensor, int], float]]:
    """The measures that need other packages, where these are installed."""
    packages = {"pesq": ("pesq", pesq), "stoi": ("pystoi", stoi)}
    return {name: measure for name, (package, measure) in packages.items() if find_spec(package) is not None}


def _checked(sound: Tensor, recording: Tensor) -> tuple[Tensor, Tensor]:
    sound, recording = to_tensor("sound", sound), to_tensor("recording", recording)
    if sound.shape != recording.shape or sound.ndim != 1 or len(sound) < FFT:
        raise WavedilError(
            f"sound is {tuple(sound.shape)} and recording {tuple(recording.shape)}: expected (time,) of the same "
            f"length, at least {FFT}"
        )
    return sound, recording


def _clamped(sound: Tensor, recording: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes of both, not below the range under the recording's largest."""
    floor = max(float(recording.max()), 1e-9) * 10 ** (-RANGE_DB / 20)
    return sound.clamp(min=floor), recording.clamp(min=floor)


def _resampled(sound: Tensor, sample_rate: int, rate: int) -> Tensor:
    import soxr

    return sound if rate == sample_rate else torch.from_numpy(soxr.resample(sound.numpy(), sample_rate, rate))
