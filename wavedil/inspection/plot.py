"""The pictures of ``wavedil inspect``: of a schedule, and of a model with its effective receptive field."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wavedil.core.gridding import audit_gridding
from wavedil.core.measured_field import MeasuredField
from wavedil.core.schedule import format_schedule
from wavedil.errors import count_text
from wavedil.figures import check_figure_path, write_figure
from wavedil.inspection.drawings import (
    GRAY,
    INK,
    draw_counts,
    draw_energy,
    draw_growth,
    draw_map,
    draw_profile,
    draw_tree,
)
from wavedil.inspection.text import field_text, kernel_text, ratio_text, shorten


def plot(info: dict[str, Any], path: str | Path, field: MeasuredField | None = None, title: str = "") -> None:
    """Writes the picture of a schedule or a model.

    On the left are the paths to one output and the growth of the receptive field; on the right the number of paths from
    each input. With ``field``, its effective receptive field is below or, for images, in its place.

    Args:
        info: from ``inspect_schedule`` or ``inspect_model``, or for ``field`` alone: one without ``growth``.
        path: a .png, .svg or .pdf file. Missing folders are created; after an error no partial file remains.
        field: measured receptive field of a model.
        title: heading; default the dilations.

    Raises:
        WavedilError: another suffix.
    """
    check_figure_path(path)
    has_schedule = "growth" in info
    figure = Figure(figsize=(13, 7.4) if has_schedule else (8, 7.4), facecolor="white")
    FigureCanvasAgg(figure)  # a canvas for this figure only, without changing the caller's backend
    heading, subtitle = (_title(info), _subtitle(info)) if has_schedule else ("", "")
    figure.text(0.03, 0.945, title or heading, fontsize=16, fontweight="bold", color=INK)
    figure.text(
        0.03, 0.908, f"{heading}   ·   {subtitle}" if title and heading else subtitle, fontsize=10.5, color=GRAY
    )
    if not has_schedule:
        axes = figure.add_axes((0.1, 0.1, 0.84, 0.72))
        draw_profile(axes, field) if field.energy.ndim == 1 else draw_energy(axes, field)
        return write_figure(figure, path)
    audit = audit_gridding(info["dilations"], info["kernel_size"], info["ndim"])
    is_line = audit.ndim == 1
    grid = figure.add_gridspec(
        2, 2, width_ratios=[1.1, 1.0] if is_line else [1.3, 1.0], height_ratios=[1.9, 1.0],
        left=0.075, right=0.965, top=0.84, bottom=0.085, wspace=0.26 if is_line else 0.3, hspace=0.42,
    )  # fmt: skip
    draw_tree(figure.add_subplot(grid[0, 0]), audit)
    draw_growth(figure.add_subplot(grid[1, 0]), info)
    if field is not None and field.energy.ndim == 2:
        draw_energy(figure.add_subplot(grid[:, 1]), field)
    elif field is not None:
        draw_counts(figure.add_subplot(grid[0, 1]), audit)
        draw_profile(figure.add_subplot(grid[1, 1]), field)
    elif is_line:
        draw_counts(figure.add_subplot(grid[:, 1]), audit)
    else:
        draw_map(figure.add_subplot(grid[:, 1]), audit)
    write_figure(figure, path)


def _title(info: dict[str, Any]) -> str:
    dilations = info["dilations"]
    text = shorten(", ".join(map(str, dilations)) if len(dilations) <= 7 else format_schedule(dilations), 60)
    return f"Dilations {text}   ({count_text(info['layers'], 'layer')}, kernel {kernel_text(info, ' × ')})"


def _subtitle(info: dict[str, Any]) -> str:
    parts = [
        f"receptive field {field_text(info, ' × ')}",
        f"{info['holes']:,} holes" if info["holes"] else "no holes",
        f"path ratio {ratio_text(info['path_ratio'])}",
    ]
    if info["hdc_m2"] is not None:
        verdict = "passes" if info["hdc_passes"] else "fails"
        parts.append(f"HDC rule {verdict} (M$_2$ = {info['hdc_m2']})")
    return "   ·   ".join(parts)
