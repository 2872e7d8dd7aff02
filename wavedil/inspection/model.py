"""Cost and receptive field of a model, and gridding of its schedule."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.core.gridding import audit_gridding
from wavedil.core.receptive_field import count_multiply_adds, count_parameters
from wavedil.errors import WavedilError
from wavedil.inspection.schedule import audit_info


def inspect_model(model: nn.Module, example_input: Tensor | None = None) -> dict[str, Any]:
    """The dict of :func:`wavedil.inspection.schedule.inspect_schedule` for a model.

    ``parameters`` is the number of parameters of the model, ``multiply_adds`` is per position of the input.

    Args:
        model: has ``dilations``, ``kernel_size`` and ``receptive_field``, and optionally ``ndim`` (default 1) and
            ``sample_rate``.
        example_input: codes ``(batch, time)`` or ``(batch, channels, *space)``. Default: zero codes for a model with
            ``num_codes``; for other models ``multiply_adds`` is then None.

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
    return audit_info(
        audit_gridding(model.dilations, model.kernel_size, ndim),
        channels=getattr(model, "channels", getattr(model, "config", {}).get("channels")),
        parameters=count_parameters(model),
        multiply_adds=multiply_adds,
        receptive_field=field if isinstance(field, int) else max(field),
        sample_rate=getattr(model, "sample_rate", None),
    )
