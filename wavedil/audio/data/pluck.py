"""Built-in sound: melodies on plucked strings, synthesized by a physical model.

Each note is a string as modeled by Karplus and Strong (1983), with the extensions of Jaffe and Smith (1983, "Extensions
of the Karplus-Strong plucked-string algorithm", Computer Music Journal 7(2)): tuning by a fractional delay in the loop,
a decay time that depends on the pitch, a pick position, and a darker tone for softer strokes. The string starts in the
triangular shape into which a pick pulls it, instead of a burst of noise. The sound is therefore deterministic given
notes and strokes, and almost all of it can be predicted.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.errors import WavedilError
from wavedil.writing import atomic_write, check_replaceable

#: MIDI notes of the melodies: E minor pentatonic, E3 (164.8 Hz) to D5 (587.3 Hz).
SCALE = (52, 55, 57, 59, 62, 64, 67, 69, 71, 74)

PEAK = 0.7  # largest amplitude of the strongest stroke
BEAT = 0.24  # seconds; notes last one or two beats
_FILE_SECONDS = 10.0  # approximate length of each file of a corpus; files end with a phrase
_PICK = 0.23  # position of the pick, as a fraction of the string's length
_RELEASE = 0.012  # seconds of fade-out at the end of each note
_STEPS = (-2, -1, -1, -1, 1, 1, 1, 2)  # scale degrees from one note to the next, drawn with equal probability
_FINALS = tuple(degree for degree, note in enumerate(SCALE) if note % 12 in (4, 7, 11))  # E, G, B end a phrase
_NAMES = re.compile(r"melody_\d{3,}\.wav")
_VERSION = 1  # of the synthesis; a corpus of another version is written again


@dataclass(frozen=True)
class Note:
    """One stroke: MIDI number, start and length in seconds, and velocity in (0, 1]."""

    midi: int
    start: float
    seconds: float
    velocity: float


def pluck(midi: float, seconds: float, velocity: float, sample_rate: int) -> np.ndarray:
    """Synthesizes one plucked string.

    Args:
        midi: MIDI note number, 69 is 440 Hz.
        seconds: duration.
        velocity: strength of the stroke, in (0, 1].
        sample_rate: in Hz.

    Returns:
        float64 ``(time,)`` with a peak of ``0.7 * velocity``.

    Raises:
        WavedilError: the note is above a sixth of the sample rate.
    """
    f0 = 440.0 * 2 ** ((midi - 69) / 12)
    period = sample_rate / f0
    if not 0 < f0 < sample_rate / 6:
        raise WavedilError(f"midi is {midi} ({f0:.0f} Hz): expected below a sixth of the rate, {sample_rate} Hz")
    loop = _loop_filter(f0, period, sample_rate)
    shortest = math.floor(period) - 2  # delay of the loop filter's first tap
    history = shortest + len(loop) - 1
    length = round(seconds * sample_rate)
    sound = np.zeros(history + length + shortest)
    # Initial state of the delay line: the string's initial shape, repeated with its period.
    sound[:history] = _shape(np.arange(-history, 0) / period, f0, velocity, sample_rate)
    # No sample depends on the ``shortest - 1`` samples before it, so a block of ``shortest`` is computed at once.
    for start in range(history, history + length, shortest):
        oldest = start - history
        block = loop[-1] * sound[oldest : oldest + shortest]
        for tap in range(1, len(loop)):
            block += loop[-1 - tap] * sound[oldest + tap : oldest + tap + shortest]
        sound[start : start + shortest] = block
    sound = sound[history : history + length]
    return sound * (PEAK * velocity / np.abs(sound[: math.ceil(2 * period)]).max())


def _loop_filter(f0: float, period: float, sample_rate: int) -> np.ndarray:
    """Taps of the filter that a wave passes once per period: loss, damping of high frequencies, tuning."""
    decay = 3.0 * (165 / f0) ** 0.4  # seconds to fall by 60 dB; shorter for high notes
    gain = 10 ** (-3 / (decay * f0))
    # Weight of the two neighbors in the damping filter, whose loss grows with the frequency. High notes pass it more
    # often, so their loss per period is smaller.
    dull = min(0.05 * (165 / f0) * (sample_rate / 8000), 0.25)
    # Third-order Lagrange interpolation between samples 0..3; the fraction is in its middle, where it is most exact.
    fraction = period - math.floor(period) + 1
    order = np.arange(4.0)
    lagrange = np.array([np.prod([(fraction - j) / (i - j) for j in order if j != i]) for i in order])
    return gain * np.convolve([dull, 1 - 2 * dull, dull], lagrange)


def _shape(phase: np.ndarray, f0: float, velocity: float, sample_rate: int) -> np.ndarray:
    """Force on the bridge of a string that starts as a triangle; band-limited, odd in time.

    Harmonic k has amplitude sin(k pi pick) / k; soft strokes attenuate high harmonics.

    Args:
        phase: time in periods, ``(time,)``.
    """
    harmonics = np.arange(1, math.floor(0.45 * sample_rate / f0) + 1)
    corner = 700 + 2300 * velocity  # Hz
    strength = np.sin(harmonics * math.pi * _PICK) / harmonics
    strength /= 1 + (harmonics * f0 / corner) ** 2
    return np.sin(2 * math.pi * phase[:, None] * harmonics) @ strength


def render_melody(notes: Sequence[Note], sample_rate: int) -> np.ndarray:
    """Synthesizes a monophonic melody.

    Args:
        notes: sorted by start.
        sample_rate: in Hz, at least six times the highest frequency.

    Returns:
        float32 ``(time,)``, up to the end of the last note; the peak is at most 0.7.

    Raises:
        WavedilError: there are no notes, they are not sorted, or one is too high for the rate.
    """
    if not notes or any(a.start > b.start for a, b in zip(notes, notes[1:], strict=False)):
        raise WavedilError("notes: expected at least one note, sorted by start")
    release = round(_RELEASE * sample_rate)
    total = round((notes[-1].start + notes[-1].seconds) * sample_rate)
    sound = np.zeros(total)
    for note in notes:
        start = round(note.start * sample_rate)
        stop = min(round((note.start + note.seconds) * sample_rate), total)
        string = pluck(note.midi, note.seconds, note.velocity, sample_rate)[: stop - start]
        fade = min(release, len(string))
        string[len(string) - fade :] *= np.linspace(1, 0, fade)
        sound[start:stop] += string
    return sound.astype(np.float32)


def compose(seconds: float, generator: np.random.Generator) -> list[Note]:
    """Composes a melody of at least ``seconds``: phrases of eight beats that move by small steps on ``SCALE``.

    A phrase ends on a long E, G or B. The next phrase is new, or starts with the first half of the one before.
    """
    notes: list[Note] = []
    start, degree = 0.0, len(SCALE) // 2
    phrase: list[tuple[int, int]] = []  # scale degree, beats
    while start < seconds:
        phrase = phrase[: len(phrase) // 2] if generator.integers(2) else []
        beats = sum(length for _, length in phrase)
        while beats < 8:
            degree = phrase[-1][0] if phrase else degree
            step = _STEPS[generator.integers(len(_STEPS))]
            degree += step if 0 <= degree + step < len(SCALE) else -step
            if beats == 6:
                degree = min(_FINALS, key=lambda final: abs(final - degree))
            length = 2 if beats == 6 or (beats < 5 and generator.integers(4) == 0) else 1
            phrase.append((degree, length))
            beats += length
        beats = 0
        for degree, length in phrase:
            velocity = 1.0 if beats % 4 == 0 else 0.85 if beats % 2 == 0 else 0.7
            notes.append(Note(SCALE[degree], round(start, 4), length * BEAT, velocity))
            start += length * BEAT
            beats += length
    return notes


def make_corpus(
    folder: str | os.PathLike[str], seconds: float = 180.0, sample_rate: int = 8000, seed: int = 0
) -> list[Path]:
    """Writes melodies of about 10 s each as 16-bit wav files, and their notes as ``notes.json``.

    The same arguments give the same files on each machine. A complete folder with the same arguments is not written
    again; files of other arguments are replaced. Files of other names stay.

    Args:
        folder: created if missing.
        seconds: total duration at least; less than one file more.
        sample_rate: in Hz, at least 3600.
        seed: for the melodies.

    Returns:
        The files, sorted.

    Raises:
        WavedilError: ``seconds`` is not positive, ``sample_rate`` is too low for the notes, or the folder has files of
            other names but no index.
    """
    if not 0 < seconds < math.inf or sample_rate < 3600:
        raise WavedilError(f"seconds is {seconds}, sample_rate {sample_rate}: expected > 0 and >= 3600")
    folder = Path(folder)
    settings = {"version": _VERSION, "seconds": seconds, "sample_rate": sample_rate, "seed": seed}
    index = folder / "notes.json"
    check_replaceable(folder, _NAMES.pattern, index.name)
    # Names in the index are not trusted, since the folder may be from elsewhere.
    old = {path.name: path for path in sorted(folder.glob("*")) if _NAMES.fullmatch(path.name)}
    old = {name: path for name, path in old.items() if path.is_file() and not path.is_symlink()}
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
        if found["settings"] == settings and found["files"] and found["files"].keys() <= old.keys():
            return [old[name] for name in found["files"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    # The index is removed first and written last, so it exists only for a complete corpus.
    index.unlink(missing_ok=True)
    for path in old.values():
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[dict[str, float]]] = {}
    written = 0.0
    while written < seconds:
        name = f"melody_{len(files):03d}.wav"
        generator = np.random.default_rng([seed, len(files)])
        notes = compose(min(_FILE_SECONDS, seconds - written), generator)
        sound = render_melody(notes, sample_rate)
        audio_files.write(folder / name, sound, sample_rate)
        files[name] = [asdict(note) for note in notes]
        written += len(sound) / sample_rate
    with atomic_write(index) as temporary:
        temporary.write_text(json.dumps({"settings": settings, "scale": SCALE, "files": files}))
    return [folder / name for name in files]
