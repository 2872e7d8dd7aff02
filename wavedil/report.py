"""One self-contained HTML page per run: players and spectrograms, or images; curves."""

from __future__ import annotations

import base64
import csv
import html
import io
from pathlib import Path

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import atomic_write

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.clips, .panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem }
.panels { grid-template-columns: repeat(auto-fill, minmax(28rem, 1fr)) }
figure { margin: 0 } figcaption { color: #666; font-size: .85rem } img, audio { width: 100% }
table { border-collapse: collapse } td { padding: .1rem 1rem .1rem 0 }
pre { overflow-x: auto; background: #f6f6f6; padding: 1rem }
"""


def spectrogram_db(sound: np.ndarray, rate: int, floor_db: float = -80.0) -> np.ndarray:
    """Short-time spectrum in dB below the loudest bin, ``(frequencies, frames)``: 32 ms Hann windows, 8 ms hop."""
    size = max(64, int(0.032 * rate))
    hop = max(1, size // 4)
    sound = np.pad(np.asarray(sound, dtype=np.float64), (0, max(0, size - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, axis=1)).T
    return np.maximum(20 * np.log10(power / max(power.max(), 1e-9) + 1e-12), floor_db)


def spectrogram_figure(sound: np.ndarray, rate: int, title: str):
    """Waveform above spectrogram, as a matplotlib Figure that no display or global state knows of."""
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    figure = spectrogram_figure(sound, rate, title)
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_report(run: str | Path) -> Path:
    """Writes ``RUN/report.html`` from what lies in the run folder, finished or not.

    Raises:
        WavedilError: when there is no run in the folder.
    """
    run = Path(run)
    if not (run / "config.yaml").is_file():
        raise WavedilError(f"{run} is no run folder: it has no config.yaml; give what `wavedil train` printed")
    rows = _metrics(run / "metrics.csv")
    parts = [f"<h1>{html.escape(run.name)}</h1>", _summary(rows)]
    if len(rows) > 1:
        parts.append("<h2>While it learned</h2>" + _image(_curves(rows)))
    for title, folder, pattern, show in (
        ("Samples", "samples", "*.wav", _clip),
        ("Held-out sound", "previews", "target_*.wav", _clip),
        ("Sound on the way", "previews", "step_*.wav", _clip),
        ("Held-out images: image, truth, prediction", "samples", "image_*.png", _panel),
        ("Predictions on the way", "previews", "step_*_[0-9].png", _panel),
    ):
        files = sorted((run / folder).glob(pattern))
        if show is _panel:  # a sound's spectrogram is shown with its player
            files = [file for file in files if not file.with_suffix(".wav").exists()]
        if files:
            parts.append(f"<h2>{title}</h2><div class={show.__name__[1:]}s>{''.join(map(show, files))}</div>")
    config = html.escape((run / "config.yaml").read_text(encoding="utf-8"))
    parts.append(f"<details><summary>config.yaml</summary><pre>{config}</pre></details>")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(run.name)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>{''.join(parts)}</html>"
    )
    path = run / "report.html"
    with atomic_write(path) as beside:
        beside.write_text(page, encoding="utf-8")
    return path


def _metrics(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


#: What the columns of metrics.csv hold.
FIGURES = {
    "train_bits": "bits per sample, training",
    "valid_bits": "bits per sample, held-out files",
    "train_nll": "nats per step, training",
    "valid_nll": "nats per step, held-out pieces",
    "train_loss": "loss, training",
    "valid_esr": "ESR in %, held-out segments",
    "valid_rmse": "RMSE, held-out images",
    "valid_mean_iou": "mean IoU, held-out images",
}


def _summary(rows: list[dict[str, float]]) -> str:
    if not rows:
        return "<p>No steps yet.</p>"
    figures = {"steps": f"{rows[-1]['step']:.0f}", "minutes": f"{rows[-1]['seconds'] / 60:.1f}"}
    for column in _columns(rows):
        known = [row[column] for row in rows if row[column] == row[column]]
        figures[FIGURES[column]] = f"{known[-1]:.3f}" if known else "not yet"
    return "<table>" + "".join(f"<tr><td>{key}<td>{value}" for key, value in figures.items()) + "</table>"


def _columns(rows: list[dict[str, float]]) -> list[str]:
    """The columns of the training and of the validation figure."""
    return [column for column in rows[0] if column in FIGURES]


def _curves(rows: list[dict[str, float]]) -> bytes:
    """Both in one picture where they have one unit, else side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    columns = _columns(rows)
    units = [FIGURES[column].rpartition(", ")[0] for column in columns]
    panels = figure.subplots(1, len(set(units)), squeeze=False)[0]
    styles = ({"color": "#9db4c0", "linewidth": 1}, {"color": "#9e2a2b", "marker": "o", "markersize": 3})
    for column, unit, style in zip(columns, units, styles, strict=True):
        axes = panels[sorted(set(units), key=units.index).index(unit)]
        points = [(row["step"], row[column]) for row in rows if row[column] == row[column]]
        if points:
            axes.plot(*zip(*points, strict=True), label=FIGURES[column].rpartition(", ")[2], **style)
        axes.set(xlabel="step", ylabel=unit)
    for axes in panels:
        if axes.has_data():
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _image(png: bytes) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _clip(path: Path) -> str:
    from wavedil.audio.data.audio_files import read

    sound, rate = read(path)
    data = base64.b64encode(path.read_bytes()).decode()
    player = f"<audio controls preload=none src='data:audio/wav;base64,{data}'></audio>"
    picture, name = _image(spectrogram_png(sound[0], rate)), html.escape(path.stem)
    return f"<figure>{picture}{player}<figcaption>{name}</figcaption></figure>"


def _panel(path: Path) -> str:
    return f"<figure>{_image(path.read_bytes())}<figcaption>{html.escape(path.stem)}</figcaption></figure>"
