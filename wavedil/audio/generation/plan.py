"""The seam between models and engines: a model makes a plan, an engine reads one, and neither knows the other.

A plan is the model's arithmetic for one sample, as flat float tensors in one wiring::

    x = sum over taps of tables[tap][code at t - taps + 1 + tap]                   (a CodeEmbeddingPlan)
    x = bias + sum over taps of weight[tap] * level of that code                   (a AmplitudeEmbeddingPlan)
    for each layer:  h = bias + condition @ [features at t, speaker]               (where the model has them)
                         + sum over taps j of weight[j] @ x[t - (taps - 1 - j) * dilation]
                     z = tanh(h[:hidden]) * sigmoid(h[hidden:])
                     x = (x + residual @ z + residual_bias) * residual_scale       (where the layer has a residual)
    y = skip_weight @ concatenated z + skip_bias
    for weight, bias in head:  y = weight @ relu(y) + bias
    code = distribution.sample(y, uniform)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wavedil.audio.distributions.categorical import Distribution
from wavedil.core import GatedBlock
from wavedil.errors import WavedilError


def check_finite(weights: Iterable[Tensor]) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        raise WavedilError("the model's weights hold NaN or infinity: training diverged; use an earlier checkpoint")


@dataclass(frozen=True)
class CodeEmbeddingPlan:
    """Codes as look-ups: ``tables`` (taps, codes, channels), oldest tap first. "No code yet" adds nothing."""

    tables: Tensor

    @property
    def taps(self) -> int:
        return len(self.tables)

    @property
    def num_codes(self) -> int:
        return self.tables.shape[1]


@dataclass(frozen=True)
class AmplitudeEmbeddingPlan:
    """Codes as amplitudes: ``weight`` (taps, channels), oldest tap first, ``bias`` (channels), and ``levels`` (codes),
    the amplitude of each code. "No code yet" has amplitude 0."""

    weight: Tensor
    bias: Tensor
    levels: Tensor

    @property
    def taps(self) -> int:
        return len(self.weight)

    @property
    def num_codes(self) -> int:
        return len(self.levels)


@dataclass(frozen=True)
class LayerPlan:
    """One gated layer. ``weight`` (taps, 2 * hidden, channels), oldest tap first; the tanh half comes first.

    ``condition`` is (2 * hidden, condition channels + speaker channels).
    """

    dilation: int
    weight: Tensor
    bias: Tensor
    condition: Tensor | None
    residual: Tensor | None
    residual_bias: Tensor | None

    @property
    def span(self) -> int:
        """Past inputs that the layer needs."""
        return (len(self.weight) - 1) * self.dilation

    @classmethod
    def of(cls, block: GatedBlock) -> LayerPlan:
        weight, bias = block.conv.weight.detach(), block.conv.bias.detach()
        condition = None if block.condition is None else block.condition.weight.detach().flatten(1)
        if block.gate_order == "sigmoid_first":
            hidden = len(weight) // 2
            weight, bias = weight.roll(hidden, 0), bias.roll(hidden, 0)
            condition = None if condition is None else condition.roll(hidden, 0)
        residual = block.residual
        return cls(
            dilation=block.conv.dilation[0],
            weight=weight.permute(2, 0, 1),
            bias=bias,
            condition=condition,
            residual=None if residual is None else residual.weight.detach().flatten(1),
            residual_bias=None if residual is None else residual.bias.detach(),
        )


@dataclass(frozen=True)
class GenerationPlan:
    """See the module's text. All weights of one dtype, on one device."""

    input_embedding: CodeEmbeddingPlan | AmplitudeEmbeddingPlan
    layers: tuple[LayerPlan, ...]
    residual_scale: float
    skip_weight: Tensor  # (skip, layers * hidden)
    skip_bias: Tensor
    head: tuple[tuple[Tensor, Tensor], ...]
    distribution: Distribution
    condition_channels: int = 0  # features that change from sample to sample
    speaker_channels: int = 0  # numbers that stay for a whole stream

    def __post_init__(self) -> None:
        check_finite(_tensors(self))

    @property
    def channels(self) -> int:
        return self.layers[0].weight.shape[2]

    @property
    def hidden(self) -> int:
        return self.layers[0].weight.shape[1] // 2

    @property
    def device(self) -> torch.device:
        return self.skip_bias.device

    def mapped(self, change: Callable[[Tensor], Tensor]) -> GenerationPlan:
        """The plan with every tensor changed, e.g. ``plan.mapped(Tensor.double)``."""
        return _mapped(self, change)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(item, change) for item in value)
    if is_dataclass(value):
        return replace(value, **{field.name: _mapped(getattr(value, field.name), change) for field in fields(value)})
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
