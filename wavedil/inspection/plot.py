"""The picture of ``wavedil inspect``: the paths to one output on the left, their counts on the right."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wavedil.core.gridding import GriddingAudit, audit_gridding
from wavedil.core.schedule import format_schedule
from wavedil.figures import check_figure_path, write_figure
from wavedil.inspection.text import count_text, field_text, kernel_text, ratio_text, shorten

_MAX_TREE_WIDTH = 33  # positions; more cannot be distinguished
_MAX_MAP_SIZE = 1024  # positions along an axis of the two-dimensional map
_INK, _FAINT, _GRAY = "#1f2a37", "#d5dbe3", "#6b7685"
_BLUE, _ORANGE, _RED, _PALE_RED = "#2f6fb7", "#e8862e", "#d62839", "#e8707a"
_COUNTS = LinearSegmentedColormap.from_list("counts", ["#d9e8f6", "#74aede", "#2f6fb7", "#12305a"])


def plot(info: dict[str, Any], path: str | Path) -> None:
    """Writes the picture of a schedule or a model: the paths to one output, and the number of paths of each input.

    Args:
        info: from ``inspect_schedule`` or ``inspect_model``.
        path: a .png, .svg or .pdf file. Missing folders are created; after an error no partial file remains.

    Raises:
        WavedilError: another suffix.
    """
    check_figure_path(path)
    audit = audit_gridding(info["dilations"], info["kernel_size"], info["ndim"])
    figure = Figure(figsize=(13, 5.6), facecolor="white")
    FigureCanvasAgg(figure)  # a canvas for this figure only, without changing the caller's backend
    widths = [1.1, 1.0] if audit.ndim == 1 else [1.45, 1.0]  # a map is square, a bar chart is wider
    tree, counts = figure.subplots(1, 2, width_ratios=widths)
    figure.subplots_adjust(left=0.075, right=0.965, top=0.8, bottom=0.13, wspace=0.16)
    figure.text(0.03, 0.93, _title(info), fontsize=16, fontweight="bold", color=_INK)
    figure.text(0.03, 0.882, _subtitle(info), fontsize=10.5, color=_GRAY)
    _draw_tree(tree, audit)
    if audit.ndim == 1:
        _draw_counts(counts, audit)
    else:
        _draw_map(counts, audit)
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


def _draw_tree(axes: Axes, audit: GriddingAudit) -> None:
    """Units as dots, the input at the bottom, and all paths to one output at the top."""
    kernel = max(audit.kernel_size)
    layers = 1  # as many as fit
    while layers < audit.layers and 1 + (kernel - 1) * sum(audit.dilations[: layers + 1]) <= _MAX_TREE_WIDTH:
        layers += 1
    dilations = audit.dilations[:layers]
    field = 1 + (kernel - 1) * sum(dilations)
    causal = kernel % 2 == 0
    active = [{field - 1 if causal else field // 2}]  # used units per row, from the output downwards
    edges: list[list[tuple[float, float]]] = []
    for row, dilation in zip(range(layers, 0, -1), reversed(dilations), strict=True):
        taps = [(tap - (kernel - 1 if causal else kernel // 2)) * dilation for tap in range(kernel)]
        edges += [[(x, row), (x + tap, row - 1)] for x in sorted(active[-1]) for tap in taps]
        active.append({x + tap for x in active[-1] for tap in taps})
    active.reverse()
    size = np.clip(2200 / field**1.25, 14, 110)
    lines = LineCollection(edges, colors="#8fb3da", linewidths=1.3)
    axes.add_collection(lines)
    for row, used in enumerate(active):
        idle = [x for x in range(field) if x not in used]
        # Darker towards the input; the output is orange.
        color = _ORANGE if row == layers else _COUNTS(0.95 - 0.45 * row / layers)
        style = {"edgecolors": _RED if row == 0 else _FAINT, "facecolors": "white", "zorder": 2}
        axes.scatter(idle, [row] * len(idle), s=size, linewidths=1.2, **style)
        axes.scatter(sorted(used), [row] * len(used), s=size, color=[color], zorder=3)
    labels = ["input", *(f"dilation {dilation}" for dilation in dilations)]
    axes.set_yticks(range(layers + 1), labels, fontsize=10, color=_INK)
    axes.tick_params(axis="both", length=0)
    axes.set_xticks([])
    axes.set_xlim(-0.9, field - 0.1)
    axes.set_ylim(-0.45, layers + 0.4)
    axes.spines[:].set_visible(False)
    if audit.layers == 1:
        which = "The layer"
    else:
        which = "All layers" if layers == audit.layers else f"The first {layers} of {audit.layers} layers"
    along = "" if audit.ndim == 1 else ", along one axis"
    axes.set_title(f"{which}{along}: paths to one output", **_TITLE)
    holes = sum(x not in active[0] for x in range(field))
    note = f"red: {holes} of {field} inputs do not reach the output" if holes else f"all {field} inputs in use"
    axes.set_xlabel(note, fontsize=10, color=_RED if holes else _GRAY, labelpad=6)


def _draw_counts(axes: Axes, audit: GriddingAudit) -> None:
    """Number of paths from each input position, relative to the position of the output."""
    counts = audit.counts()
    field = len(counts)
    causal = audit.kernel_size[0] % 2 == 0
    places = np.arange(field) - (field - 1 if causal else field // 2)
    values = np.array([float(min(count, 10**300)) for count in counts])
    high = values.max()
    if field <= 200:
        axes.bar(places, values, width=0.72, color=_BLUE, zorder=2)
    else:
        axes.fill_between(places, values, step="mid", color=_BLUE, linewidth=0, zorder=2)
    holes = places[values == 0]
    if len(holes):
        wide = max(0.72, field / 400)
        axes.bar(holes, -0.035 * high, width=wide, color=_RED, zorder=3)
        note = f"{len(holes)} holes"
        axes.text(
            0.985, 0.96, note, color=_RED, transform=axes.transAxes, ha="right", va="top",
            fontsize=11, fontweight="bold",
        )  # fmt: skip
    axes.set_ylim(-0.06 * high if len(holes) else 0, 1.1 * high)
    axes.set_xlim(places[0] - 0.02 * field - 0.5, places[-1] + 0.02 * field + 0.5)
    axes.set_xlabel("input position relative to the output", fontsize=10, color=_GRAY)
    if high < 1e6:
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color="#edf0f4", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(colors=_GRAY, labelsize=9, length=0)
    axes.set_title("Paths from each input to the output", **_TITLE)


def _draw_map(axes: Axes, audit: GriddingAudit) -> None:
    """Number of paths along the first two axes, on a logarithmic color scale, with holes in red."""
    lines = [np.array([float(min(c, 10**140)) for c in audit.counts(axis)]) for axis in (0, 1)]
    # Only the middle of a very large field, since more positions than pixels cannot be seen.
    cut = [line[max(0, (len(line) - _MAX_MAP_SIZE) // 2) :][:_MAX_MAP_SIZE] for line in lines]
    counts = np.outer(cut[0], cut[1])
    masked = np.ma.masked_equal(counts, 0)
    left, top = len(cut[1]) / 2, len(cut[0]) / 2
    image = axes.imshow(
        masked,
        cmap=_COUNTS.with_extremes(bad=_PALE_RED),
        norm=LogNorm(masked.min(), max(masked.max(), 1.001 * masked.min())),
        extent=(-left, left, top, -top),
        interpolation="nearest",
    )
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=_GRAY, labelsize=9, length=0, which="both")
    bar.minorticks_off()
    if masked.max() < 100 * masked.min():  # less than two decades: label the counts instead of powers of ten
        ticks = np.unique(np.geomspace(masked.min(), masked.max(), 6).round())
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=_GRAY, labelsize=9, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    plane = "" if audit.ndim == 2 else " (a plane through used positions)"
    holes = "; red: holes" if audit.holes else ""
    axes.set_xlabel(f"input position relative to the output{holes}", fontsize=10, color=_GRAY)
    axes.set_title(f"Paths from each input to the output{plane}", **_TITLE)


_TITLE: dict[str, Any] = {"fontsize": 11.5, "color": _INK, "loc": "left", "pad": 10}
