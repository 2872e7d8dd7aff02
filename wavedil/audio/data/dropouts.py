"""Faults inside a recording of an effect: constant stretches, repeated buffers, and lost or inserted samples."""

from dataclasses import dataclass

import numpy as np

from wavedil.audio.data.hashes import window_hashes

_SHORTEST = 32  # samples of a constant stretch
_FLAT = 1e-6  # largest difference of neighboring samples in a constant stretch
_SIMILAR = 1.5  # factor between levels of the input that are similar
_SELDOM = 0.1  # share of constant samples, where the input has a similar level, that is seldom
_FAINT, _LOUD = 0.03, 0.5  # least level of the input in a constant stretch, relative to its RMS; if it has a gate
_MANY = 20  # constant stretches, beyond one in a second, that are the work of the effect
_JUMP = 0.25  # least jump at the start or the end of a constant stretch, relative to the RMS around it
_MOVES = 0.7  # least range of the input in a constant stretch, relative to its RMS around it
_WINDOW = 32  # samples of a window that must be repeated
_PIECE = 2**18  # samples that are compared at once
_MOST_LAG = 2**14  # samples between a buffer and its copy
_SECONDS = (0.17, 1.4)  # about the windows for lost samples; shorter ones in short recordings
_GROUP = 4  # blocks of windows before and after a place that are compared
_CLEAR = 1.3  # a change of the delay is certain if its correlation is this many times any other
_STRONG = 0.3  # least correlation at a change of the delay, relative to the usual one
_AGREED = 0.75  # of the evidence of single windows that agrees with a change of the delay
_NEAR = 20  # samples around a peak of the correlation that belong to it
_SHOWN = 5  # faults of a kind in a file


@dataclass(frozen=True)
class Fault:
    """A fault of a recording.

    Args:
        kind: ``"constant"``, ``"repeated"`` or ``"shifted"``.
        start: first sample; for ``"shifted"`` estimated.
        samples: length; for ``"shifted"`` the samples that are lost (negative: inserted).
        value: of a constant stretch; distance of a repeated buffer from the original in samples.
    """

    kind: str
    start: int
    samples: int
    value: float = 0.0

    def line(self, name: str, sample_rate: int, first: int = 0) -> str:
        """A line about it, for a target whose first ``first`` samples were removed before."""
        count = abs(self.samples)
        size = f"{count} samples ({1e3 * count / sample_rate:.3g} ms)"
        at = f"{(self.start + first) / sample_rate:.2f} s"
        if self.kind == "constant":
            value = "silent" if abs(self.value) <= _FLAT else f"constant at {self.value:.3g}"
            what = f"{size} from {at} on are {value}, but the input is not"
        elif self.kind == "repeated":
            what = f"{size} from {at} on repeat the samples {int(self.value)} earlier, but the input does not"
        else:
            what = f"about {size} are {'lost' if self.samples > 0 else 'too many'} near {at}; later ones are shifted"
        return f"{name}: possible drop-out: {what}; not corrected: record again, or cut both files there"


def find_faults(dry: np.ndarray, wet: np.ndarray, sample_rate: int) -> list[Fault]:
    """Finds drop-outs of the target.

    - Constant stretches of 32 samples or more, if the target is seldom constant while the input is as loud: that of a
      gated amplifier is always constant at low levels of the input, and that of a rectifier often at any. In a file
      with a gate, the input must be as loud there as half its RMS.
    - Passages that equal an earlier one, up to 16,384 samples before, bit by bit, although the input differs.
    - Changes of the delay between windows of the recording, by the impulse responses of both sides.

    Args:
        dry, wet: aligned input and target, ``(time,)`` of the same length.
        sample_rate: in Hz.
    """
    moved = shifts(dry, wet, sample_rate)
    slack = max((abs(fault.samples) for fault in moved), default=0)
    return [*constant_stretches(dry, wet, sample_rate), *repeated_buffers(dry, wet, slack), *moved]


def fault_lines(faults: list[Fault], name: str, sample_rate: int, first: int = 0) -> list[str]:
    """One line for each fault, and one for those of a kind beyond the first five; see :meth:`Fault.line`."""
    lines = []
    for kind in dict.fromkeys(fault.kind for fault in faults):
        found = sorted((fault for fault in faults if fault.kind == kind), key=lambda fault: fault.start)
        lines += [fault.line(name, sample_rate, first) for fault in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"{name}: … and {len(found) - _SHOWN} more drop-outs of this kind")
    return lines


def constant_stretches(dry: np.ndarray, wet: np.ndarray, sample_rate: int) -> list[Fault]:
    """Stretches in which the target is constant, although it seldom is when the input is as loud."""
    starts, lengths = _runs(np.abs(np.diff(wet)) <= _FLAT, _SHORTEST - 1)
    is_clipped = np.abs(wet[starts]) > 0.98 * np.abs(wet).max(initial=0)
    starts, lengths = starts[~is_clipped], lengths[~is_clipped] + 1
    if not len(starts):
        return []
    size = max(_SHORTEST, sample_rate // 100)
    count = -(-len(wet) // size)
    is_flat = np.zeros(count * size, bool)
    for start, length in zip(starts, lengths, strict=True):
        is_flat[start : start + length] = True
    flat = is_flat.reshape(count, size).mean(1)
    levels = np.array([np.std(dry[first : first + size]) for first in range(0, len(wet), size)])
    order = np.argsort(levels)
    ordered, flat_before = levels[order], np.concatenate([[0.0], np.cumsum(flat[order])])
    rms, found = float(np.std(dry)), []
    lowest = np.searchsorted(ordered, 1e-4 * rms)  # below is digital silence
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        level = _level(dry, start, length, size)
        low, high = np.searchsorted(ordered, (level / _SIMILAR, level * _SIMILAR))
        low = low if level > _LOUD * rms else min(low, lowest)
        is_seldom = flat_before[high] - flat_before[low] - length / size <= _SELDOM * (high - low)
        if level > _FAINT * rms and is_seldom and _is_cut(dry, wet, start, length, size):
            found.append(Fault("constant", start, length, float(wet[start])))
    if len(found) > _MANY + len(wet) / sample_rate:
        usual = np.quantile([fault.samples for fault in found], 0.95)
        found = [fault for fault in found if fault.samples > 4 * usual]
    return found


def _level(sound: np.ndarray, start: int, length: int, size: int) -> float:
    """RMS in a stretch; of a short one the lower one before and after its middle, since a gate opens at an attack."""
    if length < size:
        parts = sound[max(0, start + length - size) : start + length], sound[start : start + size]
        return float(min(np.std(part) for part in parts))
    return float(np.median([np.std(sound[at : at + size]) for at in range(start, start + length - size + 1, size)]))


def _is_cut(dry: np.ndarray, wet: np.ndarray, start: int, length: int, size: int) -> bool:
    """Whether a constant stretch begins or ends with a jump, and the input moves in it as around it."""
    stop = start + length
    before, after = wet[max(0, start - size) : start], wet[stop : stop + size]
    if not len(before):
        return False
    jumps = [abs(float(wet[start] - before[-1])), abs(float(after[0] - wet[start])) if len(after) else 0.0]
    if max(jumps) < _JUMP * max(np.std(before), np.std(after) if len(after) else 0.0):
        return False
    return np.ptp(dry[start:stop]) > _MOVES * np.std(dry[max(0, start - size) : stop + size])


def _runs(flags: np.ndarray, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """First samples and lengths of the runs of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    keep = lengths >= shortest
    return starts[keep], lengths[keep]


def repeated_buffers(dry: np.ndarray, wet: np.ndarray, slack: int = 0) -> list[Fault]:
    """Passages of the target that equal an earlier one, although none of the input within ``slack`` samples does."""
    found = _repeats(wet)
    recurring = np.zeros(len(dry), bool)
    for start, stop, _ in _repeats(dry) if found else ():
        recurring[start:stop] = True
    return [
        Fault("repeated", start, stop - start, lag)
        for start, stop, lag in found
        if not recurring[max(0, start - _WINDOW - slack) : stop + slack].mean() > 0.25
    ]


def _repeats(sound: np.ndarray) -> list[tuple[int, int, int]]:
    """First sample, last + 1, and distance to the original of passages that equal an earlier one."""
    found, end = [], 0  # end of the last passage
    overlap = _MOST_LAG + _WINDOW
    for begin in range(0, len(sound), _PIECE):
        first = max(0, begin - overlap)
        part = sound[first : begin + _PIECE]
        if len(part) < 2 * _WINDOW:
            continue
        hashes = window_hashes(part, _WINDOW)
        # An eighth of the windows, chosen by their content, so that copies are chosen, too.
        places = np.flatnonzero((hashes >> np.uint64(40)) % np.uint64(8) == 0)
        places = places[np.argsort(hashes[places], kind="stable")]
        same = (hashes[places[1:]] == hashes[places[:-1]]) & (np.diff(places) <= _MOST_LAG)
        twos, lags = first + places[1:][same], np.diff(places)[same]
        for index in np.argsort(twos, kind="stable"):
            two, lag = int(twos[index]), int(lags[index])
            if two >= end and _is_sound(sound[two : two + _WINDOW]):
                start, stop = _extent(sound, two, lag)
                end = max(end, stop)
                if stop - start >= 1.5 * _WINDOW and _is_sound(sound[start:stop]):
                    found.append((start, stop, lag))
    return found


def _is_sound(part: np.ndarray) -> bool:
    """Whether samples differ so much that they do not recur by chance."""
    values = np.unique(part[: 4 * _WINDOW])
    return len(values) >= _WINDOW // 2 and values[-1] - values[0] > 128 * np.diff(values).min()


def _extent(sound: np.ndarray, at: int, lag: int) -> tuple[int, int]:
    """First and last + 1 sample of the passage around ``at`` that equals the one ``lag`` samples before."""
    start = stop = at
    while stop < len(sound):
        differs = np.flatnonzero(
            sound[stop : stop + _PIECE] != sound[stop - lag : stop + _PIECE - lag][: len(sound) - stop]
        )
        if len(differs):
            stop += int(differs[0])
            break
        stop = min(len(sound), stop + _PIECE)
    while start > lag:
        first = max(lag, start - _PIECE)
        differs = np.flatnonzero(sound[first:start] != sound[first - lag : start - lag])
        if len(differs):
            return first + int(differs[-1]) + 1, stop
        start = first
    return start, stop


def shifts(dry: np.ndarray, wet: np.ndarray, sample_rate: int) -> list[Fault]:
    """Places at which the delay of the target changes, by 3 samples to 0.7 s."""
    fine, changes = None, []
    for seconds in _SECONDS:
        size = 2 ** round(np.log2(max(256.0, seconds * sample_rate)))
        while 256 < size > len(dry) // 16:
            size //= 2
        if changes or len(dry) < 16 * size or (fine is not None and fine.is_related):
            break
        windows = _Windows(dry, wet, size)
        fine, changes = fine or windows, windows.changes()
    places = [(fine.place(start, stop, lag), lag) for start, stop, lag in changes]
    return [Fault("shifted", place, lag) for place, lag in places if place is not None]


class _Windows:
    """Windows of the differences of input and target; low frequencies have wide peaks in the correlation.

    Each window of the target is twice as long and centered, so delays up to half a window do not lower a correlation.
    """

    def __init__(self, dry: np.ndarray, wet: np.ndarray, size: int):
        self.sounds, self.size, self.hop = (np.diff(dry), np.diff(wet)), size, size // 2
        self.count, self.window = (len(dry) - 1 - size) // self.hop + 1, np.hanning(size).astype(np.float32)
        self.threshold = 1e-3 * np.square(self.sounds[0], dtype=np.float64).mean()
        self.block = max(1, min(6, self.count // 32))  # windows that are added up

    def _sums(self, first: int, stop: int, lag: int = 0) -> np.ndarray:
        """Cross spectrum and the power spectra of input and target, which is moved ``lag`` samples later.

        They are added up over windows: ``(3, size + 1)``.
        """
        size, reach = self.size, self.size // 2
        total = np.zeros((3, size + 1), np.complex64)
        for start in range(first * self.hop, min(stop, self.count) * self.hop, self.hop):
            dry = self.sounds[0][start : start + size]
            if np.square(dry).mean() <= self.threshold:
                continue
            around = np.zeros(2 * size, np.float32)
            early = start - reach - lag
            part = self.sounds[1][max(0, early) : max(0, early + 2 * size)]
            around[max(0, -early) :][: len(part)] = part
            x, y = np.fft.rfft(dry * self.window, 2 * size), np.fft.rfft(around)
            for row, product in zip(total, (y * x.conj(), x * x.conj(), y * y.conj()), strict=True):
                row += product
        return total

    def _response(self, sums: np.ndarray) -> np.ndarray:
        """Frequency response, relative to the power: its absolute value is the coherence."""
        cross, dry, wet = sums[0], sums[1].real.astype(np.float64), sums[2].real.astype(np.float64)
        return cross / np.sqrt(dry * wet + 1e-4 * dry.mean() * wet.mean() + 1e-30)

    def _correlation(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Of the impulse responses of two sums, -1 to 1, at lags from ``-size / 2`` to ``size / 2``."""
        one, two = self._response(before), self._response(after)
        products = np.fft.irfft(one * two.conj()) * self.size / max(np.linalg.norm(one) * np.linalg.norm(two), 1e-30)
        return np.roll(products, self.hop)[: self.size + 1]

    def changes(self) -> list[tuple[int, int, int]]:
        """Changes of the delay: start and stop of a part with the change near its middle, and the lost samples."""
        blocks = [self._sums(first, first + self.block) for first in range(0, self.count, self.block)]
        group = max(1, min(_GROUP, len(blocks) // 4))
        places = range(group, len(blocks) - group + 1)
        found = [self._change(sum(blocks[k - group : k]), sum(blocks[k : k + group])) for k in places]
        strengths = [strength for *_, strength in found]
        usual = np.quantile(strengths or [0.0], 0.75)
        self.is_related = min(strengths, default=0.0) > 0.5 * usual
        found = [(lag, certain) if strength > _STRONG * usual else (0, 0.0) for lag, certain, strength in found]
        changes, step = [], self.block * self.hop
        for index in sorted(range(len(found)), key=lambda index: -found[index][1]):
            lag, certain = found[index]
            if not lag:
                continue
            k, around = places[index], [each[0] for each in found[max(0, index - 1) : index + 2]]
            far = self._change(sum(blocks[max(0, k - 3 * group) : k - 1]), sum(blocks[k + 1 : k + 3 * group]))
            if (certain > 2 or around.count(lag) > 1) and abs(far[0] - lag) <= 1:
                changes.append(((k - group) * step, (k + group) * step, lag))
            near = range(max(0, index - 2 * group), min(len(found), index + 2 * group + 1))
            for other in near:
                found[other] = 0, 0.0
        return changes

    def _change(self, before: np.ndarray, after: np.ndarray) -> tuple[int, float, float]:
        """By how much the target is earlier after a place than before it, or 0; certainty; correlation."""
        correlation = self._correlation(before, after)
        best, middle = int(correlation.argmax()), self.hop
        others = np.delete(correlation, slice(max(0, best - _NEAR), best + _NEAR + 1)).max()
        same = correlation[middle - 1 : middle + 2].max()
        certain = float(correlation[best] / max(others, same, 1e-30))
        changed = abs(best - middle) >= 3 and certain > _CLEAR
        return best - middle if changed else 0, certain if changed else 0.0, float(correlation[best])

    def place(self, start: int, stop: int, lag: int) -> int | None:
        """First sample after a change of the delay in a part, or None if the windows do not agree that there is one."""
        first, last = start // self.hop, min(stop // self.hop, self.count)
        before = self._sums(first, first + max(1, (last - first) // 4))
        fits = np.zeros(last - first)  # by how much each window fits the delay after the change better
        for window in range(first, last):
            moved, same = (self._correlation(before, self._sums(window, window + 1, by))[self.hop] for by in (lag, 0))
            fits[window - first] = moved - same
        count = int(np.cumsum(fits).argmin()) + 1
        agreement = fits[count:].sum() - fits[:count].sum()
        return (first + count) * self.hop + self.hop // 2 if agreement > _AGREED * np.abs(fits).sum() else None
