"""The interface between models and engines: a model makes a plan, an engine reads it. Neither imports the other.

A plan holds the weights of a model as flat float tensors. They compute one sample like this::

    x = sum over taps of tables[tap][code at t - taps + 1 + tap]                   (with a CodeEmbeddingPlan)
    x = bias + sum over taps of weight[tap] * amplitude of that code               (with an AmplitudeEmbeddingPlan)
    for each layer:  h = bias + condition @ [features at t, speaker]               (if the model is conditioned)
                         + sum over taps j of weight[j] @ x[t - delays[j]]
                     z = tanh(h[:hidden]) * sigmoid(h[hidden:])
                     x = (x + residual @ z + residual_bias) * residual_scale       (if the layer has a residual)
    y = skip_weight @ concatenated z + skip_bias
    for weight, bias in head:  y = weight @ relu(y) + bias                         (or y = head(y), a user's module)
    code = distribution.sample(y, uniform)

The state of a batch of streams is a dict of tensors, batch first. Models and all engines use these keys and shapes:

    previous                     (batch, 1) int64           the last code
    input_embedding.history      (batch, taps - 1) int64    the codes before it, oldest first
    stack.layers.N.conv.history  (batch, channels, span)    the last ``LayerPlan.span`` inputs of layer N, oldest first

:class:`wavedil.audio.generation.generate.Stream` adds:

    unguided.*                   the keys above, for the unconditioned copy of each stream (``guidance`` other than 1)
    condition.position           (batch,) int64             index of the next sample in its condition
    random.*                     see :class:`wavedil.audio.generation.random_numbers.Uniforms`
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from wavedil.audio.distributions.base import Distribution
from wavedil.core import DilatedConv, GatedBlock, LearnedDilation, MergeableDilations
from wavedil.core.padded_conv import PaddedConv, axes_value
from wavedil.core.stream import State
from wavedil.errors import WavedilError, shown, with_article

PREVIOUS = "previous"
INPUT_HISTORY = "input_embedding.history"
UNGUIDED = "unguided"
CONDITION_POSITION = "condition.position"
LAST_SOUND = "sound.last"  # the last sample, with which the pre-emphasis of the next is undone
RANDOM = "random"


def layer_history(index: int) -> str:
    """The state's key for the past inputs of a layer."""
    return f"stack.layers.{index}.conv.history"


def read_state(state: Mapping[str, Tensor], num_layers: int) -> tuple[Tensor, list[Tensor]]:
    """The recent codes ``(batch, taps)``, oldest first, and the history ``(batch, channels, span)`` of each layer."""
    codes = torch.cat([state[INPUT_HISTORY], state[PREVIOUS]], dim=1)
    return codes, [state[layer_history(index)] for index in range(num_layers)]


def make_state(codes: Tensor, histories: Sequence[Tensor]) -> State:
    """The inverse of :func:`read_state`; the codes are copied."""
    state = {PREVIOUS: codes[:, -1:].clone(), INPUT_HISTORY: codes[:, :-1].clone()}
    return state | {layer_history(index): history for index, history in enumerate(histories)}


def checked_weight(weight: Tensor) -> Tensor:
    """Returns a weight unchanged; raises WavedilError if it has NaN or infinity."""
    if weight.is_meta:
        raise WavedilError("the model is on the device meta, where it has no weights: load it to another device")
    if not bool(torch.isfinite(weight).all()):
        raise WavedilError("the model's weights hold NaN or infinity: training diverged; use an earlier checkpoint")
    return weight


@dataclass(frozen=True)
class CodeEmbeddingPlan:
    """Embedding of codes by lookup: ``tables`` (taps, codes, channels), oldest tap first.

    Before the start of a stream there is no code; the state holds the number ``num_codes`` there, which adds nothing.
    """

    tables: Tensor

    @property
    def taps(self) -> int:
        return len(self.tables)

    @property
    def num_codes(self) -> int:
        return self.tables.shape[1]


@dataclass(frozen=True)
class AmplitudeEmbeddingPlan:
    """Convolution over the amplitudes of codes: ``weight`` (taps, channels), oldest tap first, and ``bias`` (channels).

    ``levels`` (codes) holds the amplitude of each code. Before the start of a stream there is no code; the state holds
    the number ``num_codes`` there, of amplitude 0.
    """

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

    ``delays`` has the delay of each tap in samples, from the largest to 0: ``(d, 0)`` for two taps with dilation d.
    ``condition`` is (2 * hidden, condition channels + speaker channels).
    """

    delays: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    condition: Tensor | None
    residual: Tensor | None
    residual_bias: Tensor | None

    def __post_init__(self) -> None:
        delays = self.delays
        if len(delays) != len(self.weight) or list(delays) != sorted({0, *delays}, reverse=True) or delays[-1] < 0:
            taps = len(self.weight)
            raise WavedilError(f"delays is {shown(delays)} for {taps} taps: expected one per tap, decreasing to 0")

    @property
    def span(self) -> int:
        """Number of past inputs that the layer needs."""
        return self.delays[0]

    @classmethod
    def of(cls, block: GatedBlock) -> Self:
        """The plan of a block.

        Raises:
            WavedilError: a block or convolution that engines cannot compute, e.g. with taps that are not snapped.
        """
        _check_methods(block, (GatedBlock,), "forward_gated", "step_gated", "_combine")
        delays, weight = _causal_taps(block.conv)
        bias = _bias(block.conv)
        condition = None if block.condition is None else block.condition.weight.detach().flatten(1)
        if block.gate_order == "sigmoid_first":
            hidden = len(bias) // 2
            weight, bias = weight.roll(hidden, 1), bias.roll(hidden, 0)
            condition = None if condition is None else condition.roll(hidden, 0)
        residual = block.residual
        return cls(
            delays=delays,
            weight=weight,
            bias=bias,
            condition=condition,
            residual=None if residual is None else residual.weight.detach().flatten(1),
            residual_bias=None if residual is None else _bias(residual),
        )


def _causal_taps(conv: nn.Module) -> tuple[tuple[int, ...], Tensor]:
    """Delays and weights (taps, outputs, inputs) of a convolution as in :class:`LayerPlan`."""
    _check_methods(conv, (DilatedConv, LearnedDilation, MergeableDilations), "forward", "step", "_apply_taps")
    is_causal = conv.padding == ("causal",) or conv.span == (0,)
    if not is_causal or conv.stride != (1,) or conv.groups != 1:
        found = f"padding {axes_value(conv.padding)}, stride {axes_value(conv.stride)} and groups {conv.groups}"
        raise WavedilError(f"a layer has {found}: engines generate with padding causal, stride 1 and groups 1")
    weight, offsets = conv.taps()
    weight = weight.detach().permute(2, 0, 1)
    delays = tuple(conv.span[0] - offset for (offset,) in offsets)
    if delays[-1] != 0:  # engines multiply the present separately from the past
        delays, weight = (*delays, 0), torch.cat([weight, torch.zeros_like(weight[:1])])
    return delays, weight


def _check_methods(part: nn.Module, known: Sequence[type], *methods: str) -> None:
    """Raises WavedilError unless a part has the methods of a known class, of which the plan has the weights."""
    names = " and ".join(", ".join(kind.__name__ for kind in known).rsplit(", ", 1))
    kind = next((kind for kind in known if isinstance(part, kind)), None)
    if kind is None:
        raise WavedilError(f"a layer has {with_article(part)}: engines generate with {names}; use step()")
    for method in methods:
        if getattr(type(part), method) is not getattr(kind, method):
            text = f"a layer has {with_article(part)} with its own {method}: engines generate with {names}"
            raise WavedilError(f"{text}; use step()")


def _bias(conv: PaddedConv) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()


@dataclass(frozen=True)
class GenerationPlan:
    """Weights and wiring of a model; see the top of this module. All tensors have one dtype and one device."""

    input_embedding: CodeEmbeddingPlan | AmplitudeEmbeddingPlan
    layers: tuple[LayerPlan, ...]
    residual_scale: float
    skip_weight: Tensor  # (skip, layers * hidden)
    skip_bias: Tensor
    head: tuple[tuple[Tensor, Tensor], ...] | nn.Module
    distribution: Distribution
    condition_channels: int = 0  # of the local features, one vector per sample
    speaker_channels: int = 0  # of the speaker embedding, one vector per stream

    def __post_init__(self) -> None:
        for field in fields(self):
            _map_tensors(getattr(self, field.name), checked_weight)

    @property
    def channels(self) -> int:
        return self.layers[0].weight.shape[2]

    @property
    def hidden(self) -> int:
        return self.layers[0].weight.shape[1] // 2

    @property
    def device(self) -> torch.device:
        return self.skip_bias.device

    @property
    def unusual_head(self) -> str | None:
        """The head, for messages, unless it is the two products that compiled engines compute."""
        if isinstance(self.head, nn.Module):
            return f"{with_article(self.head)} as head"
        return None if len(self.head) == 2 else f"a head of {len(self.head)} products instead of 2"

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The plan with a function applied to every tensor, e.g. ``plan.map_tensors(Tensor.double)``."""
        return _map_tensors(self, function)

    def state_template(self, batch: int) -> State:
        """The state's keys, shapes and dtypes for ``batch`` streams, as tensors without memory (device ``meta``)."""
        codes = torch.empty(batch, self.input_embedding.taps, dtype=torch.int64, device="meta")
        shapes = [(batch, self.channels, layer.span) for layer in self.layers]
        return make_state(codes, [torch.empty(shape, device="meta") for shape in shapes])


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_map_tensors(item, function) for item in value)
    if isinstance(value, nn.Module):
        return copy.deepcopy(value)._apply(lambda x: function(x) if x.is_floating_point() else x)
    if is_dataclass(value):
        changed = {field.name: _map_tensors(getattr(value, field.name), function) for field in fields(value)}
        return replace(value, **changed)
    return value
