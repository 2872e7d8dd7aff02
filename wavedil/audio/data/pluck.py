"""Built-in sound: melodies on plucked strings, made by a physical model.

Each note is a string as Karplus and Strong (1983) model it, with the extensions of Jaffe and Smith
(1983, "Extensions of the Karplus-Strong plucked-string algorithm", Computer Music Journal 7(2)):
fine tuning by a fractional delay in the loop, a decay time that depends on the pitch, a pick
position, and softer strokes that are also darker. Instead of a burst of noise the string starts in
the shape that a pick pulls it into, so every sample follows from note and stroke: there is little
in this sound that a model could not learn to predict.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.audio.pitch import midi_to_hz
from wavedil.errors import WavedilError
from wavedil.files import atomic_write

#: MIDI notes of the melodies: E minor pentatonic on the guitar's middle strings, E3 (164.8 Hz)
#: to D5 (587.3 Hz).
SCALE = (52, 55, 57, 59, 62, 64, 67, 69, 71, 74)

PEAK = 0.7  # largest amplitude of the strongest stroke
BEAT = 0.24  # seconds; notes last one or two beats
_FILE_SECONDS = 10.0  # length of each file of a corpus, roughly: files end with a phrase
_PICK = 0.23  # where the pick meets the string, as a share of its length
_RELEASE = 0.012  # seconds in which a new stroke silences the string before it
_STEPS = (-2, -1, -1, -1, 1, 1, 1, 2)  # from one note to the next, on the scale
_HOMES = tuple(place for place, note in enumerate(SCALE) if note % 12 in (4, 7, 11))
_VERSION = 1  # of the sound; a corpus written by another version is made anew


@dataclass(frozen=True)
class Note:
    """One stroke: MIDI number, start and length in seconds, and strength in (0, 1]."""

    midi: int
    start: float
    seconds: float
    velocity: float


def pluck(midi: float, seconds: float, velocity: float, sample_rate: int) -> np.ndarray:
    """One plucked string, float64 ``(time,)``, with a peak of ``0.7 * velocity``."""
    f0 = midi_to_hz(midi)
    period = sample_rate / f0
    if not 0 < f0 < sample_rate / 6:
        raise WavedilError(
            f"pluck: MIDI note {midi} is {f0:.0f} Hz, too high for {sample_rate} Hz; "
            f"expected less than a sixth of the sample rate"
        )
    loop = _loop_filter(f0, period, sample_rate)
    shortest = math.floor(period) - 2  # delay of the loop filter's first tap
    history = shortest + len(loop) - 1
    length = round(seconds * sample_rate)
    sound = np.zeros(history + length + shortest)
    # The string's past, one period of its initial shape for as long as the filter looks back.
    sound[:history] = _shape(np.arange(-history, 0) / period, f0, velocity, sample_rate)
    # Nothing within `shortest` samples depends on anything younger: a block at a time.
    for start in range(history, history + length, shortest):
        oldest = start - history
        block = loop[-1] * sound[oldest : oldest + shortest]
        for tap in range(1, len(loop)):
            block += loop[-1 - tap] * sound[oldest + tap : oldest + tap + shortest]
        sound[start : start + shortest] = block
    sound = sound[history : history + length]
    return sound * (PEAK * velocity / np.abs(sound[: math.ceil(2 * period)]).max())


def _loop_filter(f0: float, period: float, sample_rate: int) -> np.ndarray:
    """Taps of what a wave meets on one way round the string: loss, dullness, fine tuning."""
    decay = 3.0 * (165 / f0) ** 0.4  # seconds to fall by 60 dB; high strings are shorter
    gain = 10 ** (-3 / (decay * f0))
    # Share of the two neighbors: what is lost on each way round grows with the frequency. High
    # strings go round more often, so they lose less each time.
    dull = min(0.05 * (165 / f0) * (sample_rate / 8000), 0.25)
    # Third-order Lagrange interpolation between samples 0..3, most exact around its middle.
    fraction = period - math.floor(period) + 1
    order = np.arange(4.0)
    lagrange = np.array([np.prod([(fraction - j) / (i - j) for j in order if j != i]) for i in order])
    return gain * np.convolve([dull, 1 - 2 * dull, dull], lagrange)


def _shape(phase: np.ndarray, f0: float, velocity: float, sample_rate: int) -> np.ndarray:
    """The force on the bridge by a string pulled into a triangle, band-limited, odd in time.

    Harmonic k has strength sin(k pi pick) / k; soft strokes (a wide, soft pick) lose the high ones.
    """
    harmonics = np.arange(1, math.floor(0.45 * sample_rate / f0) + 1)
    corner = 700 + 2300 * velocity  # Hz
    strength = np.sin(harmonics * math.pi * _PICK) / harmonics
    strength /= 1 + (harmonics * f0 / corner) ** 2
    return np.sin(2 * math.pi * phase[:, None] * harmonics) @ strength


def render_melody(notes: Sequence[Note], sample_rate: int) -> np.ndarray:
    """Play notes on one voice: each stroke silences the one before.

    Args:
        notes: in order of their starts.
        sample_rate: in Hz, at least six times the highest note.

    Returns:
        float32 ``(time,)``, ending with the last note; peak at most 0.7.

    Raises:
        WavedilError: no notes, notes out of order or too high for the rate.
    """
    if not notes or any(a.start > b.start for a, b in zip(notes, notes[1:], strict=False)):
        raise WavedilError("render_melody: expected at least one note, in order of their starts")
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
    """A melody of at least `seconds`: phrases of eight beats, moving by small steps on SCALE.

    A phrase ends on a long E, G or B. The next one is new or takes up its first half.
    """
    notes: list[Note] = []
    start, place = 0.0, len(SCALE) // 2
    phrase: list[tuple[int, int]] = []  # place on the scale, beats
    while start < seconds:
        opening: list[tuple[int, int]] = []
        if generator.integers(2):
            opening = phrase[: len(phrase) // 2]
        phrase = opening
        beats = sum(length for _, length in phrase)
        while beats < 8:
            place = phrase[-1][0] if phrase else place
            step = _STEPS[generator.integers(len(_STEPS))]
            place += step if 0 <= place + step < len(SCALE) else -step
            if beats == 6:
                place = min(_HOMES, key=lambda home: abs(home - place))
            length = 2 if beats == 6 or (beats < 5 and generator.integers(4) == 0) else 1
            phrase.append((place, length))
            beats += length
        place = phrase[-1][0]
        beats = 0
        for degree, length in phrase:
            velocity = 1.0 if beats % 4 == 0 else 0.85 if beats % 2 == 0 else 0.7
            notes.append(Note(SCALE[degree], round(start, 4), length * BEAT, velocity))
            start += length * BEAT
            beats += length
    return notes


def make_corpus(
    folder: str | os.PathLike[str],
    seconds: float = 180.0,
    sample_rate: int = 8000,
    seed: int = 0,
) -> list[Path]:
    """Write melodies of about 10 s each as 16-bit wav files, with their notes in ``notes.json``.

    The same settings give the same files on every machine. A folder that was completed with the
    same settings is used as it is.

    Args:
        folder: made if missing.
        seconds: total duration, reached or passed by less than a file.
        sample_rate: in Hz, at least 3600.
        seed: of the melodies.

    Returns:
        The files, sorted.

    Raises:
        WavedilError: no duration, or a rate too low for the notes.
    """
    if not 0 < seconds < math.inf or sample_rate < 3600:
        raise WavedilError(
            f"make_corpus: seconds={seconds}, sample_rate={sample_rate}: expected a positive "
            "duration and at least 3600 Hz"
        )
    folder = Path(folder)
    settings = {
        "version": _VERSION, "seconds": seconds, "sample_rate": sample_rate, "seed": seed
    }  # fmt: skip
    index = folder / "notes.json"
    try:
        found = json.loads(index.read_text())
        old = [folder / name for name in found["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        found, old = {}, []
    if found.get("settings") == settings and all(path.is_file() for path in old):
        return old
    # The index is written last and removed first, so it never vouches for half a corpus.
    index.unlink(missing_ok=True)
    for path in old:
        path.unlink(missing_ok=True)
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
    with atomic_write(index) as beside:
        beside.write_text(json.dumps({"settings": settings, "scale": SCALE, "files": files}))
    return [folder / name for name in files]
