"""Delay between the input and the target of an effect, and whether they belong together."""

from dataclasses import dataclass

import numpy as np

from wavedil.errors import WavedilError

_LENGTH = 2**16  # samples of an excerpt of the input
_EXCERPTS = 6  # loud excerpts, spread over the recording
_SHORTEST = 4096  # samples; delays of shorter recordings are not estimated
_TOLERANCE = 5e-4  # seconds that filters may shift the peak of the correlation
_CORRELATED, _UNRELATED = 0.25, 0.1  # correlation from which a delay is certain; below which sounds are unrelated
_CLEAR = 1.25  # a delay is certain if its correlation is this many times that of no delay; a tone has several peaks


@dataclass(frozen=True)
class Delay:
    """Result of :func:`estimate_delay`.

    Args:
        samples: by which the target is late; negative if it is early.
        correlation: of input and target at this delay, -1 to 1; negative for inverted polarity.
        undelayed: largest absolute correlation within half a millisecond of no delay.
    """

    samples: int
    correlation: float
    undelayed: float

    @property
    def certain(self) -> bool:
        return abs(self.correlation) >= max(_CORRELATED, _CLEAR * self.undelayed)


def estimate_delay(dry: np.ndarray, wet: np.ndarray, sample_rate: int) -> Delay | None:
    """Estimates the delay of an effect's output by cross-correlation of several loud excerpts.

    Args:
        dry, wet: input and target, ``(time,)`` of the same length. Delays up to a second are found, or up to half the
            length of a shorter recording.
        sample_rate: in Hz.

    Returns:
        The delay; None if the recording is too short or silent.
    """
    if len(dry) < _SHORTEST:
        return None
    # Differences: low frequencies have wide peaks, and an offset correlates at every delay.
    dry, wet = (np.diff(sound.astype(np.float64)) for sound in (dry, wet))
    length = min(_LENGTH, len(dry))
    reach = min(sample_rate, length // 2)
    total, count = np.zeros(2 * reach + 1), 0
    for start in _loud_excerpts(dry, length):
        excerpt = dry[start : start + length]
        around = np.zeros(length + 2 * reach)
        first, last = max(0, start - reach), min(len(wet), start + length + reach)
        around[first - start + reach : last - start + reach] = wet[first:last]
        size = 1 << (len(around) - 1).bit_length()
        spectrum = np.fft.rfft(around, size) * np.fft.rfft(excerpt, size).conj()
        products = np.fft.irfft(spectrum, size)[: 2 * reach + 1]
        energy = np.concatenate([[0], np.cumsum(around**2)])
        energies = energy[length:] - energy[:-length]
        scale = np.sqrt((excerpt**2).sum() * np.maximum(energies, 1e-3 * energies.max()))
        if scale.max() > 0:
            total, count = total + products / scale, count + 1
    if not count:
        return None
    correlation = total / count
    near = max(1, round(_TOLERANCE * sample_rate))
    best = int(np.abs(correlation).argmax())
    undelayed = np.abs(correlation[max(0, reach - near) : reach + near + 1]).max()
    return Delay(best - reach, float(correlation[best]), float(undelayed))


def _loud_excerpts(sound: np.ndarray, length: int) -> list[int]:
    """First samples of the loudest excerpt of each part of a sound."""
    count = len(sound) // length
    energies = (sound[: count * length].reshape(count, length) ** 2).sum(axis=1)
    parts = np.array_split(np.arange(count), min(_EXCERPTS, count))
    return [length * int(part[energies[part].argmax()]) for part in parts]


def check_aligned(name: str, dry: np.ndarray, wet: np.ndarray, sample_rate: int, context: int) -> str | None:
    """Checks that the target of an effect can be computed from its input.

    Args:
        name: of the target, for messages.
        dry, wet: input and target, ``(time,)`` of the same length.
        sample_rate: in Hz.
        context: samples before each output sample that the model receives.

    Returns:
        A text about a suspicious pair, whose sounds are identical or unrelated, or whose target is late; else None.

    Raises:
        WavedilError: the target is early, or later than ``context``.
    """
    if np.array_equal(dry, wet):
        return f"{name} is identical to its input: check that it is the recording of the effect"
    delay = estimate_delay(dry, wet, sample_rate)
    if delay is None:
        return None
    samples = abs(delay.samples)
    time = f"{samples} samples ({1e3 * samples / sample_rate:.1f} ms)"
    if abs(delay.correlation) < _UNRELATED:
        return (
            f"{name} does not resemble its input (correlation {abs(delay.correlation):.2f} at best, up to a second "
            "apart): check that the two files belong together"
        )
    if not delay.certain or samples <= _TOLERANCE * sample_rate:
        return None
    if delay.samples < 0:
        raise WavedilError(
            f"{name} is {time} earlier than its input, which no causal model can learn: remove the first {samples} "
            f"samples of the input and the last {samples} of the target"
        )
    late = f"{name} is {time} later than its input"
    cut = f"remove the first {samples} samples of the target and the last {samples} of the input"
    if delay.samples > context:
        raise WavedilError(f"{late}, but the model receives only {context} samples before each output: {cut}")
    return f"{late}: if that is the delay of the sound card and not of the effect, {cut}"
