"""Behind `wavedil inspect`: a schedule or a model in numbers, as text and as a picture.

Every function is pure: a dict of plain numbers in the middle, made by `inspect_schedule` or
`inspect_model`, shown by `render_text`, drawn by `plot`, printed as it is by `--json`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.core.gridding import GriddingAudit, audit_gridding, suggest_schedules
from wavedil.core.receptive_field import count_multiply_adds, count_parameters, growth
from wavedil.core.schedule import Schedule, format_schedule
from wavedil.errors import WavedilError

UNITS = {1: "samples", 2: "pixels", 3: "voxels"}
_BAR = 28  # columns of the growth table's bars
_ROWS = 40  # longest growth table; the middle of a longer one is left out


def inspect_schedule(
    schedule: Schedule,
    ndim: int = 1,
    kernel_size: int | Sequence[int] | None = None,
    channels: int = 64,
    sample_rate: float | None = None,
) -> dict[str, Any]:
    """A schedule in numbers: its cost as plain convolutions with bias, its field, its gridding.

    Args:
        schedule: as for `parse_schedule`.
        ndim: space axes, 1 to 3.
        kernel_size: of every layer, one or one per axis; None: 2 in one dimension, 3 in more.
        channels: channels into and out of every layer.
        sample_rate: in Hz, to say the field in milliseconds (one dimension).

    Returns:
        A dict that JSON can hold. `parameters` are of all layers, `multiply_adds` per output
        position, `receptive_field` in positions of the longest axis, `holes` counted over all axes,
        `growth` one row per layer, `undilated` what the same layers reach without dilation.

    Raises:
        WavedilError: an argument out of range; see `audit_gridding`.
    """
    audit = audit_gridding(schedule, kernel_size, ndim)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise WavedilError(f"channels must be a positive integer, got {channels!r}")
    weights = audit.layers * channels**2 * math.prod(audit.kernel_size)
    return _info(
        audit,
        channels=channels,
        parameters=weights + audit.layers * channels,
        multiply_adds=weights,
        receptive_field=audit.receptive_field,
        sample_rate=sample_rate,
    )


def inspect_model(model: nn.Module, example_input: Tensor | None = None) -> dict[str, Any]:
    """The numbers of `inspect_schedule` for a model, as it is.

    Args:
        model: has `.dilations`, `.kernel_size` and `.receptive_field`; `.sample_rate` and `.ndim`
            (otherwise 1) are used if there. `parameters` and `multiply_adds` are the whole
            model's, the latter per position of `example_input`.
        example_input: `(batch, time)` codes or `(batch, channels, *space)`. None: some zero codes
            for a model with `.num_codes`; any other model then has no count of multiply-adds.

    Raises:
        WavedilError: the model has no schedule.
    """
    missing = [n for n in ("dilations", "kernel_size", "receptive_field") if not hasattr(model, n)]
    if missing:
        raise WavedilError(
            f'{type(model).__name__} has no {" and no ".join(missing)}: inspect its schedule instead, e.g. "1..512 x3"'
        )
    ndim = getattr(model, "ndim", 1)
    condition = []
    if example_input is None and hasattr(model, "num_codes"):
        device = next((p.device for p in model.parameters()), None)
        example_input = torch.zeros(1, 64, dtype=torch.int64, device=device)
        channels = getattr(getattr(model, "conditioner", None), "channels", 0)
        condition = [torch.zeros(1, channels, 64, device=device)] if channels else []
    multiply_adds = None
    if example_input is not None:
        positions = len(example_input) * math.prod(example_input.shape[-ndim:])
        multiply_adds = count_multiply_adds(model, example_input, *condition) // positions
    field: Any = model.receptive_field
    config = getattr(model, "config", {})
    return _info(
        audit_gridding(model.dilations, model.kernel_size, ndim),
        channels=getattr(model, "channels", config.get("channels")),
        parameters=count_parameters(model),
        multiply_adds=multiply_adds,
        receptive_field=field if isinstance(field, int) else max(field),
        sample_rate=getattr(model, "sample_rate", None),
    )


def render_text(info: dict[str, Any]) -> str:
    """`info` as a table and sentences for a terminal of 100 columns."""
    ndim, unit = info["ndim"], UNITS[info["ndim"]]
    layers = f"{info['layers']} layer{'s' * (info['layers'] > 1)}"
    width = f", {info['channels']} channels" if info["channels"] else ""
    head = f"{_schedule(info)}: {layers}, kernel {kernel_text(info)}, {ndim}-D{width}"
    lines = [head, "", *_growth_table(info), ""]
    field = f"{_by_axes(info['receptive_field'], ndim)} {unit}"
    if info["receptive_field_ms"] is not None:
        field += f" = {info['receptive_field_ms']:.1f} ms at {info['sample_rate']:g} Hz"
    plain = info["undilated"]
    facts = [
        ("receptive field", field),
        ("parameters", f"{info['parameters']:,}"),
    ]
    if info["multiply_adds"] is not None:
        facts.append(("multiply-adds", f"{info['multiply_adds']:,} per output {unit[:-1]}"))
    if plain["layers_for_same_field"] > info["layers"]:
        facts.append(
            (
                "without dilation",
                f"the same layers see {_by_axes(plain['receptive_field'], ndim)}; "
                f"{plain['layers_for_same_field']:,} layers would see as far",
            )
        )
    facts += _gridding_facts(info)
    lines += [f"{name:<17} {text}" for name, text in facts]
    if info["suggestions"]:
        lines += ["", "What mends it (each checked: no holes)"]
    for suggestion in info["suggestions"]:
        lines.append(f"  {suggestion['kind']:<19}{suggestion['text']}")
        lines.append(
            f"  {'':<19}layers {suggestion['layers']} (now {info['layers']}), "
            f"field {suggestion['receptive_field']} (now {_field(info)}), "
            f"path ratio {ratio_text(suggestion['path_ratio'])} (now {ratio_text(info['path_ratio'])})"
        )
    return "\n".join(lines)


def plot(info: dict[str, Any], path: str | Path) -> None:
    """The picture of `info`: the paths to one output, and how often each input is used.

    Args:
        path: a .png, .svg or .pdf file; written whole or not at all. Folders are made.

    Raises:
        WavedilError: another suffix.
    """
    from wavedil.inspection.plot import draw  # matplotlib takes half a second to import

    draw(info, Path(path))


def _info(
    audit: GriddingAudit,
    channels: int | None,
    parameters: int,
    multiply_adds: int | None,
    receptive_field: int,
    sample_rate: float | None,
) -> dict[str, Any]:
    if sample_rate is not None and not 0 < sample_rate < math.inf:
        raise WavedilError(f"the sample rate must be positive, in Hz, got {sample_rate!r}")
    widest, dilations = max(audit.kernel_size), audit.dilations
    ms = 1000 * receptive_field / sample_rate if sample_rate and audit.ndim == 1 else None
    return {
        "dilations": list(dilations),
        "layers": audit.layers,
        "kernel_size": widest if len(set(audit.kernel_size)) == 1 else list(audit.kernel_size),
        "ndim": audit.ndim,
        "channels": channels,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "receptive_field": receptive_field,
        "receptive_field_ms": ms,
        "sample_rate": sample_rate,
        "positions": math.prod(audit.extent),
        "holes": audit.holes,
        "path_ratio": audit.path_ratio,
        "hdc_m2": audit.hdc_m2,
        "hdc_passes": audit.hdc_passes,
        "undilated": {
            "receptive_field": 1 + (widest - 1) * audit.layers,
            "layers_for_same_field": sum(dilations) if widest > 1 else audit.layers,
        },
        "growth": [row._asdict() for row in growth(dilations, widest)],
        "suggestions": [
            {
                "kind": mended.kind,
                "text": mended.text,
                "branches": [list(rates) for rates in mended.audit.branches],
                "layers": mended.audit.layers,
                "receptive_field": mended.audit.receptive_field,
                "path_ratio": mended.audit.path_ratio,
            }
            for mended in suggest_schedules(dilations, audit.kernel_size, audit.ndim)
        ],
    }


def _growth_table(info: dict[str, Any]) -> list[str]:
    rows, rate = info["growth"], info["sample_rate"] if info["ndim"] == 1 else None
    lines = [f"{'layer':>5} {'dilation':>9} {'field':>9}" + (f" {'ms':>9}" if rate else "")]
    longest = math.log2(max(rows[-1]["receptive_field"], 2))
    shown = rows if len(rows) <= _ROWS else [*rows[: _ROWS - 6], None, *rows[-5:]]
    for row in shown:
        if row is None:
            lines.append(f"{'...':>5}")
            continue
        field = row["receptive_field"]
        ms = f" {1000 * field / rate:>9.2f}" if rate else ""
        bar = "█" * max(1, round(_BAR * math.log2(max(field, 1)) / longest))
        lines.append(f"{row['layer']:>5} {row['dilation']:>9} {field:>9}{ms}  {bar}")
    lines[0] += "  (bars: field, each doubling the same length)"
    return lines


def _gridding_facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    unit, holes, total = UNITS[info["ndim"]], info["holes"], info["positions"]
    ratio = info["path_ratio"]
    if holes:
        coverage = f"{holes:,} of {total:,} {unit} ({holes / total:.0%}) in the field reach no output"
    else:
        coverage = f"none: every one of the {total:,} {unit} in the field reaches the output"
    spread = "every input in use has as many paths to the output as any other"
    if ratio > 1:
        spread = f"{ratio_text(ratio)}: paths of the most used input over those of the least used one"
    facts = [
        ("holes (gridding)", coverage),
        ("path ratio", spread),
    ]
    if info["hdc_m2"] is None or info["hdc_passes"] is None:
        return facts
    verdict = "passes" if info["hdc_passes"] else "fails"
    text = f"M_2 = {info['hdc_m2']}, {verdict} (wants at most the kernel)"
    if info["hdc_passes"] == bool(holes):
        text += ": it errs here, the counts are exact"
    return [*facts, ("HDC rule", text)]


def _schedule(info: dict[str, Any]) -> str:
    text = format_schedule(info["dilations"])
    return text if len(text) <= 50 else f"{text[:47]}..."


def _field(info: dict[str, Any]) -> int:
    """The schedule's own field; a model's may be longer by its front."""
    return info["growth"][-1]["receptive_field"]


def ratio_text(ratio: float) -> str:
    """A path ratio to one place, or in powers of ten; it may be an integer beyond any float."""
    if ratio < 1e6:
        return f"{ratio:,.1f}"
    exponent = math.log10(ratio)
    return f"{10 ** (exponent % 1):.1f}e{int(exponent)}"


def _by_axes(size: int, ndim: int) -> str:
    return " x ".join([f"{size:,}"] * ndim)


def kernel_text(info: dict[str, Any], times: str = " x ") -> str:
    """The kernel by axes, e.g. 3 x 3."""
    kernel = info["kernel_size"]
    return times.join(map(str, [kernel] * info["ndim"] if isinstance(kernel, int) else kernel))
