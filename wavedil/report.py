"""The HTML report of a run: one self-contained page with curves, audio players and spectrograms, or images."""

import base64
import csv
import html
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import atomic_write
from wavedil.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    """Spectrogram ``(frequencies, frames)`` in dB relative to the loudest bin, Hann windows of 32 ms, hop 8 ms."""
    size = max(64, int(0.032 * rate))
    hop = max(1, size // 4)
    sound = np.pad(np.asarray(sound, dtype=np.float64), (0, max(0, size - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop] * np.hanning(size)
    magnitude = np.abs(np.fft.rfft(frames, axis=1)).T
    return np.maximum(20 * np.log10(magnitude / max(magnitude.max(), 1e-9) + 1e-12), floor_db)


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
    return _png(spectrogram_figure(sound, rate, title))


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def write_report(run: str | Path) -> Path:
    """Writes ``report.html`` in a run folder. The run may still be training.

    Returns:
        Path of the page.

    Raises:
        WavedilError: the folder is not a run folder.
    """
    run = Path(run)
    if not _is_own(run / "config.yaml", run):
        raise WavedilError(
            f"{run} is not a run folder (no config.yaml): expected the folder that `wavedil train` printed"
        )
    rows = _metrics(run / "metrics.csv")
    parts = [f"<h1>{_text(run.name)}</h1>", _summary(rows)]
    if len(rows) > 1:
        parts.append("<h2>Training curves</h2>" + _image(_curves(rows)))
    parts.append(_restarts(run / "restarts.csv"))
    for title, folder, pattern, show in (
        ("Samples", "samples", "*.wav", _clip),
        ("Held-out recordings", "previews", "target_*.wav", _clip),
        ("Sound during training", "previews", "step_*.wav", _clip),
        ("Held-out images: image, ground truth, prediction", "samples", "image_*.png", _panel),
        ("Predictions during training", "previews", "step_*_[0-9].png", _panel),
    ):
        found = sorted((run / folder).glob(pattern))
        files = [file for file in found if _is_own(file, run)]
        parts += [f"<p>skipped: {_text(file.name)}" for file in found if file not in files]
        if show is _panel:  # the spectrogram of a clip, which _clip draws with its player
            files = [file for file in files if not file.with_suffix(".wav").exists()]
        if files:
            parts.append(f"<h2>{title}</h2><div class={show.__name__[1:]}s>{''.join(map(show, files))}</div>")
    config = html.escape((run / "config.yaml").read_text(encoding="utf-8", errors="replace"))
    parts.append(f"<details><summary>config.yaml</summary><pre>{config}</pre></details>")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(run.name)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>{''.join(parts)}</html>"
    )
    path = run / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


MAX_BYTES = 2**26  # of a file in the page


def _is_own(path: Path, run: Path) -> bool:
    """Whether a file may be embedded: a regular file of up to 64 MiB in the run folder, not where a link leads to."""
    is_inside = path.resolve().is_relative_to(run.resolve())
    return is_inside and path.is_file() and path.stat().st_size <= MAX_BYTES


def _text(name: str) -> str:
    """A file name as HTML, also if it is not UTF-8."""
    return html.escape(name.encode("utf-8", "replace").decode())


def _metrics(path: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv; empty if there is no such file."""
    if not _is_own(path, path.parent):
        return []
    return [{key: float(value) for key, value in row.items()} for row in read_metrics(path)]


def _restarts(path: Path) -> str:
    """Table of restarts.csv; empty if there is no such file."""
    if not _is_own(path, path.parent):
        return ""
    rows = list(csv.reader(path.read_text(encoding="utf-8", errors="replace").splitlines()))[:100]
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}' for cell in row)}" for row in rows)
    return f"<h2>Restarts at a lower learning rate</h2><table>{cells}</table>"


#: Labels of the columns of metrics.csv: quantity, data.
LABELS = {
    "train_bits": "bits per sample, training",
    "valid_bits": "bits per sample, validation",
    "train_nll": "nats per step, training",
    "valid_nll": "nats per step, validation",
    "train_loss": "loss, training",
    "valid_esr": "ESR in %, validation",
    "valid_rmse": "RMSE, validation",
    "valid_mean_iou": "mean IoU, validation",
}


def _summary(rows: list[dict[str, float]]) -> str:
    """Table of steps, minutes and the last value of each plotted column."""
    if not rows:
        return "<p>No training steps yet.</p>"
    values = {"steps": f"{rows[-1]['step']:.0f}", "minutes": f"{rows[-1]['seconds'] / 60:.1f}"}
    for column in _columns(rows):
        known = [row[column] for row in rows if not math.isnan(row[column])]
        values[_label(column)] = f"{known[-1]:.3f}" if known else "none yet"
    return "<table>" + "".join(f"<tr><td>{key}<td>{value}" for key, value in values.items()) + "</table>"


def _columns(rows: list[dict[str, float]]) -> list[str]:
    """The columns of metrics.csv that are plotted: those of training and of validation."""
    return [column for column in rows[0] if column.startswith(("train_", "valid_"))]


def _label(column: str) -> str:
    """Quantity and data of a column, also of a task that is not in :data:`LABELS`."""
    part, _, quantity = column.partition("_")
    return LABELS.get(column, f"{quantity.replace('_', ' ')}, {'training' if part == 'train' else 'validation'}")


def _curves(rows: list[dict[str, float]]) -> bytes:
    """Training and validation over steps: in one panel if they are the same quantity, otherwise side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    columns = _columns(rows)
    units = [_label(column).rpartition(", ")[0] for column in columns]
    panels = figure.subplots(1, len(set(units)), squeeze=False)[0]
    train, valid = {"color": "#9db4c0", "linewidth": 1}, {"color": "#9e2a2b", "marker": "o", "markersize": 3}
    for column, unit in zip(columns, units, strict=True):
        axes = panels[sorted(set(units), key=units.index).index(unit)]
        points = [(row["step"], row[column]) for row in rows if not math.isnan(row[column])]
        if points:
            style = train if column.startswith("train_") else valid
            axes.plot(*zip(*points, strict=True), label=_label(column).rpartition(", ")[2], **style)
        axes.set(xlabel="step", ylabel=unit)
    for axes in panels:
        if axes.has_data():
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _image(png: bytes) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _clip(path: Path) -> str:
    """Spectrogram, player and name of a sound file."""
    from wavedil.audio.data.audio_files import read

    sound, rate = read(path)
    data = base64.b64encode(path.read_bytes()).decode()
    player = f"<audio controls preload=none src='data:audio/wav;base64,{data}'></audio>"
    picture, name = _image(spectrogram_png(sound[0], rate)), _text(path.stem)
    return f"<figure>{picture}{player}<figcaption>{name}</figcaption></figure>"


def _panel(path: Path) -> str:
    """An image file and its name."""
    return f"<figure>{_image(path.read_bytes())}<figcaption>{_text(path.stem)}</figcaption></figure>"
