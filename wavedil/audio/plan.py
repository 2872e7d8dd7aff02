"""The seam between models and engines: a model makes a plan, an engine reads one, and neither knows the other.

A plan is the model's arithmetic for one sample, as flat float tensors in one wiring::

    x = sum over taps of tables[tap][code at t - taps + 1 + tap]
    for each layer:  h = bias + sum over taps j of weight[j] @ x[t - (taps - 1 - j) * dilation]
                     z = tanh(h[:hidden]) * sigmoid(h[hidden:])
                     x = (x + residual @ z + residual_bias) * residual_scale        (where the layer has a residual)
    y = skip_weight @ concatenated z + skip_bias
    for weight, bias in head:  y = weight @ relu(y) + bias
    code = distribution.sample(y, uniform)
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from wavedil.audio.distributions import Categorical
from wavedil.core import GatedBlock
from wavedil.errors import WavedilError


@dataclass(frozen=True)
class LayerPlan:
    """One gated layer. ``weight`` (taps, 2 * hidden, channels), oldest tap first; the tanh half comes first."""

    dilation: int
    weight: Tensor
    bias: Tensor
    residual: Tensor | None
    residual_bias: Tensor | None

    @property
    def span(self) -> int:
        """Past inputs that the layer needs."""
        return (len(self.weight) - 1) * self.dilation

    @classmethod
    def of(cls, block: GatedBlock) -> LayerPlan:
        weight, bias = block.conv.weight.detach(), block.conv.bias.detach()
        if block.gate_order == "sigmoid_first":
            hidden = len(weight) // 2
            weight, bias = weight.roll(hidden, 0), bias.roll(hidden, 0)
        residual = block.residual
        return cls(
            dilation=block.conv.dilation[0],
            weight=weight.permute(2, 0, 1),
            bias=bias,
            residual=None if residual is None else residual.weight.detach().flatten(1),
            residual_bias=None if residual is None else residual.bias.detach(),
        )


@dataclass(frozen=True)
class Plan:
    """See the module's text. All weights of one dtype, on one device."""

    tables: Tensor  # (taps, codes, channels)
    layers: tuple[LayerPlan, ...]
    residual_scale: float
    skip_weight: Tensor  # (skip, layers * hidden)
    skip_bias: Tensor
    head: tuple[tuple[Tensor, Tensor], ...]
    distribution: Categorical

    def __post_init__(self) -> None:
        tensors = [self.tables, self.skip_weight, self.skip_bias, *(t for pair in self.head for t in pair)]
        tensors += [t for layer in self.layers for t in (layer.weight, layer.bias, layer.residual, layer.residual_bias)]
        if not all(bool(torch.isfinite(t).all()) for t in tensors if t is not None):
            raise WavedilError("the model's weights hold NaN or infinity: training diverged; use an earlier checkpoint")

    def double(self) -> Plan:
        """The plan with float64 weights."""
        return replace(
            self,
            tables=self.tables.double(),
            layers=tuple(replace(layer, **_doubled(layer)) for layer in self.layers),
            skip_weight=self.skip_weight.double(),
            skip_bias=self.skip_bias.double(),
            head=tuple((weight.double(), bias.double()) for weight, bias in self.head),
        )


def _doubled(layer: LayerPlan) -> dict[str, Tensor]:
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return {name: value.double() for name, value in values.items() if isinstance(value, Tensor)}
