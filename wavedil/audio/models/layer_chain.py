"""A chain of recurrent layers, convolutions and activations: the amplifier models of RTNeural, AIDA-X and Proteus."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Builder, Program, Term
from wavedil.audio.models.activations import check_slopes, make_activation
from wavedil.audio.models.effect_model import EffectModel, knob_ranges
from wavedil.core import DilatedConv
from wavedil.core.schema import Channels, Dilation, Range, SampleRate, Scale, Taps, check
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError, one_of
from wavedil.weights import register

Gain = Annotated[float, Range(0, 1e6)]
#: Keys of a layer besides ``type``, with their types, and the default of those that have one.
_KEYS: dict[str, Any] = {"channels": Channels, "kernel_size": Taps, "dilation": Dilation, "activation": Any}
_OF_TYPE = {
    "lstm": {"channels": None, "activation": None},
    "gru": {"channels": None, "activation": None},
    "conv": {"channels": None, "kernel_size": 1, "dilation": 1, "activation": None},
}


@register
class LayerChain(EffectModel):
    """Layers in a chain from the sound, and the knobs as further channels, to the sound.

    With ``x`` the input times ``input_gain``, the output is ``chain(x)``, plus ``x`` if ``residual``, times
    ``output_gain``. Each layer has zero history at time 0.

    Source: Wright et al. 2019, "Real-time black-box modelling with recurrent neural networks", DAFx; RTNeural
    (Chowdhury 2021, arXiv 2106.03037).

    Args:
        layers: of each its ``type``, which is ``lstm``, ``gru`` or ``conv``, and its ``channels``; of a ``conv``, which
            is causal, ``kernel_size`` and ``dilation``, 1 by default. ``activation`` is applied to the layer's output:
            see :mod:`wavedil.audio.models.activations`. The last layer has one channel.
        residual: add the input to the output.
        input_gain: factor of the input.
        output_gain: factor of the output.
        knobs: name and range of each knob, whose value is a further input channel of the first layer.
        sample_rate: in Hz.
        metadata: plain values stored in the files.

    Raises:
        WavedilError: a layer has an unknown or missing key, or the last one has several channels.
    """

    input_name = None  # torch 2.14 exports a recurrent layer to ONNX for one length only

    def __init__(
        self,
        layers: Sequence[Mapping[str, Any]],
        *,
        residual: bool = False,
        input_gain: Gain = 1.0,
        output_gain: Gain = 1.0,
        knobs: Mapping[str, Sequence[Scale]] | None = None,
        sample_rate: SampleRate = 48000,
        metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.residual, self.input_gain, self.output_gain = residual, input_gain, output_gain
        self.knobs = knob_ranges(knobs or {})
        self.sample_rate, self.metadata = sample_rate, metadata
        specs = [_check_layer(layer, f"layers[{index}]") for index, layer in enumerate(layers)]
        if not specs or specs[-1]["channels"] != 1:
            raise WavedilError("layers: expected one or more, of which the last one has channels 1")
        widths = [1 + len(self.knobs), *(spec["channels"] for spec in specs)]
        self.layers = nn.ModuleList(_make(spec, width) for spec, width in zip(specs, widths, strict=False))
        self.activations = nn.ModuleList(
            make_activation(spec["activation"]) if spec["activation"] else nn.Identity() for spec in specs
        )
        for activation, spec in zip(self.activations, specs, strict=True):
            check_slopes(activation, spec["channels"])

    @property
    def receptive_field(self) -> int:
        """That of the convolutions; recurrent layers remember without an end."""
        return 1 + sum(layer.receptive_field - 1 for layer in self.layers if isinstance(layer, DilatedConv))

    @property
    def settle(self) -> float:
        """As long as AIDA-X runs a model on silence before it is used."""
        return 2048 / self.sample_rate

    def forward(self, x: Tensor, knobs: Tensor | None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time), (batch, knobs) -> (batch, 1, time - skip)``, without the first ``skip`` outputs."""
        return self.step(x, None, knobs)[0][:, :, skip:]

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)``, of any length: its output and the state after it."""
        self.check_input(x, knobs)
        x = x * self.input_gain
        h = x
        if knobs is not None:
            knobs = knobs if knobs.ndim == 3 else knobs.unsqueeze(2).expand(-1, -1, x.shape[2])
            h = torch.cat([x, knobs.to(x)], dim=1)
        new: State = {}
        for index, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            h, after = layer.step(h, substate(state, f"layers.{index}"))
            h = activation(h)
            new |= add_prefix(f"layers.{index}", after)
        return (h + x if self.residual else h) * self.output_gain, new

    def program(self) -> Program:
        """The operations of this model, from which C code is written."""
        program = Builder()
        ends = torch.tensor(list(self.knobs.values()), dtype=torch.float64).view(-1, 2)
        # The knobs, which the program scales to [-1, 1], are the rows below the sound.
        center, half = ends.mean(1), (ends[:, 1] - ends[:, 0]) / 2
        knobs = torch.cat([torch.zeros(1, len(half)), half.diag()]) if self.knobs else None
        bias = torch.cat([torch.zeros(1), center])
        dry = x = program.product([_factor(program.sound, self.input_gain, len(bias))], bias, knobs=knobs)
        for index, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            if isinstance(layer, Recurrent):
                start = torch.zeros(layer.cell.hidden_size)
                x = program.recurrent(layer.cell, x, *[start] * len(layer.names))
            else:
                x = program.conv(layer, x, f"layers.{index}")
            x = program.map(x, activation)
        terms = [_factor(x, self.output_gain)]
        if self.residual:
            terms.append(Term(dry, _factor(dry, self.output_gain, len(bias)).weight.transpose(0, 1)))
        program.product(terms)
        return program.program(self, self.sample_rate, self.settle, knobs=self.knobs)


class Recurrent(nn.Module):
    """An LSTM or GRU layer of torch, ``(batch, in_channels, time) -> (batch, channels, time)``."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], in_channels: int, channels: int):
        super().__init__()
        self.cell = kind(in_channels, channels, batch_first=True)
        self.names = ("hidden", "cell") if kind is nn.LSTM else ("hidden",)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next chunk: its output and the state after it, ``(batch, channels)`` each."""
        if not state:
            state = {name: x.new_zeros(x.shape[0], self.cell.hidden_size) for name in self.names}
        if x.shape[2] == 0:
            return x.new_zeros(x.shape[0], self.cell.hidden_size, 0), state
        before = tuple(state[name].unsqueeze(0) for name in self.names)
        h, after = self.cell(x.transpose(1, 2), before if len(before) > 1 else before[0])
        after = after if len(before) > 1 else (after,)
        return h.transpose(1, 2), {name: value[0] for name, value in zip(self.names, after, strict=True)}


def _factor(source: int, value: float, channels: int = 1) -> Term:
    """A term that writes ``value`` times the source to the first of some channels."""
    weight = torch.zeros(channels, 1, 1)
    weight[0] = value
    return Term(source, weight)


def _make(spec: Mapping[str, Any], in_channels: int) -> nn.Module:
    if spec["type"] == "conv":
        size, dilation = spec["kernel_size"], spec["dilation"]
        return DilatedConv(1, in_channels, spec["channels"], size, dilation=dilation, padding="causal")
    return Recurrent(nn.LSTM if spec["type"] == "lstm" else nn.GRU, in_channels, spec["channels"])


def _check_layer(layer: Any, place: str) -> dict[str, Any]:
    """A layer with its defaults."""
    if not isinstance(layer, Mapping) or layer.get("type") not in list(_OF_TYPE):
        found = layer.get("type") if isinstance(layer, Mapping) else layer
        raise WavedilError(f"{place}.type is {found!r}: expected {one_of(found, _OF_TYPE)}")
    defaults = _OF_TYPE[layer["type"]]
    for key in layer:
        if key != "type" and key not in defaults:
            raise WavedilError(f"{place} has the unknown key {key!r}: expected {one_of(key, defaults)}")
    spec = {**defaults, **layer}
    for key in defaults:
        check(f"{place}.{key}", spec[key], _KEYS[key])
    return spec
