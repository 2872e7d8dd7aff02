"""Spectrograms as pictures: for pages with numpy only, for TensorBoard and ``previews/*.png`` with matplotlib."""

import io
from typing import TYPE_CHECKING

import numpy as np

from wavedil.report.png import indexed_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR_DB = -80.0
MAX_COLUMNS, MAX_ROWS = 720, 160  # pixels of the picture in a page

#: Nine colors of matplotlib's map magma, from low to high: readable without color vision, since lightness increases.
_MAGMA = ("000004", "1c1044", "4f127b", "812581", "b5367a", "e55064", "fb8761", "fec287", "fcfdbf")


def spectrogram_db(sound: np.ndarray, rate: int, floor_db: float = FLOOR_DB) -> np.ndarray:
    """Spectrogram ``(frequencies, frames)`` in dB relative to the loudest bin, Hann windows of 32 ms, hop 8 ms."""
    size = max(64, int(0.032 * rate))
    hop = max(1, size // 4)
    sound = np.pad(np.asarray(sound, dtype=np.float64), (0, max(0, size - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop] * np.hanning(size)
    magnitude = np.abs(np.fft.rfft(frames, axis=1)).T
    return np.maximum(20 * np.log10(magnitude / max(magnitude.max(), 1e-9) + 1e-12), floor_db)


def spectrogram_picture(sound: np.ndarray, rate: int, reference: np.ndarray | None = None) -> bytes:
    """Spectrogram of a sound ``(time,)`` as a PNG without axes; low frequencies are at the bottom.

    A frame is centered on its window, so the picture spans the sound from its first sample to its last. The brightest
    color is the loudest bin of the sound, or of ``reference``; black is 80 dB less.
    """
    magnitude = _magnitude(sound, rate)
    loudest = max(float((magnitude if reference is None else _magnitude(reference, rate)).max()), 1e-9)
    if len(magnitude) > MAX_ROWS:  # the maximum of each group of bins, so that no partial is lost
        edges = np.linspace(0, len(magnitude), MAX_ROWS + 1).astype(np.int64)[:-1]
        magnitude = np.maximum.reduceat(magnitude, edges, axis=0)
    db = np.clip(20 * np.log10(magnitude / loudest + 1e-12), FLOOR_DB, 0)
    return indexed_png(np.rint((db / -FLOOR_DB + 1) * 63).astype(np.uint8)[::-1], _palette())


def _magnitude(sound: np.ndarray, rate: int) -> np.ndarray:
    """Magnitudes ``(frequencies, frames)`` of Hann windows of 32 ms."""
    size = max(64, int(0.032 * rate))
    sound = np.asarray(sound, dtype=np.float32)
    columns = int(np.clip(len(sound) // max(1, size // 4), 32, MAX_COLUMNS))
    starts = np.linspace(0, max(len(sound) - 1, 0), columns).astype(np.int64)
    padded = np.pad(sound, (size // 2, size))
    frames = np.stack([padded[start : start + size] for start in starts]) * np.hanning(size).astype(np.float32)
    return np.abs(np.fft.rfft(frames, axis=1)).T


def _palette() -> np.ndarray:
    """64 colors from low to high, ``(64, 3)`` uint8."""
    colors = np.array([[int(color[i : i + 2], 16) for i in (0, 2, 4)] for color in _MAGMA])
    places = np.linspace(0, len(colors) - 1, 64)
    return np.stack([np.interp(places, range(len(colors)), colors[:, i]) for i in range(3)], 1).round().astype(np.uint8)


def spectrogram_figure(sound: np.ndarray, rate: int, title: str) -> "Figure":
    """Waveform above spectrogram, as a matplotlib Figure without pyplot, which would need global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    wave, spec = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    seconds = len(sound) / rate
    wave.plot(np.arange(len(sound)) / rate, sound, linewidth=0.4, color="#335c67")
    wave.set(ylim=(-1, 1), yticks=(-1, 0, 1), title=title)
    db = spectrogram_db(sound, rate)
    spec.imshow(db, origin="lower", aspect="auto", extent=(0, seconds, 0, rate / 2000), cmap="magma", vmin=-80, vmax=0)
    spec.set(xlabel="seconds", ylabel="kHz")
    return figure


def spectrogram_png(sound: np.ndarray, rate: int, title: str = "") -> bytes:
    """Waveform above spectrogram, as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = spectrogram_figure(sound, rate, title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
