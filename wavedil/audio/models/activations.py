"""Activations by name, as amp models' files write them: a name, or ``{"type": name, **parameters}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.errors import WavedilError

ActivationSpec = str | Mapping[str, Any]


class LeakyHardtanh(nn.Module):
    """Identity between ``min_val`` and ``max_val``, beyond them straight on with a small slope."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, min_slope: float = 0.01, max_slope: float = 0.01):
        super().__init__()
        self.min_val, self.max_val, self.min_slope, self.max_slope = min_val, max_val, min_slope, max_slope

    def forward(self, x: Tensor) -> Tensor:
        below, above = (x - self.min_val).clamp(max=0), (x - self.max_val).clamp(min=0)
        return x.clamp(self.min_val, self.max_val) + below * self.min_slope + above * self.max_slope


class Softsigmoid(nn.Module):
    """Softsign, moved to (0, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + 0.5 * F.softsign(x)


#: The activations that a name may mean. None of them has weights.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "Hardtanh": nn.Hardtanh,
    "LeakyHardtanh": LeakyHardtanh,
    "LeakyReLU": nn.LeakyReLU,
    "ReLU": nn.ReLU,
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
    "Softsigmoid": Softsigmoid,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
}


def make_activation(spec: ActivationSpec) -> nn.Module:
    """The module that ``spec`` means, e.g. ``"Tanh"`` or ``{"type": "LeakyReLU", "negative_slope": 0.1}``.

    Raises:
        WavedilError: another name, or parameters that it does not have.
    """
    given = {"type": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    name = given.pop("type", None)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise WavedilError(f"activation is {spec!r}: expected one of {', '.join(ACTIVATIONS)}")
    if not all(isinstance(value, int | float) for value in given.values()):
        raise WavedilError(f"activation is {spec!r}: expected numbers as the parameters of {name}")
    try:
        return ACTIVATIONS[name](**given)
    except (TypeError, ValueError) as error:
        raise WavedilError(f"activation is {spec!r}: {error}") from None


class Gated(nn.Module):
    """primary(first half of the channels) * secondary(second half)."""

    def __init__(self, primary: nn.Module, secondary: nn.Module):
        super().__init__()
        self.primary, self.secondary = primary, secondary

    def forward(self, h: Tensor) -> Tensor:
        first, second = h.chunk(2, dim=1)
        return self.primary(first) * self.secondary(second)


class Blended(Gated):
    """Between the first half and its primary activation, by as much as secondary(second half) says."""

    def forward(self, h: Tensor) -> Tensor:
        first, second = h.chunk(2, dim=1)
        return torch.lerp(first, self.primary(first), self.secondary(second))
