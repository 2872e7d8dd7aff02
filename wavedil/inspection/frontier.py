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
    """Writes a picture of each candidate's error and cost, with the name of the best of each budget; without
    trainings, of the proxy and cost.

    Raises:
        WavedilError: the name does not end with .png, .svg or .pdf.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    unit = result["unit"]
    trained = [row for row in result["candidates"] if row.get("error") is not None]
    rows, key = (trained, "error") if trained else (result["candidates"], "score")
    figure = Figure(figsize=(8, 4.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for kind, color in zip(kinds, _COLORS, strict=False):
        points = [row for row in rows if row["kind"] == kind]
        axes.scatter(
            [row[unit] for row in points], [row[key] for row in points], s=44, color=color, label=kind, zorder=3
        )
    if trained:
        groups = [[row for row in rows if row["budget"] == budget] for budget in sorted({r["budget"] for r in rows})]
        best = [min(group, key=lambda row: row["error"]) for group in groups]
        axes.plot([row[unit] for row in best], [row["error"] for row in best], color="#b7c1cc", zorder=2)
        for row in best:
            name = f"{shorten(row['schedule'], 26)}, kernel {row['kernel_size']}, {row['channels']} channels"
            place = row[unit], row["error"]
            axes.annotate(name, place, xytext=(0, -15), textcoords="offset points", fontsize=8.5, ha="center")
        errors = [row["error"] for row in rows]
        if 0 < 3 * min(errors) < max(errors):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))  # else a short axis has one number
    axes.set_xscale("log")
    budgets = sorted({row["budget"] for row in rows})
    axes.set_xticks(budgets, [f"{budget:,.6g}" for budget in budgets])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.margins(*((0.35, 0.1) if trained else (0.05, 0.05)))
    metric = str(result.get("metric", "")).removeprefix("valid_")
    metric = metric.upper() if len(metric) == 3 else metric  # ESR, NLL
    axes.set(xlabel=_NOUNS[unit], ylabel=f"held-out {metric}" if trained else "proxy (higher is better)")
    axes.legend(frameon=False, fontsize=9)
    axes.grid(color="#edf0f4", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)
