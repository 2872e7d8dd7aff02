"""The text of a run's page: its line at the top, figures and what they mean, curves, settings and downloads."""

import csv
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from wavedil.report.charts import Line, chart
from wavedil.report.files import data_uri, is_own, short, text
from wavedil.report.run import Run, duration

#: Quantity, format, meaning and whether lower is better, by the name of a metric without ``train_`` or ``valid_``.
QUANTITIES = {
    "bits": (
        "bits per sample",
        "{:.3f}",
        "mean number of bits that the model needs to encode one sample of a recording, given the samples before it. "
        "For codes of 8 bits a uniform guess needs 8 bits, and certainty 0",
        True,
    ),
    "nll": (
        "nats per step",
        "{:.3f}",
        "mean negative log-likelihood of one time step with all its keys, given the steps before it",
        True,
    ),
    "loss": ("loss", "{:.4g}", "the loss of the recipe, which training minimizes", True),
    "esr": (
        "ESR in %",
        "{:.3g} %",
        "error-to-signal ratio: the energy of target minus output, divided by the energy of the target. "
        "0 % is exact; silence has 100 %",
        True,
    ),
    "rmse": ("RMSE", "{:.4g}", "root of the mean squared error over all known pixels, in units of the target", True),
    "mean_iou": (
        "mean IoU",
        "{:.4f}",
        "mean over classes of intersection over union: pixels of the class that are predicted as the class, divided by "
        "pixels that are one or the other. From 0 to 1, which is exact",
        False,
    ),
}
MAX_CONFIG = 300_000  # characters of config.yaml and metrics.csv in the page


def quantity(column: str) -> str:
    """Name of the quantity in a column of metrics.csv, also of a task that is not in :data:`QUANTITIES`."""
    name = column.partition("_")[2]
    return QUANTITIES[name][0] if name in QUANTITIES else name.replace("_", " ")


def lower_is_better(column: str) -> bool:
    return QUANTITIES.get(column.partition("_")[2], ("", "", "", True))[3]


def _formatted(column: str, value: float) -> str:
    return QUANTITIES.get(column.partition("_")[2], ("", "{:.4g}"))[1].format(value)


def header_html(run: Run, running: bool) -> str:
    """One line each of the state, and of model, data and budget."""
    state, sentence = run.status()
    if running:
        state, sentence = "running", "In training. "
        if run.rows:
            last = run.rows[-1]
            sentence = f"In training: step {last['step']:.0f} after {duration(last['seconds'])}. "
        sentence += f"Written at {time.strftime('%H:%M:%S')}; the page reloads itself while nothing plays."
    data = _line(run.about.get("data"))
    data = data.partition("; ")[0] if run.about.get("findings") else data  # the others are in a section of their own
    about = [_line(run.about.get("model")), data, f"budget: {run.budget}"]
    line = "; ".join(part for part in about if part)
    return f"<p class='status {state}'>{text(sentence)}</p><p class=note>{text(line)}</p>"


def _line(value: Any) -> str:
    """Lines as one."""
    return short("; ".join(str(value).split("\n")), 3000) if value else ""


def figures_html(run: Run) -> str:
    """The figures of a run, held-out ones first."""
    items = []
    for column, values in run.columns("valid_"):
        name = f"{quantity(column)}, held-out data"
        if not values:
            items.append((name, "none yet", ""))
            continue
        saved = run.validation.get("step")  # of the saved model: the last one, or that of the best validation
        shown = next((value for value in reversed(values) if value[0] == saved), values[-1])
        better = min if lower_is_better(column) else max
        others = {"best": better(values, key=lambda value: value[2]), "last": values[-1]}
        note = f"step {shown[0]:.0f}; {'lower' if lower_is_better(column) else 'higher'} is better"
        for label, other in others.items():
            if other[2] != shown[2]:
                note += f"; {label} {_formatted(column, other[2])} at step {other[0]:.0f}"
        items.append((name, _formatted(column, shown[2]), note))
    zeros = run.validation.get("zero_weights")
    if isinstance(zeros, int | float) and zeros >= 0.01:
        items.append(("zero weights", f"{zeros:.1%}", "share of the saved model's weights"))
    floor = run.about.get("noise_floor")
    if isinstance(floor, int | float):
        note = "between two recordings of one passage; the best possible model has half of it"
        items.append(("noise floor of the recordings, ESR", f"{floor:.3g} %", note))
    for column, values in run.columns("train_"):
        if values:
            note = "mean over the batches since the row before; not comparable with the held-out figure"
            items.append((f"{quantity(column)}, training batches", _formatted(column, values[-1][2]), note))
    if run.rows:
        last = run.rows[-1]
        items.append(("trained", f"{last['step']:.0f} steps", duration(last["seconds"])))
        for column in last:
            if column.endswith("_per_second") and (speeds := [row[column] for row in run.rows if row[column] > 0]):
                median = statistics.median(speeds[-50:])
                rate = run.about.get("sample_rate")
                speed = f"{median:,.{0 if median >= 1000 else 1}f} {column.removesuffix('_per_second')}/s"
                is_sound = column.startswith("samples") and isinstance(rate, int | float) and rate > 0
                items.append(
                    ("speed of training, median", speed, f"{median / rate:.1f} × real time" if is_sound else "")
                )
    for key, name in (("receptive_field", "receptive field"), ("parameters", "parameters")):
        value, _, note = short(run.about.get(key, "")).partition(" = ")
        if value:
            items.append((name, value, note))
    cells = (
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in items
    )
    return f"<dl class=figures>{''.join(cells)}</dl>"


def findings_html(run: Run) -> str:
    """What was found in the recordings, and what was corrected."""
    findings = run.about.get("findings")
    if not isinstance(findings, list) or not findings:
        return ""
    items = "".join(f"<li>{text(short(line, 1000))}</li>" for line in findings[:100])
    more = f"<li>… and {len(findings) - 100} more</li>" if len(findings) > 100 else ""
    return f"<h2>Recordings</h2><ul>{items}{more}</ul>"


def curves_html(runs: Sequence[Run]) -> str:
    """Each quantity over steps and over minutes; training and held-out lines are labeled."""
    quantities: dict[str, list[tuple[Run, str, list[tuple[float, float, float]]]]] = {}
    for run in runs:
        for prefix in ("train_", "valid_"):
            for column, values in run.columns(prefix):
                quantities.setdefault(quantity(column), []).append((run, column, values))
    charts = []
    for name, series in quantities.items():
        is_share = any(column == "valid_mean_iou" for _, column, _ in series)
        for index, axis in enumerate(("step", "minutes")):
            lines = []
            for number, (run, column, values) in enumerate(series):
                held_out = column.startswith("valid_")
                label = "held-out data" if held_out else "training batches (mean since the row before)"
                label = f"{run.name}: {label}" if len(runs) > 1 else label
                lines.append(Line(label, [(value[index], value[2]) for value in values], number, marks=held_out))
            charts.append(chart(lines, axis, name, (0.0, 1.0) if is_share else None, robust=True))
    charts = [each for each in charts if each]
    return f"<h2>Curves</h2><div class='charts two'>{''.join(charts)}</div>" if charts else ""


def restarts_html(run: Run) -> str:
    """Table of restarts.csv; empty if there is no such file."""
    path = run.folder / "restarts.csv"
    if not is_own(path, run.folder):
        return ""
    rows = list(csv.reader(path.read_text(encoding="utf-8", errors="replace").splitlines()))[:100]
    cells = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<h2>Restarts at a lower learning rate</h2><div class=scroll><table>{cells}</table></div>"


def meanings_html(runs: Sequence[Run], further: Sequence[tuple[str, str]] = ()) -> str:
    """Explanations of the figures of the page."""
    names = {}
    for run in runs:
        for column in run.rows[0] if run.rows else ():
            kind, _, name = column.partition("_")
            if kind in ("train", "valid") and name in QUANTITIES:
                label, _, meaning, lower = QUANTITIES[name]
                names[label] = f"{meaning}; {'lower' if lower else 'higher'} is better."
    names["held-out data"] = "recordings, pieces or images that training does not use. The figure is over all of them."
    names["training batches"] = (
        "crops or pieces of the training data, those since the row before in metrics.csv. Their mean depends on which "
        "ones these were, and the model is trained on them."
    )
    names["receptive field"] = "number of input samples or pixels that one output can depend on."
    names.update(further)
    items = (f"<dt>{text(name)}</dt><dd>{text(meaning)}</dd>" for name, meaning in names.items())
    return f"<h2>What the figures mean</h2><dl class=meanings>{''.join(items)}</dl>"


def settings_html(run: Run) -> str:
    """Machine, versions, ``config.yaml`` and downloads."""
    rows = [("folder", run.name)]
    rows += [(name, short(run.about[name])) for name in ("machine", "started") if run.about.get(name)]
    versions = run.about.get("versions")
    if isinstance(versions, dict):
        rows.append(("versions", short(", ".join(f"{name} {version}" for name, version in versions.items()))))
    rows += [(f"trainer.{key}", run.setting(key)) for key in ("precision", "gradient_clip_val") if run.setting(key)]
    table = "".join(f"<tr><th scope=row>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    config = run.config[:MAX_CONFIG]
    metrics = _metrics_csv(run)
    name = text(run.name)
    saves = (
        f"<a class=save download='{name}-config.yaml' href='{data_uri(config.encode(), 'text/yaml')}'>config.yaml</a> "
    )
    if metrics:
        uri = data_uri(metrics.encode(), "text/csv")
        saves += f"<a class=save download='{name}-metrics.csv' href='{uri}'>metrics.csv</a>"
    return (
        f"<h3>{name}</h3><div class=scroll><table>{table}</table></div><p>{saves}</p>"
        f"<details><summary>config.yaml</summary><pre>{text(config)}</pre></details>"
    )


def _metrics_csv(run: Run) -> str:
    """The rows of metrics.csv; of a long run evenly spaced ones and all with a held-out figure."""
    if not run.rows:
        return ""
    columns = list(run.rows[0])
    most = max(1, MAX_CONFIG // (15 * len(columns)))
    valid = [column for column in columns if column.startswith("valid_")]
    stride = max(1, math.ceil(len(run.rows) / most))
    kept = (
        row
        for index, row in enumerate(run.rows)
        if index % stride == 0 or any(math.isfinite(row[column]) for column in valid)
    )
    lines = [",".join(columns), *(",".join(f"{row[column]:.8g}" for column in columns) for row in kept)]
    return "\n".join(lines[: 2 * most]) + "\n"
