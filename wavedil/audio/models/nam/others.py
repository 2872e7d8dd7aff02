"""The other networks of ``.nam`` files: an LSTM, a stack of convolutions, and one convolution."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Builder, Program, Term
from wavedil.audio.models.activations import ActivationSpec, check_slopes, make_activation
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core import DilatedConv
from wavedil.core.schema import Channels, Dilation, Layers, Range, SampleRate
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError
from wavedil.weights import register


class _Network(EffectModel):
    """An effect without knobs that starts as its ``.nam`` file says."""

    __module__ = "wavedil.audio.models.nam"

    def __init__(self, sample_rate: int, metadata: Mapping[str, Any] | None):
        super().__init__()
        self.sample_rate, self.metadata = sample_rate, metadata

    def forward(self, x: Tensor, knobs: Tensor | None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time) -> (batch, 1, time - skip)``, without the first ``skip`` outputs."""
        return self.step(x, None, knobs)[0][:, :, skip:]

    @property
    def start_description(self) -> str:
        return "zero input before it"


@register
class NAMLSTM(_Network):
    """LSTM layers and a linear layer from their state to the sound: ``(batch, 1, time) -> (batch, 1, time)``.

    It starts from ``hidden`` and ``cell``, ``(layers, hidden_size)``, parameters that neural-amp-modeler writes as the
    state after silence.

    Args:
        hidden_size: of each layer.
        num_layers: number of layers.
        sample_rate: in Hz.
        metadata: plain values stored in the files.
    """

    receptive_field = 1  # without an end: the state remembers
    input_name = None  # torch 2.14 exports an LSTM to ONNX for one length only

    def __init__(
        self,
        hidden_size: Channels,
        num_layers: Layers = 1,
        *,
        sample_rate: SampleRate = 48000,
        metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__(sample_rate, metadata)
        self.lstm = nn.LSTM(1, hidden_size, num_layers, batch_first=True)
        for layer in range(num_layers):
            # The files have one bias, the sum.
            nn.init.zeros_(getattr(self.lstm, f"bias_hh_l{layer}").requires_grad_(False))
        self.hidden = nn.Parameter(torch.zeros(num_layers, hidden_size))
        self.cell = nn.Parameter(torch.zeros(num_layers, hidden_size))
        self.out = nn.Linear(hidden_size, 1)

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)``, of any length: its output and the state after it."""
        self.check_input(x, knobs)
        if state is None:
            state = {name: getattr(self, name).expand(x.shape[0], -1, -1).to(x) for name in ("hidden", "cell")}
        if x.shape[2] == 0:
            return x, state
        before = tuple(state[name].transpose(0, 1).contiguous() for name in ("hidden", "cell"))
        h, after = self.lstm(x.transpose(1, 2), before)
        names = zip(("hidden", "cell"), after, strict=True)
        return self.out(h).transpose(1, 2), {name: value.transpose(0, 1) for name, value in names}

    def program(self) -> Program:
        """The model for compiled code."""
        program = Builder()
        x = program.sound
        for layer in range(self.lstm.num_layers):
            x = program.recurrent(self.lstm, x, self.hidden[layer], self.cell[layer], layer)
        program.product([Term(x, self.out.weight.detach().float().unsqueeze(2))], self.out.bias)
        return program.program(self, self.sample_rate)

    @property
    def start_description(self) -> str:
        return "the state in the file"


class _FixedNorm(nn.Module):
    """Batch normalization in evaluation: its statistics do not change."""

    def __init__(self, channels: int):
        super().__init__()
        for name, value in (("mean", 0.0), ("variance", 1.0), ("weight", 1.0), ("bias", 0.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self.register_buffer("eps", torch.full((1,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight / torch.sqrt(self.variance + self.eps)
        return x * scale.unsqueeze(1) + (self.bias - self.mean * scale).unsqueeze(1)


@register
class NAMConvNet(_Network):
    """Causal convolutions with 2 taps, each followed by an activation, and a 1x1 convolution to the sound.

    Args:
        channels: of the layers.
        dilations: one per layer.
        activation: see :mod:`wavedil.audio.models.activations`.
        batchnorm: a batch normalization with fixed statistics precedes each activation.
        sample_rate: in Hz.
        metadata: plain values stored in the files.
    """

    kernel_size = 2

    def __init__(
        self,
        channels: Channels,
        dilations: Sequence[Dilation],
        activation: ActivationSpec = "Tanh",
        *,
        batchnorm: bool = False,
        sample_rate: SampleRate = 48000,
        metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__(sample_rate, metadata)
        if not dilations:
            raise WavedilError("dilations is empty: expected one per layer")
        self.dilations, self.batchnorm = tuple(dilations), batchnorm
        widths = [1, *[channels] * len(dilations)]
        self.convs = nn.ModuleList(
            DilatedConv(1, before, channels, 2, dilation=dilation, padding="causal", bias=not batchnorm)
            for before, dilation in zip(widths, dilations, strict=False)
        )
        self.norms = nn.ModuleList(_FixedNorm(channels) if batchnorm else nn.Identity() for _ in dilations)
        self.activation = make_activation(activation)
        check_slopes(self.activation, channels)
        self.out = DilatedConv(1, channels, 1, 1)

    @property
    def receptive_field(self) -> int:
        return 1 + sum(self.dilations)

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)``, of any length: its output and the state after it."""
        self.check_input(x, knobs)
        if state is None:  # the input was zero before time 0
            state = self._run(x.new_zeros(x.shape[0], 1, self.receptive_field - 1), None)[1]
        return self._run(x, state)

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        new: State = {}
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x, history = conv.step(x, substate(state, f"convs.{index}"))
            x = self.activation(norm(x))
            new |= add_prefix(f"convs.{index}", history)
        return self.out(x), new

    def program(self) -> Program:
        """The model for compiled code."""
        silence = self.out.weight.new_zeros(1, 1, self.receptive_field - 1)
        program = Builder(self._run(silence, None)[1])
        x = program.sound
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            term, bias = program.term(conv, x, f"convs.{index}"), conv.bias
            if isinstance(norm, _FixedNorm):
                scale = norm.weight / torch.sqrt(norm.variance + norm.eps)
                bias = norm.bias - norm.mean * scale
                term = replace(term, weight=term.weight * scale.float().view(-1, 1, 1))
            x = program.map(program.product([term], bias), self.activation)
        program.conv(self.out, x)
        return program.program(self, self.sample_rate)


@register
class NAMLinear(_Network):
    """One causal convolution, ``(batch, 1, time) -> (batch, 1, time)``: an impulse response, the last sample first.

    Args:
        receptive_field: number of weights.
        bias: whether a constant is added.
        sample_rate: in Hz.
        metadata: plain values stored in the files.
    """

    dilations = (1,)

    def __init__(
        self,
        receptive_field: Annotated[int, Range(1, 2**20)],
        bias: bool = False,
        *,
        sample_rate: SampleRate = 48000,
        metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__(sample_rate, metadata)
        self.receptive_field = self.kernel_size = receptive_field
        self.conv = DilatedConv(1, 1, 1, receptive_field, padding="causal", bias=bias)

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)``, of any length: its output and the state after it."""
        self.check_input(x, knobs)
        y, history = self.conv.step(x, substate(state, "conv"))
        return y, add_prefix("conv", history)

    def program(self) -> Program:
        """The model for compiled code."""
        program = Builder()
        program.conv(self.conv, program.sound)
        return program.program(self, self.sample_rate)
