"""Cost and receptive field of a model, and gridding of its schedule."""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.core.cost import count_multiply_adds, count_parameters, zero_share
from wavedil.core.gridding import audit_gridding, has_irregular_taps
from wavedil.core.measured_field import MeasuredField, measure_receptive_field
from wavedil.errors import WavedilError, count_text
from wavedil.inspection.schedule import audit_info
from wavedil.inspection.text import UNITS, field_text, render_text

_log = logging.getLogger("wavedil")


def measure_model(model: nn.Module, progress: Callable[[int, int], None] | None = None) -> MeasuredField | None:
    """The measured receptive field of a model; None, with a warning, if it cannot be measured.

    Of a WaveNet the stack and the head are measured, from the embedding on; of an effect the middle of its knobs; of a
    dense predictor the scores before the CRF; of another model its ``forward``. ``progress`` is that of
    :func:`wavedil.core.measure_receptive_field`.
    """
    config = getattr(model, "config", {})
    part, ndim, channels, size = model, getattr(model, "ndim", 1), config.get("in_channels") or 1, None
    if hasattr(model, "input_embedding"):
        part, channels = _Stack(model), model.stack.layers[0].channels
    elif getattr(model, "knobs", None):
        part = _Effect(model)
    elif hasattr(model, "coarse_scores"):
        part, ndim, channels = _Scores(model), 2, model.in_channels
        if model.receptive_field is not None:
            size = [-(-(model.receptive_field + 2) // s) * s for s in model.strides]
    try:
        return measure_receptive_field(part, channels, ndim, size=size, seeds=2 if ndim > 1 else 8, progress=progress)
    except WavedilError as error:
        _log.warning("the effective receptive field is not drawn: %s", error)
        return None


class _Part(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class _Stack(_Part):
    """A WaveNet after its embedding."""

    def forward(self, x: Tensor) -> Tensor:
        channels = self.model.conditioner.channels
        condition = x.new_zeros(len(x), channels, x.shape[2]) if channels else None
        return self.model.head(self.model.stack(x, condition))


class _Effect(_Part):
    """An effect with its knobs in the middle."""

    def forward(self, x: Tensor) -> Tensor:
        middle = [(low + high) / 2 for low, high in self.model.knobs.values()]
        return self.model(x, x.new_tensor([middle]) if middle else None)


class _Scores(_Part):
    """The scores of a dense predictor, before they are resized."""

    def forward(self, image: Tensor) -> Tensor:
        return self.model.coarse_scores(image)[0]


def inspect_model(model: nn.Module, example_input: Tensor | None = None) -> dict[str, Any]:
    """The dict of :func:`wavedil.inspection.schedule.inspect_schedule` for a model.

    ``parameters`` is the number of parameters of the model, ``multiply_adds`` is per position of the input, and
    ``zero_weights`` is the share of weights that are zero. For an effect without one schedule, and for a model with
    learned or merged taps, the dict has only ``ndim``, ``parameters``, ``multiply_adds``, ``receptive_field`` (None for
    a recurrent network, which has no limit), ``receptive_field_ms``, ``sample_rate``, ``recurrent_layers`` and
    ``networks``, which describes each network of a model that has several.

    Args:
        model: has ``dilations``, ``kernel_size`` and ``receptive_field``, and optionally ``ndim`` (default 1) and
            ``sample_rate``.
        example_input: codes ``(batch, time)`` or ``(batch, channels, *space)``. Default: zero codes for a model with
            ``num_codes``, and zeros for an effect or a TCN; for other models ``multiply_adds`` is then None.

    Raises:
        WavedilError: the model has no schedule and is not an effect.
    """
    missing = [n for n in ("dilations", "kernel_size", "receptive_field") if not hasattr(model, n)]
    if _is_effect(model) and (missing or len(model.parts()) > 1):
        return _without_schedule(model, example_input)
    if has_irregular_taps(model) and "receptive_field" not in missing:
        return _without_schedule(model, example_input)
    if missing:
        raise WavedilError(
            f'{type(model).__name__} has no {" and no ".join(missing)}: inspect its schedule instead, e.g. "1..512 x3"'
        )
    ndim = getattr(model, "ndim", 1)
    info = audit_info(
        audit_gridding(model.dilations, model.kernel_size, ndim),
        channels=getattr(model, "channels", getattr(model, "config", {}).get("channels")),
        parameters=count_parameters(model),
        multiply_adds=multiply_adds_per_position(model, example_input),
        receptive_field=_longest(model.receptive_field),
        sample_rate=getattr(model, "sample_rate", None),
    )
    return info | {"zero_weights": zero_share(model)}


def multiply_adds_per_position(model: nn.Module, example_input: Tensor | None = None) -> int | None:
    """Multiply-adds per position of the input, see :func:`inspect_model`; None without an input for the model."""
    if example_input is not None:
        positions = len(example_input) * math.prod(example_input.shape[-getattr(model, "ndim", 1) :])
        return count_multiply_adds(model, example_input) // positions
    if _is_effect(model):
        return _effect_cost(model)
    runnable = with_example(model, 64)
    return None if runnable is None else count_multiply_adds(*runnable) // 64


def with_example(model: nn.Module, length: int) -> tuple[nn.Module, Tensor, *tuple[Tensor, ...]] | None:
    """A module and inputs of ``length`` samples or steps for it: zeros; None if the model's input is not known."""
    config, like = getattr(model, "config", {}), next(model.parameters())
    if _is_effect(model):
        return _Effect(model), like.new_zeros(1, 1, length)
    if hasattr(model, "num_codes"):
        channels = getattr(getattr(model, "conditioner", None), "channels", 0)
        condition = [like.new_zeros(1, channels, length)] if channels else []
        return model, like.new_zeros(1, length, dtype=torch.int64), *condition
    if {"in_channels", "out_channels", "dilations"} <= config.keys() and getattr(model, "ndim", 1) == 1:  # a TCN
        return model, like.new_zeros(1, config["in_channels"], length)
    return None


def _is_effect(model: nn.Module) -> bool:
    return all(hasattr(model, name) for name in ("knobs", "sample_rate", "parts"))


def render_model(info: dict[str, Any]) -> str:
    """The dict of :func:`inspect_model` as text for a terminal."""
    if "dilations" in info:
        return render_text(info)
    recurrent = count_text(info["recurrent_layers"], "recurrent layer")
    facts = [("receptive field", f"unlimited ({recurrent})" if info["recurrent_layers"] else field_text(info))]
    if info["sample_rate"] is not None:
        facts.append(("sample rate", f"{info['sample_rate']} Hz"))
    facts.append(("parameters", f"{info['parameters']:,}"))
    if info["multiply_adds"] is not None:
        facts.append(("multiply-adds", f"{info['multiply_adds']:,} per output {UNITS[info['ndim']][:-1]}"))
    for each in info["networks"]:
        text = f"{each['parameters']:,} parameters, {each['multiply_adds']:,} multiply-adds per output sample"
        facts.append((each["name"], text))
    width = max(17, *(len(name) for name, _ in facts))
    return "\n".join(f"{name:<{width}} {text}" for name, text in facts)


def _without_schedule(model: nn.Module, example_input: Tensor | None) -> dict[str, Any]:
    selected = getattr(model, "selected", model)  # the network of a container that runs
    cells = [part for part in selected.modules() if isinstance(part, nn.RNNBase)]
    field, rate = None if cells else _longest(model.receptive_field), getattr(model, "sample_rate", None)
    parts = zip(model.part_names(), model.parts(), strict=True) if _is_effect(model) else ()
    return {
        "ndim": getattr(model, "ndim", 1),
        "parameters": count_parameters(model),
        "multiply_adds": multiply_adds_per_position(model, example_input),
        "receptive_field": field,
        "receptive_field_ms": None if field is None or rate is None else 1000 * field / rate,
        "sample_rate": rate,
        "recurrent_layers": sum(cell.num_layers for cell in cells),
        "networks": [
            {"name": name, "parameters": count_parameters(part), "multiply_adds": _effect_cost(part)}
            for name, part in parts
            if part is not model
        ],
    }


def _longest(field: int | tuple[int, ...]) -> int:
    """A receptive field along its longest axis."""
    return field if isinstance(field, int) else max(field)


def _effect_cost(model: nn.Module) -> int:
    """Multiply-adds per sample, without those of the samples before time 0."""
    costs = [count_multiply_adds(*with_example(model, 64 * count)) for count in (1, 2)]
    return (costs[1] - costs[0]) // 64
