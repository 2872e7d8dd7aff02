"""Assembles pages from the templates, and writes them."""

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from wavedil.errors import WavedilError
from wavedil.outputs import check_outputs
from wavedil.report import effects, images
from wavedil.report.clips import Row, rows_html
from wavedil.report.facts import (
    curves_html,
    figures_html,
    findings_html,
    header_html,
    meanings_html,
    restarts_html,
    settings_html,
)
from wavedil.report.files import Budget, left_out, text
from wavedil.report.run import Run
from wavedil.report.sounds import newest_first, preview_rows, sample_rows
from wavedil.writing import atomic_write

RELOAD_SECONDS = 20  # between two readings of the page of a run in training

TOOLBAR = (
    "<div class=toolbar role=group aria-label=Playback><label><input type=checkbox id=loop> loop</label>"
    "<span class=keys><kbd>space</kbd> play or pause · <kbd>←</kbd> <kbd>→</kbd> seek · <kbd>↑</kbd> <kbd>↓</kbd> row "
    "· <kbd>a</kbd> <kbd>b</kbd> … switch to this clip of the row at the same position · <kbd>l</kbd> loop</span></div>"
)
SPECTROGRAM = (
    "spectrogram",
    "power over time (left to right) and frequency (0 Hz at the bottom), in dB below the loudest bin of the clip. "
    "Black is 80 dB or more below.",
)


def write_report(*runs: str | Path, out: str | Path | None = None, running: bool = False) -> Path:
    """Writes the page of a run, or one that compares several runs. A run may still be training.

    Args:
        runs: run folders.
        out: the page; default ``RUN/report.html`` of one run, ``comparison.html`` in the current folder for several.
        running: the run is training: the page reloads itself while nothing plays.

    Returns:
        Path of the page, which has at most about 20 MB: long clips are shortened and the oldest previews left out, and
        the page says so.

    Raises:
        WavedilError: a folder is not a run folder, or ``out`` is not a file that can be written.
    """
    if not runs:
        raise WavedilError("runs is empty: expected at least one run folder")
    found = [Run(run) for run in runs]
    _name(found)
    if out is None:
        path = found[0].folder / "report.html" if len(found) == 1 else Path("comparison.html")
    else:
        path = Path(out)
        if path.is_dir():
            raise WavedilError(f"--out {path} is a folder: expected a file, e.g. page.html")
        check_outputs([path], [each for run in found for each in _inputs(run)])
        if path.suffix.lower() not in (".html", ".htm"):
            raise WavedilError(f"--out {path}: expected a file that ends in .html")
    parts = _compare(found) if len(found) > 1 else _single(found[0], running)
    attributes = f"data-running={RELOAD_SECONDS} data-written={time.time():.0f}" if running else ""
    with atomic_write(path) as beside:
        beside.write_text(_page(" · ".join(run.name for run in found), *parts, attributes), encoding="utf-8")
    return path


def _name(runs: Sequence[Run]) -> None:
    """Makes the names of runs differ: by the folder around them, then by numbers."""

    def rename(key: Callable[[int, Run], str]) -> None:
        names = [run.name for run in runs]
        for index, run in enumerate(runs):
            if names.count(names[index]) > 1:
                run.name = key(index, run)

    rename(lambda index, run: f"{run.folder.resolve().parent.name}/{run.name}")
    rename(lambda index, run: f"{run.name} ({index + 1})")


def _inputs(run: Run) -> list[Path]:
    """Files that the page must not replace: everything in the run folder except its report."""
    names = (
        "config.yaml",
        "metrics.csv",
        "about.json",
        "validation.json",
        "likelihood.json",
        "stopped.txt",
        ".finished",
        ".lock",
    )
    folders = ("samples", "previews", "model", "checkpoints", "data", "tensorboard")
    return [run.folder / name for name in (*names, *folders)]


def _single(run: Run, running: bool) -> tuple[str, str]:
    """Header and body of the page of one run."""
    budget, meanings = Budget(), []
    settings = _settings([run], budget)
    parts = [figures_html(run)]
    samples, previews = budget.first(sample_rows([run])), budget.first(preview_rows(run))
    if samples or previews:
        parts.append(TOOLBAR)
        meanings.append(SPECTROGRAM)
    if samples:
        parts.append("<h2>Samples</h2>" + _sounds(samples, budget, 0.7 if previews else 1.0, meanings))
    panels = [each for each in run.media("samples", ".png") if not each.path.with_suffix(".wav").exists()]
    parts.append(images.classes_html(run))
    if panels:
        parts.append("<h2>Held-out images</h2>" + images.panels_html(run, panels, budget))
        meanings += images.meanings(run)
    parts += [effects.esr_html(run.validation), findings_html(run), curves_html([run]), restarts_html(run)]
    if previews:
        kept, old = newest_first(previews, budget.left)
        parts.append("<h2>Previews during training</h2>" + rows_html(kept, budget))
        if old:
            budget.notes.append(left_out(old))
    steps = [each for each in run.media("previews", ".png") if not each.path.with_suffix(".wav").exists()]
    if steps:
        parts.append("<h2>Predictions during training</h2>" + images.steps_html(run, steps, budget))
    parts += [meanings_html([run], meanings), settings]
    skipped = [f"skipped: {name}" for name in dict.fromkeys(run.skipped)]
    return header_html(run, running), "".join(parts) + _notes([*budget.notes, *skipped])


def _compare(runs: Sequence[Run]) -> tuple[str, str]:
    """Header and body of a page of several runs."""
    budget, meanings = Budget(), []
    settings = _settings(runs, budget)
    header = "".join(
        f"<section aria-label='{text(run.name)}'><h3>{text(run.name)}</h3>"
        f"{header_html(run, False)}{figures_html(run)}</section>"
        for run in runs
    )
    parts = [curves_html(runs)]
    samples = budget.first(sample_rows(runs))
    if samples:
        meanings.append(SPECTROGRAM)
        parts.append(TOOLBAR + "<h2>Samples</h2>" + _sounds(samples, budget, 1.0, meanings))
    for run in runs:
        panels = [each for each in run.media("samples", ".png") if not each.path.with_suffix(".wav").exists()]
        if panels:
            pictures = images.panels_html(run, panels, budget)
            parts.append(f"<h2>Held-out images, {text(run.name)}</h2>{pictures}{images.classes_html(run)}")
            meanings += images.meanings(run)
        parts.append(effects.esr_html(run.validation))
    parts += [meanings_html(runs, meanings), settings]
    skipped = [f"skipped: {run.name}/{name}" for run in runs for name in dict.fromkeys(run.skipped)]
    return header, "".join(parts) + _notes([*budget.notes, *skipped])


def _settings(runs: Sequence[Run], budget: Budget) -> str:
    found = [html for run in runs if budget.take(html := settings_html(run))]
    if len(found) < len(runs):
        budget.notes.append("settings of some runs are not in this page, which may have 20 MB")
    return f"<h2>Settings</h2>{''.join(found)}"


def _sounds(rows: Sequence[Row], budget: Budget, share: float, meanings: list) -> str:
    """Rows of clips; rows of an effect also have differences and charts."""
    charts = []
    for row in rows:
        if any(clip.label.startswith("wet") for clip in row.clips):
            effects.add_differences(row)
            chart = effects.charts_html(row)
            charts.append(chart if budget.take(chart) else "")
            meanings += [each for each in effects.MEANINGS if each not in meanings]
    html = []
    for index, row in enumerate(rows):
        # The rows still to come divide what is left.
        rest = sum(len(other.clips) for other in rows[index:])
        html.append(rows_html([row], budget, share * len(row.clips) / max(1, rest)))
        html += charts[index : index + 1]
    single = " single" if all(len(row.clips) == 1 for row in rows) else ""
    return f"<div class='rows{single}'>{''.join(html)}</div>"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"<p class=note>{text(note)}</p>" for note in notes[:200])


def _page(title: str, header: str, body: str, attributes: str) -> str:
    folder = files("wavedil.report") / "templates"
    page, style, script = ((folder / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    script = f"\n{script}"
    # The hash lets this script run, and none that a name in the page could smuggle in.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    fields = {
        "attributes": attributes,
        "script_hash": f"sha256-{digest}",
        "title": text(title),
        "style": style,
        "header": header,
        "footer": "Written by wavedil. One file: it needs no network.",
        "script": script,
        "body": body,
    }
    before, *rest = page.split("{")
    parts = [before]
    for part in rest:
        name, _, after = part.partition("}")
        parts += [fields[name], after]
    return "".join(parts)
