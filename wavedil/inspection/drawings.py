"""Parts of the pictures of ``wavedil inspect``, each drawn into one axes."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from wavedil.core.gridding import GriddingAudit
from wavedil.core.measured_field import MeasuredField

_MAX_TREE_WIDTH = 33  # positions; more cannot be distinguished
_MAX_MAP_SIZE = 1024  # positions along an axis of the two-dimensional map
INK, _FAINT, GRAY = "#1f2a37", "#d5dbe3", "#6b7685"
_BLUE, _ORANGE, _RED, _PALE_RED = "#2f6fb7", "#e8862e", "#d62839", "#e8707a"
_COUNTS = LinearSegmentedColormap.from_list("counts", ["#d9e8f6", "#74aede", "#2f6fb7", "#12305a"])
TITLE: dict[str, Any] = {"fontsize": 11.5, "color": INK, "loc": "left", "pad": 10}


def draw_tree(axes: Axes, audit: GriddingAudit) -> None:
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
    axes.set_yticks(range(layers + 1), labels, fontsize=10, color=INK)
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
    axes.set_title(f"{which}{along}: paths to one output", **TITLE)
    holes = sum(x not in active[0] for x in range(field))
    note = f"red: {holes} of {field} inputs do not reach the output" if holes else f"all {field} inputs in use"
    axes.set_xlabel(note, fontsize=10, color=_RED if holes else GRAY, labelpad=6)


def draw_counts(axes: Axes, audit: GriddingAudit) -> None:
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
    axes.set_xlabel("input position relative to the output", fontsize=10, color=GRAY)
    if high < 1e6:
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_title("Paths from each input to the output", **TITLE)
    _plain_axes(axes)


def draw_map(axes: Axes, audit: GriddingAudit) -> None:
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
    bar.ax.tick_params(colors=GRAY, labelsize=9, length=0, which="both")
    bar.minorticks_off()
    if masked.max() < 100 * masked.min():  # less than two decades: label the counts instead of powers of ten
        ticks = np.unique(np.geomspace(masked.min(), masked.max(), 6).round())
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=GRAY, labelsize=9, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    plane = "" if audit.ndim == 2 else " (a plane through used positions)"
    holes = "; red: holes" if audit.holes else ""
    axes.set_xlabel(f"input position relative to the output{holes}", fontsize=10, color=GRAY)
    axes.set_title(f"Paths from each input to the output{plane}", **TITLE)


def draw_growth(axes: Axes, info: dict[str, Any]) -> None:
    """The receptive field after each layer, beside that of the same layers without dilation."""
    layers = range(info["layers"] + 1)
    dilated = [1, *(row["receptive_field"] for row in info["growth"])]
    step = max(np.atleast_1d(info["kernel_size"])) - 1
    plain = [1 + step * layer for layer in layers]
    axes.plot(layers, dilated, color=_BLUE, linewidth=2.2, marker="o", markersize=4)
    axes.plot(layers, plain, color=_ORANGE, linewidth=2.2, linestyle="--")
    if dilated[-1] > 20 * plain[-1]:
        axes.set_yscale("log")
    if dilated[-1] != plain[-1]:
        for values, color, name in ((dilated, _BLUE, "with dilation"), (plain, _ORANGE, "without")):
            axes.annotate(
                f"{values[-1]:,}  {name}", (layers[-1], values[-1]), xytext=(0, 7), textcoords="offset points",
                color=color, fontsize=10, ha="right", va="bottom", annotation_clip=False,
            )  # fmt: skip
    axes.set_xlim(0, layers[-1])
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("layers", fontsize=10, color=GRAY)
    axes.set_title("Growth of the receptive field", **TITLE)
    _plain_axes(axes)


def draw_profile(axes: Axes, field: MeasuredField) -> None:
    """Energy of the gradient at each input position of a model for sound, on a logarithmic scale."""
    energy = field.energy.numpy()
    places = np.arange(len(energy)) - field.left[0]
    shares = energy / max(energy.max(), 1e-300)
    axes.fill_between(places, np.maximum(shares, 1e-9), 1e-9, step="mid", color="#a9cbe8", linewidth=0, zorder=2)
    low, high = _shortest(energy, field.effective[0])
    axes.axvspan(places[low], places[high], color=_ORANGE, alpha=0.25, linewidth=0, zorder=1)
    axes.set_yscale("log")
    axes.set_ylim(1e-9, 3)
    axes.set_xlim(places[0] - 0.02 * len(places) - 0.5, places[-1] + 0.02 * len(places) + 0.5)
    axes.set_xlabel("input position relative to the output", fontsize=10, color=GRAY)
    axes.set_title(_effective_title(field), **TITLE)
    _plain_axes(axes)


def draw_energy(axes: Axes, field: MeasuredField) -> None:
    """Energy of the gradient at each pixel of a model for images, with the boxes of both receptive fields."""
    energy = field.energy.numpy()
    shares = np.ma.masked_less_equal(energy / max(energy.max(), 1e-300), 1e-9)
    height, width = energy.shape
    top, left = -field.left[0] - 0.5, -field.left[1] - 0.5
    axes.imshow(
        shares, cmap=_COUNTS, norm=LogNorm(1e-6, 1), extent=(left, left + width, top + height, top),
        interpolation="nearest",
    )  # fmt: skip
    rows = _shortest(energy.sum(1), field.effective[0])
    columns = _shortest(energy.sum(0), field.effective[1])
    style = {"fill": False, "linewidth": 2.2}
    corner = left + columns[0], top + rows[0]
    axes.add_patch(Rectangle(corner, columns[1] - columns[0] + 1, rows[1] - rows[0] + 1, edgecolor=_ORANGE, **style))
    axes.add_patch(Rectangle((left, top), width, height, edgecolor=GRAY, linestyle="--", **style))
    axes.set_xlim(left - 0.03 * width, left + 1.03 * width)
    axes.set_ylim(top + 1.03 * height, top - 0.03 * height)
    axes.set_xlabel("pixels relative to the output", fontsize=10, color=GRAY)
    axes.set_title(_effective_title(field), **TITLE)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=GRAY, labelsize=9, length=0)


def _effective_title(field: MeasuredField) -> str:
    sizes = [" × ".join(f"{size:,}" for size in each) for each in (field.effective, field.extent)]
    return f"Effective field: {field.coverage:.0%} of the gradient within {sizes[0]} of {sizes[1]} (orange)"


def _shortest(line: np.ndarray, length: int) -> tuple[int, int]:
    """First and last index of the interval of ``length`` positions with the largest sum."""
    sums = np.convolve(line, np.ones(max(length, 1)), "valid")
    first = int(sums.argmax())
    return first, first + max(length, 1) - 1


def _plain_axes(axes: Axes) -> None:
    axes.grid(axis="y", color="#edf0f4", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(colors=GRAY, labelsize=9, length=0, which="both")
