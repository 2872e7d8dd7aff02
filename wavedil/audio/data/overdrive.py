"""Built-in pairs: plucked strings and what an overdrive pedal, made up for the purpose, does to them."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.files import atomic_write

SETTINGS = (0.0, 0.5, 1.0)  # of the knob drive


def overdrive(sound: np.ndarray, drive: float, sample_rate: int) -> np.ndarray:
    """``(time,)`` to the same: bass cut, clipped unequally above and below, treble cut; drive is in 0..1.

    Both filters are exponentials of 0.5 ms and 0.1 ms, cut off after four time constants.
    """
    bass, treble = (_smoothing(seconds, sample_rate) for seconds in (5e-4, 1e-4))
    time = len(sound)
    cut = sound - np.convolve(sound, bass)[:time]
    pushed = 10 ** (drive * 1.2) * 4 * cut + 0.2
    clipped = np.tanh(pushed) - np.tanh(0.2)
    return (0.5 * np.convolve(clipped + 0.3 * sound, treble)[:time]).astype(np.float32)


def _smoothing(seconds: float, sample_rate: int) -> np.ndarray:
    samples = seconds * sample_rate
    shape = np.exp(-np.arange(max(1, round(4 * samples))) / samples)
    return shape / shape.sum()


def make_recordings(
    folder: str | os.PathLike[str], seconds: float, sample_rate: int, seed: int = 0, knob: str | None = "drive"
) -> Path:
    """Writes ``input.wav``, one target for each of three settings of the ``knob`` and ``table.csv``; the table's path.

    For a model without knobs, ``knob=None``, the pedal stands at 0.5.
    """
    folder = Path(folder)
    sound = render_melody(compose(seconds, np.random.default_rng(seed)), sample_rate)
    audio_files.write(folder / "input.wav", sound, sample_rate, "FLOAT")
    table = folder / "table.csv"
    with atomic_write(table) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["input", "target", *([knob] if knob else [])])
        for drive in SETTINGS if knob else [0.5]:
            name = f"drive_{drive:g}.wav"
            audio_files.write(folder / name, overdrive(sound, drive, sample_rate), sample_rate, "FLOAT")
            writer.writerow(["input.wav", name, *([drive] if knob else [])])
    return table
