"""Findings about the input and the target of an effect, one line each, with figures and corrections."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wavedil.audio.data.alignment import TOLERANCE, UNRELATED, Align, Delay
from wavedil.audio.data.hashes import window_hashes
from wavedil.errors import printable

FULL_SCALE = 0.999
OFFSET = 0.01  # mean, as a fraction of full scale
_RUN = 3  # equal samples in a row at the peak
_QUIET = 1e-5  # -100 dB of full scale
_SHOWN = 20  # lines
_PASSAGE = 2**12  # samples that must repeat for a replicate
_LONGEST = 2**24  # samples that are searched for replicates, 6 minutes at 48 kHz


@dataclass
class Findings:
    """Findings about pairs of recordings, and the corrections that were made.

    Args:
        lines: one for each finding.
        noise_floor: error-to-signal ratio, in percent, between two passes of one passage; None without a passage that
            occurs twice.
        rates: sample rate of each file in Hz.
    """

    lines: list[str] = field(default_factory=list)
    noise_floor: float | None = None
    rates: dict[Path, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """The first lines, and the number of the others."""
        more = len(self.lines) - _SHOWN
        shown = self.lines[:_SHOWN] + ([f"… and {more} more lines about the recordings"] if more > 0 else [])
        return "\n".join(printable(line) for line in shown)


def level_findings(name: str, sound: np.ndarray) -> list[str]:
    """Lines about clipping and offset of a sound ``(time,)``."""
    found = []
    peak = float(np.abs(sound).max())
    runs = [run for side in (sound, -sound) for run in _flat_runs(side)]
    if len(runs) >= 3 or (runs and peak >= FULL_SCALE):
        share = 100 * sum(runs) / len(sound)
        found.append(
            f"{name}: possible clipping: {sum(runs)} samples ({share:.2g} %) in {len(runs)} runs of {_RUN} or more "
            f"at the peak, {peak:.3f}; not corrected: unless the effect itself clips, record again at a lower level"
        )
    mean = float(sound.mean(dtype=np.float64))
    if abs(mean) > OFFSET:
        found.append(f"{name}: DC offset, mean {mean:+.3f} of full scale; not corrected: models learn that of a target")
    return found


def _flat_runs(sound: np.ndarray) -> np.ndarray:
    """Lengths of the runs of samples at the maximum of a sound."""
    peak = float(sound.max())
    if peak < 100 * _QUIET:
        return np.zeros(0, np.int64)
    flat = np.concatenate([[False], sound >= peak * (1 - 1e-6), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = edges[1::2] - edges[::2]
    return lengths[lengths >= _RUN]


def cut_short(dry: np.ndarray, wet: np.ndarray, sample_rate: int) -> int | None:
    """Length of the target up to the digital silence at its end, if half a second or more of it has an input."""
    loud = np.flatnonzero(np.abs(wet) > _QUIET)
    stop = int(loud[-1]) + 1 if len(loud) else len(wet)
    rest = dry[stop + sample_rate // 2 : len(wet)]
    if len(rest) and np.square(rest).mean() > 1e-4 * np.square(dry).mean() > 0:
        return stop
    return None


def delay_line(name: str, dry_name: str, delay: Delay | None, shift: int, align: Align, sample_rate: int) -> str | None:
    """The line about the delay of a target, and about its polarity."""
    if align != "auto":
        return f"{name}: shifted by {_time(shift, sample_rate)}, as set by data.align" if shift else None
    if delay is None:
        return f"{name}: delay unknown, since the recording is too short or silent; to correct one, set data.align"
    if abs(delay.correlation) < UNRELATED:
        return (
            f"{name} does not resemble its input (correlation {abs(delay.correlation):.2f} at best, up to a second "
            "apart): check that the two files belong together"
        )
    polarity = f"; inverted polarity (correlation {delay.correlation:.2f}), which a model can learn"
    polarity = polarity if delay.correlation < 0 else ""
    time = _time(delay.samples, sample_rate)
    if not delay.certain:
        return (
            f"{name}: delay uncertain: {time} or another (correlations {abs(delay.correlation):.2f} and "
            f"{delay.other:.2f}); not corrected: to correct one, set data.align{polarity}"
        )
    if shift == 0:
        reason = (
            f", not corrected: filters of the effect may cause up to {1e3 * TOLERANCE:g} ms" if delay.samples else ""
        )
        return f"{name}: delay of {time}{reason}{polarity}"
    late, early = (name, dry_name) if shift > 0 else (dry_name, name)
    removed = f"the first {abs(shift)} samples of {late} and the last {abs(shift)} of {early} are removed"
    rest = delay.samples - shift
    return (
        f"{name}: delay of {time}, reduced to {_time(rest, sample_rate)}, which filters may cause: {removed}{polarity}"
    )


def _time(samples: int, sample_rate: int) -> str:
    return f"{samples} samples ({1e3 * samples / sample_rate:.4g} ms)"


@dataclass(frozen=True)
class Replicate:
    """A passage of an input that occurs twice: first samples of both, length, and ESR in percent of the targets."""

    first: int
    second: int
    length: int
    esr_percent: float

    def line(self, name: str, dry_name: str, sample_rate: int) -> str:
        first, second, length = (each / sample_rate for each in (self.first, self.second, self.length))
        if not self.esr_percent:
            result = "are equal, so there is no noise"
        else:
            result = f"differ by an ESR of {self.esr_percent:.3g} %; the best possible model has half of it"
        passage = f"{length:.2f} s of {dry_name} from {first:.2f} s on are repeated at {second:.2f} s"
        return f"{name}: noise floor: {passage}; the two recordings of this passage {result}"


def find_replicate(dry: np.ndarray, wet: np.ndarray, settle: int) -> Replicate | None:
    """Finds the longest passage of the input that occurs twice, sample by sample, and compares the targets.

    Args:
        dry, wet: aligned input and target, ``(time,)``.
        settle: samples at the start of the passage that are not compared, since the target still depends on what was
            before it.
    """
    dry, wet = dry[:_LONGEST], wet[:_LONGEST]
    lag = _repeat_lag(dry)
    if lag is None:
        return None
    same = np.concatenate([[False], dry[:-lag] == dry[lag:], [False]])
    edges = np.flatnonzero(same[1:] != same[:-1])
    starts, lengths = edges[::2], np.minimum(edges[1::2] - edges[::2], lag)
    for index in np.argsort(-lengths)[:10]:
        start, length = int(starts[index]) + settle, int(lengths[index]) - settle
        if length < _PASSAGE:
            return None
        one, two = (wet[at : at + length].astype(np.float64) for at in (start, start + lag))
        if np.ptp(dry[start : start + length]) > 100 * _QUIET and one.any():
            esr = 100 * float(np.square(one - two).sum() / np.square(one).sum())
            return Replicate(start, start + lag, length, esr)
    return None


def _repeat_lag(sound: np.ndarray) -> int | None:
    """Distance at which most passages of a sound, bit by bit, occur again; None if there is none."""
    if len(sound) < 2 * _PASSAGE:
        return None
    hashes = window_hashes(sound, _PASSAGE)
    grid = np.arange(0, len(hashes), _PASSAGE // 2)
    grid = grid[[np.ptp(sound[at : at + _PASSAGE]) > 100 * _QUIET for at in grid]]
    order = np.argsort(hashes[grid], kind="stable")
    keys = hashes[grid][order]
    found = np.flatnonzero(np.isin(hashes, keys))
    lags = found - grid[order[np.searchsorted(keys, hashes[found])]]
    lags = lags[lags >= _PASSAGE]
    if not len(lags):
        return None
    values, counts = np.unique(lags, return_counts=True)
    return int(values[counts.argmax()])
