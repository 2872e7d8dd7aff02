"""Resampling of crops: a crop equals the same part of the resampled sound."""

import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wavedil.errors import WavedilError

_log = logging.getLogger("wavedil")
_MARGIN = 1024  # samples at the lower rate; soxr's filter is shorter
_RATES = (1_000, 768_000)  # Hz; a rate outside means that the file's header is wrong


def resampled_length(frames: int, source_rate: int, rate: int) -> int:
    """Number of samples after resampling: ``frames * rate / source_rate``, rounded."""
    return (2 * frames * rate + source_rate) // (2 * source_rate)


def check_rates(path: Path, source_rate: int, rate: int) -> None:
    """Raises WavedilError for rates that no recording has, which come from wrong headers."""
    if not all(_RATES[0] <= value <= _RATES[1] for value in (source_rate, rate)):
        raise WavedilError(
            f"{path}: cannot resample from {source_rate} to {rate} Hz: expected rates of {_RATES[0]} to {_RATES[1]} "
            "Hz; if the file's header is wrong, write the file again"
        )


def log_resampling(rates: Counter[int], rate: int) -> None:
    """Logs one line about the files that are resampled; ``rates`` has the number of files of each rate."""
    others = [(count, "file" if count == 1 else "files", source) for source, count in rates.items() if source != rate]
    if others:
        texts = [f"{count} {noun} from {source} Hz" for count, noun, source in sorted(others, reverse=True)]
        _log.info("resampling %s to %d Hz", " and ".join(texts), rate)


def resample_crop(
    decode: Callable[[int, int | None], np.ndarray],
    source_rate: int,
    rate: int,
    start: int,
    frames: int | None,
) -> np.ndarray:
    """Reads a crop of a sound at another rate; decodes only the part that is needed.

    Args:
        decode: called with a first sample and a number of samples (None for all), both at ``source_rate``; returns
            ``(channels, time)``, shorter at the end of the sound.
        source_rate, rate: in Hz.
        start, frames: the crop, at ``rate``.

    Returns:
        float32 ``(channels, time)``, shorter at the end of the sound.
    """
    import soxr

    # Decoding starts at least a margin before the crop, at a time when both rates have a sample. So the resampled crop
    # is on the same time grid as the resampled file.
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
