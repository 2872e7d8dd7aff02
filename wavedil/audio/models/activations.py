"""Activations by name, as in ``.nam`` files: a name, or ``{"type": name, **parameters}``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.errors import WavedilError, one_of, shown

ActivationSpec = str | Mapping[str, Any]


class LeakyHardtanh(nn.Module):
    """Identity between ``min_val`` and ``max_val``; linear with a small slope outside."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, min_slope: float = 0.01, max_slope: float = 0.01):
        super().__init__()
        self.min_val, self.max_val, self.min_slope, self.max_slope = min_val, max_val, min_slope, max_slope

    def forward(self, x: Tensor) -> Tensor:
        below, above = (x - self.min_val).clamp(max=0), (x - self.max_val).clamp(min=0)
        return x.clamp(self.min_val, self.max_val) + below * self.min_slope + above * self.max_slope


class Softsigmoid(nn.Module):
    """Softsign scaled to (0, 1): ``0.5 + 0.5 * softsign(x)``."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + 0.5 * F.softsign(x)


class PReLU(nn.PReLU):
    """``max(0, x) + slope * min(0, x)`` with a learned slope, or one for each channel."""

    def __init__(self, negative_slope: float = 0.25, negative_slopes: Sequence[float] | None = None):
        slopes = [negative_slope] if negative_slopes is None else negative_slopes
        super().__init__(len(slopes))
        with torch.no_grad():
            self.weight.copy_(torch.tensor(slopes))


class Gated(nn.Module):
    """primary(first half of the channels) * secondary(second half)."""

    def __init__(self, primary: nn.Module, secondary: nn.Module):
        super().__init__()
        self.primary, self.secondary = primary, secondary

    def forward(self, h: Tensor) -> Tensor:
        first, second = h.chunk(2, dim=1)
        return self.primary(first) * self.secondary(second)


class Blended(Gated):
    """Linear interpolation from the first half to primary(first half), with weight secondary(second half)."""

    def forward(self, h: Tensor) -> Tensor:
        first, second = h.chunk(2, dim=1)
        return torch.lerp(first, self.primary(first), self.secondary(second))


#: Gated activations by the names that layer arrays use.
GATINGS: dict[str, type[Gated] | None] = {"none": None, "gated": Gated, "blended": Blended}

#: Activations by name.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Hardtanh": nn.Hardtanh,
    "LeakyHardtanh": LeakyHardtanh,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": PReLU,
    "ReLU": nn.ReLU,
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Softsigmoid": Softsigmoid,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
}

#: Parameters of those that have some.
PARAMETERS = {
    "ELU": ("alpha",),
    "Hardtanh": ("min_val", "max_val"),
    "LeakyHardtanh": ("min_val", "max_val", "min_slope", "max_slope"),
    "LeakyReLU": ("negative_slope",),
    "PReLU": ("negative_slope", "negative_slopes"),
}


def make_activation(spec: ActivationSpec, place: str = "activation") -> nn.Module:
    """Builds an activation from e.g. ``"Tanh"`` or ``{"type": "LeakyReLU", "negative_slope": 0.1}``.

    Errors name it by ``place``.

    Raises:
        WavedilError: the name or a parameter is unknown.
    """
    parameters = {"type": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    if isinstance(spec, Mapping) and "type" not in spec:
        raise WavedilError(f"{place} has no type: expected {one_of('', ACTIVATIONS)}")
    name = parameters.pop("type", None)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise WavedilError(f"{place} is {shown(spec)}: expected {one_of(name, ACTIVATIONS)}")
    for key, value in parameters.items():
        if key not in PARAMETERS.get(name, ()):
            known = one_of(key, PARAMETERS.get(name, ()))
            raise WavedilError(f"{place} is {shown(spec)}: {name} has no parameter {key!r}, expected {known}")
        values = value if key == "negative_slopes" and isinstance(value, list | tuple) and value else [value]
        if not all(type(item) in (int, float) and math.isfinite(item) for item in values):
            raise WavedilError(f"{place} is {shown(spec)}: expected numbers as the parameters of {name}")
    if len(parameters) == 2 and name == "PReLU":
        raise WavedilError(f"{place} is {shown(spec)}: expected only one of {' and '.join(parameters)}")
    try:
        return ACTIVATIONS[name](**parameters)
    except (TypeError, ValueError) as error:
        raise WavedilError(f"{place} is {shown(spec)}: {error}") from None


def make_gated_activation(gating: str, primary: ActivationSpec, secondary: ActivationSpec | None) -> nn.Module:
    """The activation ``primary``, alone (``gating="none"``) or with a ``secondary`` as its gate."""
    if gating not in GATINGS:
        raise WavedilError(f"gating is {gating!r}: expected {one_of(gating, GATINGS)}")
    pair = GATINGS[gating]
    return make_activation(primary) if pair is None else pair(make_activation(primary), make_activation(secondary))


def check_slopes(activation: nn.Module, channels: int) -> None:
    """Raises WavedilError for a PReLU with slopes for another number of channels."""
    for part in activation.modules():
        if isinstance(part, nn.PReLU) and part.num_parameters not in (1, channels):
            raise WavedilError(f"PReLU has {part.num_parameters} negative_slopes: expected 1 or {channels}")
