"""Resampling of crops, such that a crop equals the same stretch of the whole sound resampled."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wavedil.errors import WavedilError

_MARGIN = 1024  # samples, at the lower rate, beyond which soxr's filter has nothing left to say
_RATES = (1_000, 768_000)  # Hz; resampling from or to a rate outside means a wrong header


def resampled_length(frames: int, source_rate: int, rate: int) -> int:
    """Samples that `frames` samples become when resampled: frames * rate / source_rate, rounded."""
    return (2 * frames * rate + source_rate) // (2 * source_rate)


def check_rates(path: Path, source_rate: int, rate: int) -> None:
    """Refuse to resample a file from or to a rate that no recording has (a lying header)."""
    if not all(_RATES[0] <= value <= _RATES[1] for value in (source_rate, rate)):
        raise WavedilError(
            f"{path}: cannot resample from {source_rate} to {rate} Hz: both must lie in "
            f"{_RATES[0]}..{_RATES[1]} Hz; if the file's header is wrong, write it anew"
        )


def resample_crop(
    decode: Callable[[int, int | None], np.ndarray],
    source_rate: int,
    rate: int,
    start: int,
    frames: int | None,
) -> np.ndarray:
    """A crop of a sound at another rate, decoding no more than it takes.

    Args:
        decode: gives ``(channels, time)`` from a first sample on, a number of samples (None: all),
            both at `source_rate`; shorter where the sound ends.
        source_rate, rate: in Hz.
        start, frames: the crop, at `rate`.

    Returns:
        float32 ``(channels, time)``, shorter where the sound ends.
    """
    import soxr

    # Decoding begins where both rates have a sample at the same moment, so that the resampler
    # works on the grid that it would use on the whole sound, and a margin before the crop.
    common = math.gcd(source_rate, rate)
    margin = _MARGIN * max(1, math.ceil(source_rate / rate))
    unit = max(0, start * source_rate // rate - margin) // (source_rate // common)
    source_start = unit * (source_rate // common)
    offset = start - unit * (rate // common)
    source_frames = None
    if frames is not None:
        source_frames = -(-(start + frames) * source_rate // rate) + margin - source_start
    source = decode(source_start, source_frames)
    length = resampled_length(source.shape[1], source_rate, rate)
    sound = np.zeros((len(source), length), np.float32)
    if length:
        resampled = soxr.resample(source.T, source_rate, rate)[:length]
        sound[:, : len(resampled)] = resampled.T
    stop = None if frames is None else offset + frames
    return np.ascontiguousarray(sound[:, offset:stop])
