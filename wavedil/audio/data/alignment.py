"""Delay between the input and the target of an effect, and its removal."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wavedil.errors import WavedilError, shown

_LENGTH = 2**16  # samples of an excerpt of the input
_EXCERPTS = 6  # loud excerpts, spread over the recording
_SHORTEST = 4096  # samples; delays of shorter recordings are not estimated
TOLERANCE = 5e-4  # seconds that filters of an effect may shift the peak of the correlation
MARGIN = 2.5e-4  # seconds of a delay that are left, since the peak can be late by the delay of filters
UNRELATED = 0.1  # correlation below which sounds do not belong together
_CLEAR = 1.15  # a delay is certain if its correlation is this many times any other: 1.4 to 14 for music, 1.0 for a tone
_GAINS = (0.0, 1.0, 4.0, 16.0)  # of the clipping that is assumed, relative to the RMS of the input; 0 for none
MAX_SECONDS = 10.0  # of a delay that the user sets

Align = int | str  # "auto", "none" or samples


@dataclass(frozen=True)
class Delay:
    """Result of :func:`estimate_delay`.

    Args:
        samples: by which the target is late; negative if it is early.
        correlation: of input and target at this delay, -1 to 1; negative for inverted polarity.
        other: largest absolute correlation at a delay that differs by more than a millisecond.
    """

    samples: int
    correlation: float
    other: float

    @property
    def certain(self) -> bool:
        return abs(self.correlation) >= max(UNRELATED, _CLEAR * self.other)


def estimate_delay(dry: np.ndarray, wet: np.ndarray, sample_rate: int) -> Delay | None:
    """Estimates the delay of an effect's output by cross-correlation of several loud excerpts.

    The input is correlated with the target as it is, clipped at several gains, and each of these after a high-pass
    filter, as pedals have it. The one that resembles the target most decides: the peak of the correlation of two
    sounds with different distortion can be several samples off.

    Args:
        dry, wet: input and target, ``(time,)`` of the same length. Delays up to a second are found, or up to half the
            length of a shorter recording.
        sample_rate: in Hz.

    Returns:
        The delay; None if the recording is too short or silent.
    """
    if len(dry) < _SHORTEST:
        return None
    length = min(_LENGTH, len(dry) - 1)
    reach = min(sample_rate, length // 2)
    rms = float(np.sqrt(np.square(dry).mean(dtype=np.float64)))
    total, count = 0, 0
    for start in _loud_excerpts(np.diff(dry), length):
        around = np.zeros(length + 2 * reach)
        first, last = max(0, start - reach), min(len(wet) - 1, start + length + reach)
        # Differences: low frequencies have wide peaks, and an offset correlates at every delay.
        around[first - start + reach : last - start + reach] = np.diff(wet[first : last + 1].astype(np.float64))
        size = 1 << (len(around) - 1).bit_length()
        spectrum = np.fft.rfft(around, size)
        energy = np.concatenate([[0], np.cumsum(around**2)])
        energies = energy[length:] - energy[:-length]
        energies = np.maximum(energies, 1e-3 * energies.max())
        if not energies.max() > 0:
            continue
        correlations = []
        for version in _versions(dry[start : start + length + 1].astype(np.float64), rms, sample_rate):
            products = np.fft.irfft(spectrum * np.fft.rfft(version, size).conj(), size)[: 2 * reach + 1]
            correlations.append(products / np.sqrt(max((version**2).sum(), 1e-30) * energies))
        total, count = total + np.stack(correlations), count + 1
    if not count:
        return None
    correlation = (total / count)[int(np.abs(total).max(axis=1).argmax())]
    best, near = int(np.abs(correlation).argmax()), max(1, round(1e-3 * sample_rate))
    others = np.abs(np.delete(correlation, slice(max(0, best - near), best + near + 1)))
    return Delay(best - reach, float(correlation[best]), float(others.max(initial=0)))


def _versions(sound: np.ndarray, rms: float, sample_rate: int) -> Iterator[np.ndarray]:
    """Differences of a sound, clipped at several gains, without and with a high-pass filter of 0.5 ms before it."""
    times = np.arange(max(1, round(2e-3 * sample_rate)))
    response = np.exp(-times / (5e-4 * sample_rate))
    low = np.convolve(sound, response / response.sum())[: len(sound)]
    for base in (sound, sound - low):
        for gain in _GAINS:
            yield np.diff(np.tanh(gain / max(rms, 1e-9) * base) if gain else base)


def _loud_excerpts(sound: np.ndarray, length: int) -> list[int]:
    """First samples of the loudest excerpt of each part of a sound."""
    count = len(sound) // length
    energies = (sound[: count * length].reshape(count, length) ** 2).sum(axis=1)
    parts = np.array_split(np.arange(count), min(_EXCERPTS, count))
    return [length * int(part[energies[part].argmax()]) for part in parts if energies[part].any()]


def parse_align(align: Align, sample_rate: int) -> Align:
    """Returns ``"auto"``, ``"none"`` or a number of samples; raises WavedilError if it is none of these."""
    limit = round(MAX_SECONDS * sample_rate)
    if isinstance(align, str) and re.fullmatch(r"[+-]?\d{1,9}", align):
        align = int(align)
    if align in ("auto", "none") or (type(align) is int and abs(align) <= limit):
        return align
    raise WavedilError(
        f"align is {shown(align)}: expected auto, none, or the samples by which targets are late, -{limit} to {limit} "
        "(negative if they are early)"
    )


def choose_shifts(delays: list[Delay | None], align: Align, sample_rate: int) -> list[int]:
    """Samples by which each target is moved to an earlier time; negative for a later one.

    With ``"auto"``, delays that are certain and longer than half a millisecond are removed, except a quarter of a
    millisecond: a low-pass filter delays the peak of the correlation by up to that, and a causal model cannot learn a
    target that is early. Shorter delays may be those of filters, so they are left, unless targets are early: then all
    of these targets are moved by the same number of samples.
    """
    if align != "auto":
        return [0 if align == "none" else int(align)] * len(delays)
    limit, margin = TOLERANCE * sample_rate, round(MARGIN * sample_rate)
    certain = [delay is not None and delay.certain for delay in delays]
    small = [d.samples for d, is_certain in zip(delays, certain, strict=True) if is_certain and abs(d.samples) <= limit]
    common = min(small, default=0)
    common = common - margin if common < 0 else 0
    return [
        (common if abs(delay.samples) <= limit else delay.samples - margin) if is_certain else 0
        for delay, is_certain in zip(delays, certain, strict=True)
    ]


def shift_pair(dry: np.ndarray, wet: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and target after the target's first ``shift`` samples, or the input's first ``-shift``, are removed."""
    if shift > 0:
        return dry[:-shift], wet[shift:]
    return (dry[-shift:], wet[:shift]) if shift < 0 else (dry, wet)
