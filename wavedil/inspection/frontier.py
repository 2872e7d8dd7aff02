"""The result of ``wavedil search`` as a table and as a picture of error, or proxy, and cost."""

from pathlib import Path
from typing import Any

from wavedil.figures import write_figure
from wavedil.inspection.text import shorten

_NOUNS = {"multiply_adds": "multiply-adds per output", "parameters": "parameters", "nanoseconds": "ns per output"}
_COLORS = ("#2f6fb7", "#e8862e", "#3a9d5d", "#8a5fbf", "#c0392b", "#6b7685")
_ROWS = 20  # of candidates without a training


def render_frontier(result: dict[str, Any], sample_rate: int | None = None) -> str:
    """One table for each budget, by error or, without trainings, by descending score; at most 110 columns wide."""
    rows, unit = result["candidates"], result["unit"]
    lines = [f"receptive field of at least {result['field']:,}"]
    for budget in dict.fromkeys(row["budget"] for row in rows):
        group = [row for row in rows if row["budget"] == budget]
        trained = sorted((row for row in group if row.get("error") is not None), key=lambda row: row["error"])
        diverged = [row for row in group if row.get("note")]
        shown = trained + diverged if trained or diverged else group[:_ROWS]
        cost = "ns" if unit == "nanoseconds" else "mult-adds"
        field = "field ms" if sample_rate else "field"
        last = f" {result['metric']:>10}" if trained or diverged else ""
        lines += [
            "",
            f"at most {budget:,.6g} {_NOUNS[unit]}: {len(shown)} of {len(group)} candidates",
            f"{'schedule':<34} {'kernel':>6} {'width':>5} {'layers':>6} {field:>8} {'holes':>5} {'evenness':>8} "
            f"{'parameters':>10} {cost:>9} {'proxy':>6}{last}",
        ]
        for row in shown:
            size = row["receptive_field"]
            field = f"{1000 * size / sample_rate:.1f}" if sample_rate else f"{size:,}"
            spent = f"{row['nanoseconds']:.0f}" if unit == "nanoseconds" else f"{row['multiply_adds']:,}"
            error = (
                "  diverged" if row.get("note") else f" {row['error']:>10.4g}" if row.get("error") is not None else ""
            )
            lines.append(
                f"{shorten(row['schedule'], 34):<34} {row['kernel_size']:>6} {row['channels']:>5} "
                f"{len(row['dilations']):>6} {field:>8} {row['holes']:>5} {row['evenness']:>8.2f} "
                f"{row['parameters']:>10,} {spent:>9} {row['score']:>6.4g}{error}"
            )
        agreement = result.get("rank_correlation", {}).get(f"{budget:g}")
        if agreement is not None:
            lines.append(f"rank correlation of the proxy and the trained order: {agreement:.2f} (1: they agree)")
    return "\n".join(lines)


def plot_frontier(result: dict[str, Any], path: str | Path) -> None:
    """Writes a picture of each candidate's error and cost, with the lowest error by cost; without trainings, of the
    proxy and cost.

    Raises:
        WavedilError: the name does not end with .png, .svg or .pdf.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    unit = result["unit"]
    trained = [row for row in result["candidates"] if row.get("error") is not None]
    rows, key = (trained, "error") if trained else (result["candidates"], "score")
    figure = Figure(figsize=(9, 5.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for kind, color in zip(kinds, _COLORS, strict=False):
        points = [row for row in rows if row["kind"] == kind]
        axes.scatter(
            [row[unit] for row in points], [row[key] for row in points], s=44, color=color, label=kind, zorder=3
        )
    if trained:
        best, frontier = float("inf"), []
        for row in sorted(rows, key=lambda row: (row[unit], row[key])):
            if row[key] < best:
                best = row[key]
                frontier.append(row)
        axes.plot([row[unit] for row in frontier], [row[key] for row in frontier], color="#b7c1cc", zorder=2)
        for row in frontier:
            name = f"{shorten(row['schedule'], 30)}, kernel {row['kernel_size']}"
            axes.annotate(
                name, (row[unit], row[key]), xytext=(6, -12), textcoords="offset points", fontsize=8.5, color="#1f2a37"
            )
        if all(row["error"] > 0 for row in rows):
            axes.set_yscale("log")
    axes.set_xscale("log")
    axes.set(xlabel=_NOUNS[unit], ylabel=f"held-out {result['metric']}" if trained else "proxy (higher is better)")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(color="#edf0f4", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)
