"""Line charts as inline SVG. Lines differ by color and by dashes, so they can be told apart without color vision."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wavedil.report.files import text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 250, 62, 12, 10, 42
MAX_POINTS = 600  # of a line; more are thinned out
COLORS = "abcdef"  # names of the colors in page.css
DASHES = ("", "7 4", "2 3", "10 3 2 3")


@dataclass
class Line:
    """A line of a chart; ``style`` numbers its color and dashes, ``marks`` draws a mark at each point."""

    label: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    marks: bool = False
    scatter: bool = False


def chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    log_x: bool = False,
    robust: bool = False,
) -> str:
    """HTML of a chart with its legend. A line with fewer than two points is a sentence, not a dot.

    Args:
        y_range: of the axis; None: that of the points.
        log_x: logarithmic axis; points at 0 or below are left out.
        robust: leave the highest values above the axis if they are far from the others, e.g. the first losses.
    """
    lines = [_clean(line, log_x) for line in lines]
    drawn = [line for line in lines if len({x for x, _ in line.points}) > 1]
    single = "".join(
        f"<p class=note>{text(line.label)}: one value so far, {line.points[-1][1]:.4g} "
        f"({text(x_label)}: {line.points[-1][0]:.3g}).</p>"
        for line in lines
        if line.points and line not in drawn
    )
    if not drawn:
        return f"<div class=chart>{single}</div>" if single else ""
    xs = [math.log10(x) if log_x else x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    low_x, high_x = min(xs), max(xs)
    low_y, high_y, above = (*y_range, 0) if y_range else _range(ys, robust)

    def place(x: float, y: float) -> str:
        x = ((math.log10(x) if log_x else x) - low_x) / (high_x - low_x)
        y = (min(max(y, low_y), high_y) - low_y) / (high_y - low_y)
        return f"{LEFT + x * (WIDTH - LEFT - RIGHT):.1f} {HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = []
    for y in _ticks(low_y, high_y, 5):
        at = place(10**low_x if log_x else low_x, y).split()[1]
        parts.append(f"<path class=grid d='M{LEFT} {at}H{WIDTH - RIGHT}'/>")
        parts.append(f"<text x={LEFT - 6} y={float(at) + 4:.1f} text-anchor=end>{_number(y)}</text>")
    for x in _log_ticks(low_x, high_x) if log_x else _ticks(low_x, high_x, 6):
        at = place(x, low_y).split()[0]
        parts.append(f"<text x={at} y={HEIGHT - BOTTOM + 16} text-anchor=middle>{_number(x)}</text>")
    parts.append(f"<text x={(LEFT + WIDTH) / 2} y={HEIGHT - 6} text-anchor=middle>{text(x_label)}</text>")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f"<text transform='translate(14 {middle}) rotate(-90)' text-anchor=middle>{text(y_label)}</text>")
    for line in drawn:
        places = [place(*point) for point in line.points]
        if not line.scatter:
            parts.append(f"<path {_style(line.style)} d='M{'L'.join(places)}'/>")
        if line.scatter or line.marks:
            color = COLORS[line.style % len(COLORS)]
            spots = (
                f"<circle cx={at.split()[0]} cy={at.split()[1]} r={3 if line.marks else 1.6} fill='var(--{color})'>"
                f"<title>{text(line.label)}: {x:.5g}, {y:.5g}</title></circle>"
                for at, (x, y) in zip(places, line.points, strict=True)
            )
            parts.append("".join(spots))
    names = ", ".join(line.label for line in drawn)
    name = text(f"{y_label} over {x_label}: {names}")
    svg = f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='{name}'>"
    notes = f"<p class=note>{above} first values are above the axis.</p>" if above else ""
    return f"<figure class=chart>{svg}{''.join(parts)}</svg>{_legend(drawn)}{notes}{single}</figure>"


def _legend(lines: Sequence[Line]) -> str:
    items = (
        f"<li><svg viewBox='0 0 32 10' aria-hidden=true><path {_style(line.style)} d='M0 5H32'/></svg>"
        f"{text(line.label)}</li>"
        for line in lines
    )
    return f"<ul class=legend>{''.join(items)}</ul>"


def _style(number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    return f"style='stroke:var(--{COLORS[number % len(COLORS)]})'" + (f" stroke-dasharray='{dash}'" if dash else "")


def _clean(line: Line, log_x: bool) -> Line:
    """The finite points, thinned out to ``MAX_POINTS``; the last one is kept."""
    points = [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x)]
    stride = max(1, math.ceil(len(points) / MAX_POINTS))
    points = points[(len(points) - 1) % stride :: stride]
    return Line(line.label, points, line.style, line.marks, line.scatter)


def _range(values: Sequence[float], robust: bool) -> tuple[float, float, int]:
    """Axis for values, and how many are above it."""
    low, high = min(values), max(values)
    if robust and len(values) >= 10:
        typical = sorted(values)[int(0.9 * (len(values) - 1))]
        if high - low > 3 * (typical - low) > 0:
            high = low + 1.5 * (typical - low)
    margin = 0.04 * (high - low) or max(abs(high), 1e-6) * 0.1
    start = 0.0 if 0 <= low < margin else low - margin
    return start, high + margin, sum(value > high + margin for value in values)


def _ticks(low: float, high: float, count: int) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= count)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    values = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for factor in (1, 2, 5)]
    return [value for value in values if low <= math.log10(value) <= high]


def _number(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:.6g}"
