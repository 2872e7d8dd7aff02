"""The picture of `wavedil inspect`: the paths to one output on the left, their counts on the right."""

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
from wavedil.errors import WavedilError
from wavedil.files import written_beside
from wavedil.inspection.schedule import UNITS, kernel_text, ratio_text

_SUFFIXES = (".png", ".svg", ".pdf")
_WIDEST_TREE = 33  # positions; more cannot be told apart
_LARGEST_MAP = 1024  # positions along an axis of the two-dimensional map
_INK, _FAINT, _GRAY = "#1f2a37", "#d5dbe3", "#6b7685"
_BLUE, _ORANGE, _RED, _PALE_RED = "#2f6fb7", "#e8862e", "#d62839", "#e8707a"
_COUNTS = LinearSegmentedColormap.from_list("counts", ["#d9e8f6", "#74aede", "#2f6fb7", "#12305a"])


def draw(info: dict[str, Any], path: Path) -> None:
    """Write the picture of `info`; see `wavedil.inspection.schedule.plot`."""
    if path.suffix.lower() not in _SUFFIXES:
        raise WavedilError(f"{path}: a picture is {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}")
    audit = audit_gridding(info["dilations"], info["kernel_size"], info["ndim"])
    figure = Figure(figsize=(13, 5.6), facecolor="white")
    FigureCanvasAgg(figure)  # this figure's own canvas: the caller's backend stays as it is
    # A map is square, bars like room.
    widths = [1.1, 1.0] if audit.ndim == 1 else [1.45, 1.0]
    tree, counts = figure.subplots(1, 2, width_ratios=widths)
    figure.subplots_adjust(left=0.075, right=0.965, top=0.8, bottom=0.13, wspace=0.16)
    figure.text(0.03, 0.93, _title(info), fontsize=16, fontweight="bold", color=_INK)
    figure.text(0.03, 0.882, _subtitle(info), fontsize=10.5, color=_GRAY)
    _draw_tree(tree, audit)
    if audit.ndim == 1:
        _draw_counts(counts, audit)
    else:
        _draw_map(counts, audit)
    with written_beside(path) as beside:
        figure.savefig(beside, dpi=150)


def _title(info: dict[str, Any]) -> str:
    text = format_schedule(info["dilations"])
    if info["layers"] <= 7:
        text = ", ".join(map(str, info["dilations"]))
    text = text if len(text) <= 60 else f"{text[:57]}..."
    many = "s" * (info["layers"] > 1)
    return f"Dilations {text}   ({info['layers']} layer{many}, kernel {kernel_text(info, ' × ')})"


def _subtitle(info: dict[str, Any]) -> str:
    unit = UNITS[info["ndim"]]
    field = " × ".join([f"{info['receptive_field']:,}"] * info["ndim"])
    parts = [f"receptive field {field} {unit}"]
    if info["receptive_field_ms"] is not None:
        parts[0] += f" = {info['receptive_field_ms']:.1f} ms at {info['sample_rate']:g} Hz"
    parts.append(f"{info['holes']:,} holes" if info["holes"] else "no holes")
    parts.append(f"path ratio {ratio_text(info['path_ratio'])}")
    if info["hdc_m2"] is not None:
        verdict = "passes" if info["hdc_passes"] else "fails"
        parts.append(f"HDC rule {verdict} (M$_2$ = {info['hdc_m2']})")
    return "   ·   ".join(parts)


def _draw_tree(axes: Axes, audit: GriddingAudit) -> None:
    """Layers upwards from the input, units as dots, and all paths to one output."""
    kernel = max(audit.kernel_size)
    shown = 1
    while shown < audit.layers and 1 + (kernel - 1) * sum(audit.dilations[: shown + 1]) <= _WIDEST_TREE:
        shown += 1
    rates = audit.dilations[:shown]
    field = 1 + (kernel - 1) * sum(rates)
    causal = kernel % 2 == 0
    active = [{field - 1 if causal else field // 2}]  # rows of used units, from the output down
    edges: list[list[tuple[float, float]]] = []
    for row, rate in zip(range(shown, 0, -1), reversed(rates), strict=True):
        taps = [(tap - (kernel - 1 if causal else kernel // 2)) * rate for tap in range(kernel)]
        edges += [[(x, row), (x + tap, row - 1)] for x in sorted(active[-1]) for tap in taps]
        active.append({x + tap for x in active[-1] for tap in taps})
    active.reverse()
    size = np.clip(2200 / field**1.25, 14, 110)
    lines = LineCollection(edges, colors="#8fb3da", linewidths=1.3)
    axes.add_collection(lines)
    for row, used in enumerate(active):
        idle = [x for x in range(field) if x not in used]
        # Darker towards the input, the output in its own color.
        color = _ORANGE if row == shown else _COUNTS(0.95 - 0.45 * row / shown)
        style = {"edgecolors": _RED if row == 0 else _FAINT, "facecolors": "white", "zorder": 2}
        axes.scatter(idle, [row] * len(idle), s=size, linewidths=1.2, **style)
        axes.scatter(sorted(used), [row] * len(used), s=size, color=[color], zorder=3)
    labels = ["input", *(f"dilation {rate}" for rate in rates)]
    axes.set_yticks(range(shown + 1), labels, fontsize=10, color=_INK)
    axes.tick_params(axis="both", length=0)
    axes.set_xticks([])
    axes.set_xlim(-0.9, field - 0.1)
    axes.set_ylim(-0.45, shown + 0.4)
    axes.spines[:].set_visible(False)
    which = "All" if shown == audit.layers else f"The first {shown} of {audit.layers}"
    which = which if audit.layers > 1 else "The"
    along = "" if audit.ndim == 1 else ", along one axis"
    many = "s" * (shown > 1 or audit.layers > 1)
    axes.set_title(f"{which} layer{many}{along}: paths to one output", **_TITLE)
    holes = sum(x not in active[0] for x in range(field))
    note = f"red: {holes} of {field} inputs reach no output" if holes else f"all {field} inputs in use"
    axes.set_xlabel(note, fontsize=10, color=_RED if holes else _GRAY, labelpad=6)


def _draw_counts(axes: Axes, audit: GriddingAudit) -> None:
    """Paths from each input position, causal ones with the output at 0, others around it."""
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
    axes.set_xlabel("input position, the output's own at 0", fontsize=10, color=_GRAY)
    if high < 1e6:
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color="#edf0f4", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(colors=_GRAY, labelsize=9, length=0)
    axes.set_title("Paths from each input to the output", **_TITLE)


def _draw_map(axes: Axes, audit: GriddingAudit) -> None:
    """Path counts over the first two axes, in color on a logarithmic scale, holes in red."""
    lines = [np.array([float(min(c, 10**140)) for c in audit.counts(axis)]) for axis in (0, 1)]
    # Only the middle of a very large field: more pixels than the picture has show nothing.
    cut = [line[max(0, (len(line) - _LARGEST_MAP) // 2) :][:_LARGEST_MAP] for line in lines]
    counts = np.outer(cut[0], cut[1])
    shown = np.ma.masked_equal(counts, 0)
    left, top = len(cut[1]) / 2, len(cut[0]) / 2
    image = axes.imshow(
        shown,
        cmap=_COUNTS.with_extremes(bad=_PALE_RED),
        norm=LogNorm(shown.min(), max(shown.max(), 1.001 * shown.min())),
        extent=(-left, left, top, -top),
        interpolation="nearest",
    )
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=_GRAY, labelsize=9, length=0, which="both")
    bar.minorticks_off()
    if shown.max() < 100 * shown.min():  # less than two decades: say the counts themselves
        ticks = np.unique(np.geomspace(shown.min(), shown.max(), 6).round())
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=_GRAY, labelsize=9, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    plane = "" if audit.ndim == 2 else " (a plane in use)"
    holes = "; red: holes" if audit.holes else ""
    axes.set_xlabel(f"input position around the output{holes}", fontsize=10, color=_GRAY)
    axes.set_title(f"Paths from each input to the output{plane}", **_TITLE)


_TITLE: dict[str, Any] = {"fontsize": 11.5, "color": _INK, "loc": "left", "pad": 10}
