"""The dict of ``inspect_schedule`` or ``inspect_model`` as text for a terminal."""

import math
from typing import Any

from wavedil.core.schedule import format_schedule
from wavedil.errors import count_text

UNITS = {1: "samples", 2: "pixels", 3: "voxels"}
_MAX_BAR = 28  # columns of the bars in the growth table
_MAX_ROWS = 40  # of the growth table; rows in the middle of a longer one are omitted


def render_text(info: dict[str, Any]) -> str:
    """A growth table and facts, at most 100 columns wide."""
    ndim = info["ndim"]
    schedule = shorten(format_schedule(info["dilations"]), 50)
    channels = f", {info['channels']} channels" if info["channels"] else ""
    title = f"{schedule}: {count_text(info['layers'], 'layer')}, kernel {kernel_text(info)}, {ndim}-D{channels}"
    lines = [title, "", *_growth_table(info), ""]
    lines += [f"{name:<17} {text}" for name, text in _size_facts(info) + _gridding_facts(info)]
    if info["suggestions"]:
        lines += ["", "Changes that remove the holes"]
    for suggestion in info["suggestions"]:
        lines.append(f"  {suggestion['kind']:<19}{suggestion['text']}")
        lines.append(
            f"  {'':<19}layers {suggestion['layers']} (now {info['layers']}), "
            f"field {suggestion['receptive_field']} (now {info['growth'][-1]['receptive_field']}), "
            f"path ratio {ratio_text(suggestion['path_ratio'])} (now {ratio_text(info['path_ratio'])})"
        )
    return "\n".join(lines)


def field_text(info: dict[str, Any], times: str = " x ") -> str:
    """The receptive field with its unit, e.g. "63 x 63 pixels" or "1,024 samples = 64.0 ms at 16000 Hz"."""
    text = f"{_by_axes(info['receptive_field'], info['ndim'], times)} {UNITS[info['ndim']]}"
    if info["receptive_field_ms"] is not None:
        text += f" = {info['receptive_field_ms']:.1f} ms at {info['sample_rate']:g} Hz"
    return text


def kernel_text(info: dict[str, Any], times: str = " x ") -> str:
    """The kernel size by axes, e.g. "3 x 3"."""
    kernel = info["kernel_size"]
    return times.join(map(str, [kernel] * info["ndim"] if isinstance(kernel, int) else kernel))


def ratio_text(ratio: float) -> str:
    """A path ratio with one decimal place, or in scientific notation; it may be an integer above any float."""
    if ratio < 1e6:
        return f"{ratio:,.1f}"
    exponent = math.log10(ratio)
    return f"{10 ** (exponent % 1):.1f}e{int(exponent)}"


def shorten(text: str, length: int) -> str:
    """The text, cut to ``length`` characters if it is longer."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _by_axes(size: int, ndim: int, times: str = " x ") -> str:
    return times.join([f"{size:,}"] * ndim)


def _growth_table(info: dict[str, Any]) -> list[str]:
    rows, sample_rate = info["growth"], info["sample_rate"] if info["ndim"] == 1 else None
    header = f"{'layer':>5} {'dilation':>9} {'field':>9}" + (f" {'ms':>9}" if sample_rate else "")
    lines = [f"{header}  (bars: field, logarithmic)"]
    longest = math.log2(max(rows[-1]["receptive_field"], 2))
    for row in rows if len(rows) <= _MAX_ROWS else [*rows[: _MAX_ROWS - 6], None, *rows[-5:]]:
        if row is None:
            lines.append(f"{'...':>5}")
            continue
        field = row["receptive_field"]
        ms = f" {1000 * field / sample_rate:>9.2f}" if sample_rate else ""
        bar = "█" * max(1, round(_MAX_BAR * math.log2(max(field, 1)) / longest))
        lines.append(f"{row['layer']:>5} {row['dilation']:>9} {field:>9}{ms}  {bar}")
    return lines


def _size_facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    undilated, ndim = info["undilated"], info["ndim"]
    facts = [("receptive field", field_text(info)), ("parameters", f"{info['parameters']:,}")]
    if info.get("zero_weights", 0) >= 0.01:
        facts.append(("zero weights", f"{info['zero_weights']:.1%}"))
    if info["multiply_adds"] is not None:
        facts.append(("multiply-adds", f"{info['multiply_adds']:,} per output {UNITS[ndim][:-1]}"))
    if undilated["layers_for_same_field"] > info["layers"]:
        text = (
            f"the same layers have a field of {_by_axes(undilated['receptive_field'], ndim)}; "
            f"the same field needs {undilated['layers_for_same_field']:,} layers"
        )
        facts.append(("without dilation", text))
    return facts


def _gridding_facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    unit, holes, total, ratio = UNITS[info["ndim"]], info["holes"], info["positions"], info["path_ratio"]
    if holes:
        coverage = f"{holes:,} of {total:,} {unit} ({holes / total:.0%}) in the field do not reach the output"
    else:
        coverage = f"none: all {total:,} {unit} in the field reach the output"
    if ratio > 1:
        spread = "most over fewest paths from an input to the output (above 1 is usual)"
    else:
        spread = "all inputs in use have the same number of paths to the output"
    facts = [("holes (gridding)", coverage), ("path ratio", f"{ratio_text(ratio)}: {spread}")]
    if info["hdc_m2"] is None or info["hdc_passes"] is None:
        return facts
    text = f"{'passes' if info['hdc_passes'] else 'fails'}: M_2 = {info['hdc_m2']}, limit is the kernel size"
    if info["hdc_passes"] == bool(holes):
        text += f"; wrong here: there are {'holes' if holes else 'no holes'}"  # the counts are exact
    return [*facts, ("HDC rule", text)]
