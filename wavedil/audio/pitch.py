"""Fundamental frequency, for checks and reports.

YIN (de Cheveigné and Kawahara 2002, "YIN, a fundamental frequency estimator for speech and music",
JASA 111(4)), steps 1 to 5, in numpy, all frames at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wavedil.errors import WavedilError

_THRESHOLD = 0.15  # largest aperiodic share of a frame's power that still counts as a pitch
_FLOOR = 1e-3  # frames with a lower RMS (-60 dB of full scale) have no pitch
_CHUNK = 512  # frames worked on at a time, to bound memory


def track_pitch(
    sound: np.ndarray,
    sample_rate: int,
    fmin: float = 100.0,
    fmax: float = 700.0,
    hop_seconds: float = 0.01,
) -> tuple[np.ndarray, np.ndarray]:
    """Track the pitch of one voice.

    Args:
        sound: ``(time,)``.
        sample_rate: in Hz.
        fmin, fmax: range of f0 in Hz. A frame spans two periods of `fmin`.
        hop_seconds: time between frames.

    Returns:
        f0 in Hz, float64 ``(frames,)``, NaN where unvoiced, and voiced, bool ``(frames,)``.

    Raises:
        WavedilError: a range that does not fit the rate, or sound that is not ``(time,)``.
    """
    sound = np.asarray(sound, np.float64)
    if sound.ndim != 1:
        raise WavedilError(f"track_pitch: expected one channel, (time,), got shape {sound.shape}")
    if not 0 < fmin < fmax <= sample_rate / 4:
        raise WavedilError(
            f"track_pitch: range {fmin}..{fmax} Hz at {sample_rate} Hz; "
            "expected 0 < fmin < fmax <= a quarter of the sample rate"
        )
    longest = math.ceil(sample_rate / fmin) + 1  # one lag more, for the parabola
    hop = max(1, round(hop_seconds * sample_rate))
    if len(sound) < 2 * longest:
        return np.zeros(0), np.zeros(0, bool)
    frames = np.lib.stride_tricks.sliding_window_view(sound, 2 * longest)[::hop]
    parts = [
        _yin(frames[i : i + _CHUNK], longest, sample_rate / fmax, sample_rate) for i in range(0, len(frames), _CHUNK)
    ]
    f0 = np.concatenate(parts)
    return f0, np.isfinite(f0)


def _yin(frames: np.ndarray, longest: int, shortest: float, sample_rate: int) -> np.ndarray:
    """f0 of each frame ``(frames, 2 * longest)``, NaN where there is none."""
    window = longest
    size = 2 ** math.ceil(math.log2(frames.shape[1] + window))
    spectrum = np.fft.rfft(frames, size)
    head = np.fft.rfft(frames[:, :window], size)
    correlation = np.fft.irfft(spectrum * head.conj(), size)[:, : longest + 1]
    energy = np.cumsum(np.pad(np.square(frames), ((0, 0), (1, 0))), axis=1)
    lags = np.arange(longest + 1)
    moved = energy[:, lags + window] - energy[:, lags]
    # Equation 6: squared difference between the window and itself moved by each lag; rounding may
    # leave it just below zero. Equation 8: divided by its mean over the shorter lags.
    difference = np.maximum(moved[:, :1] + moved - 2 * correlation, 0)[:, 1:]
    mean = np.cumsum(difference, axis=1) / lags[1:]
    normalized = np.divide(difference, mean, out=np.ones_like(mean), where=mean > 0)

    # The first local minimum below the threshold: a deeper one at twice the lag is the octave.
    low = math.floor(shortest) - 1  # lag of column i is i + 1
    inner = normalized[:, max(low, 1) : -1]
    before = normalized[:, max(low, 1) - 1 : -2]
    after = normalized[:, max(low, 1) + 1 :]
    dips = (inner < _THRESHOLD) & (inner <= before) & (inner < after)
    first = np.argmax(dips, axis=1)
    rms = np.sqrt(np.square(frames).mean(axis=1))
    voiced = dips.any(axis=1) & (rms > _FLOOR)

    rows = np.arange(len(frames))
    left, middle, right = before[rows, first], inner[rows, first], after[rows, first]
    curve = left - 2 * middle + right
    shift = np.divide(left - right, 2 * curve, out=np.zeros_like(curve), where=curve > 0)
    lag = first + max(low, 1) + 1 + shift
    return np.where(voiced, sample_rate / lag, np.nan)


def share_on_notes(
    sound: np.ndarray, sample_rate: int, midi_notes: Sequence[float], cents: float = 50.0
) -> dict[str, float]:
    """How much of a sound lies on the notes of a scale.

    Args:
        sound: ``(time,)``.
        sample_rate: in Hz.
        midi_notes: MIDI numbers (69 is 440 Hz). The tracker's range reaches three semitones
            beyond them.
        cents: how far from a note still counts.

    Returns:
        ``voiced``: share of frames that have a pitch; ``on_notes``: share of the voiced frames
        within `cents` of a note (0 if none is voiced); ``chance``: what `on_notes` would be for
        pitches spread evenly, in cents, over the tracker's range; ``rms`` of the sound.
    """
    notes = np.unique(np.asarray(midi_notes, np.float64))
    low, high = notes[0] - 3, notes[-1] + 3
    f0, voiced = track_pitch(sound, sample_rate, midi_to_hz(low), midi_to_hz(high))
    midi = 69 + 12 * np.log2(f0[voiced] / 440)
    distance = np.abs(midi[:, None] - notes).min(axis=1)
    grid = np.linspace(low, high, 10_001)
    return {
        "voiced": float(voiced.mean()) if len(voiced) else 0.0,
        "on_notes": float((distance <= cents / 100).mean()) if len(midi) else 0.0,
        "chance": float((np.abs(grid[:, None] - notes).min(axis=1) <= cents / 100).mean()),
        "rms": float(np.sqrt(np.square(sound, dtype=np.float64).mean())) if len(sound) else 0.0,
    }


def midi_to_hz(note: float) -> float:
    """Frequency of a MIDI note number in equal temperament, 69 being 440 Hz."""
    return 440.0 * 2 ** ((note - 69) / 12)
