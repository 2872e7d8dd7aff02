"""Cost, receptive field and gridding of a dilation schedule."""

import math
from collections.abc import Sequence
from typing import Any

from wavedil.core.gridding import GriddingAudit, audit_gridding, suggest_schedules
from wavedil.core.receptive_field import growth
from wavedil.core.schedule import Schedule
from wavedil.errors import WavedilError, check_positive


def inspect_schedule(
    schedule: Schedule,
    ndim: int = 1,
    kernel_size: int | Sequence[int] | None = None,
    channels: int = 64,
    sample_rate: float | None = None,
) -> dict[str, Any]:
    """Cost, receptive field and gridding of a schedule, as a stack of plain convolutions with bias.

    Args:
        schedule: as for :func:`wavedil.core.parse_schedule`.
        ndim: number of space axes, 1 to 3.
        kernel_size: of every layer, one integer or one per axis; default 2 in one dimension, 3 in more.
        channels: input and output channels of every layer.
        sample_rate: in Hz, for the field in milliseconds (one dimension only).

    Returns:
        A JSON-serializable dict. ``parameters`` is the total of all layers, ``multiply_adds`` is per output position,
        ``receptive_field`` is in positions along the longest axis, ``holes`` counts positions over all axes, ``growth``
        has one row per layer, ``undilated`` describes the same layers without dilation, and ``suggestions`` are
        schedules without holes.

    Raises:
        WavedilError: an invalid argument; see :func:`wavedil.core.audit_gridding`.
    """
    audit = audit_gridding(schedule, kernel_size, ndim)
    check_positive(channels=channels)
    parameters, multiply_adds = stack_cost(audit.layers, math.prod(audit.kernel_size), channels)
    return audit_info(
        audit,
        channels=channels,
        parameters=parameters,
        multiply_adds=multiply_adds,
        receptive_field=audit.receptive_field,
        sample_rate=sample_rate,
    )


def stack_cost(layers: int, taps: int, channels: int) -> tuple[int, int]:
    """Parameters, and multiply-adds per output position, of plain convolutions with bias and ``taps`` taps each."""
    weights = layers * channels**2 * taps
    return weights + layers * channels, weights


def audit_info(
    audit: GriddingAudit,
    channels: int | None,
    parameters: int,
    multiply_adds: int | None,
    receptive_field: int,
    sample_rate: float | None,
) -> dict[str, Any]:
    """The dict of :func:`inspect_schedule` from an audit and the numbers that are not in it."""
    if sample_rate is not None and not 0 < sample_rate < math.inf:
        raise WavedilError(f"sample_rate is {sample_rate!r}: expected a positive number in Hz")
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
                "kind": suggestion.kind,
                "text": suggestion.text,
                "branches": [list(branch) for branch in suggestion.audit.branches],
                "layers": suggestion.audit.layers,
                "receptive_field": suggestion.audit.receptive_field,
                "path_ratio": suggestion.audit.path_ratio,
            }
            for suggestion in suggest_schedules(dilations, audit.kernel_size, audit.ndim)
        ],
    }
