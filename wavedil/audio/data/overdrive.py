"""Built-in recordings of an effect: plucked strings, dry and through a simulated overdrive pedal."""

import csv
import os
from pathlib import Path

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.writing import atomic_write, check_replaceable

SETTINGS = (0.0, 0.5, 1.0)  # settings of the drive knob that are recorded


def overdrive(sound: np.ndarray, drive: float, sample_rate: int) -> np.ndarray:
    """A simulated overdrive pedal: high-pass filter, asymmetric clipping, low-pass filter.

    The filters have exponential impulse responses with time constants of 0.5 ms and 0.1 ms, truncated after four time
    constants.

    Args:
        sound: ``(time,)``.
        drive: from 0 to 1.
        sample_rate: in Hz.

    Returns:
        float32 ``(time,)``.
    """
    bass, treble = (_exponential(seconds, sample_rate) for seconds in (5e-4, 1e-4))
    time = len(sound)
    high = sound - np.convolve(sound, bass)[:time]
    driven = 10 ** (drive * 1.2) * 4 * high + 0.2
    clipped = np.tanh(driven) - np.tanh(0.2)
    return (0.5 * np.convolve(clipped + 0.3 * sound, treble)[:time]).astype(np.float32)


def _exponential(seconds: float, sample_rate: int) -> np.ndarray:
    """Exponential impulse response with the given time constant, of sum 1."""
    samples = seconds * sample_rate
    response = np.exp(-np.arange(max(1, round(4 * samples))) / samples)
    return response / response.sum()


def make_recordings(
    folder: str | os.PathLike[str], seconds: float, sample_rate: int, seed: int = 0, knob: str | None = "drive"
) -> Path:
    """Writes ``input.wav``, a target for each of three settings of the knob, and ``table.csv``.

    Args:
        folder: created if missing.
        seconds: duration of the recordings.
        sample_rate: in Hz.
        seed: for the melody.
        knob: name of the knob; None for a model without knobs, which gets one target at drive 0.5.

    Returns:
        Path of the table.

    Raises:
        WavedilError: the folder has files of other names.
    """
    folder = Path(folder)
    check_replaceable(folder, r"input\.wav|drive_[\d.]+\.wav|table\.csv")
    sound = render_melody(compose(seconds, np.random.default_rng(seed)), sample_rate)
    audio_files.write(folder / "input.wav", sound, sample_rate, "FLOAT")
    table = folder / "table.csv"
    with atomic_write(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["input", "target", *([knob] if knob else [])])
        for drive in SETTINGS if knob else [0.5]:
            name = f"drive_{drive:g}.wav"
            audio_files.write(folder / name, overdrive(sound, drive, sample_rate), sample_rate, "FLOAT")
            writer.writerow(["input.wav", name, *([drive] if knob else [])])
    return table
