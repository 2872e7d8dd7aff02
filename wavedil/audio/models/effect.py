"""Feed-forward WaveNet for audio effects (amplifiers, pedals, denoising): dry sound to processed sound."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Builder, Program, Term
from wavedil.audio.models.effect_model import EffectModel, knob_ranges
from wavedil.audio.models.initialization import init_stack_
from wavedil.audio.models.one_poles import OnePoles
from wavedil.core import DilatedConv, DilatedStack, Schedule
from wavedil.core.schema import Channels, OptionalChannels, Range, SampleRate, Scale, Seconds, Taps
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError
from wavedil.weights import register

Settle = Annotated[float, Range(0, 1e6)]  # seconds


@register
class Effect(EffectModel):
    """Feed-forward WaveNet for audio effects (Damskägg et al. 2019, arXiv 1811.00334): stack of gated blocks, head.

    ``forward(x, knobs)``: ``(batch, 1, time), (batch, knobs) -> (batch, 1, time)``. The output at t depends on the
    input up to and including t, not on earlier outputs, so all samples are computed at once.

    At time 0 every layer's history is zero, which is not the history after zero input, and the one-pole filters have
    the values ``charges``, as in a device that is switched on at time 0. :class:`wavedil.audio.LiveEffect` and
    ``wavedil process`` first run ``settle`` seconds of silence, as in a device that has been on for a while.

    Args:
        channels, skip_channels: residual and skip channels.
        dilations: schedule of the stack, e.g. ``"1..256 x2"``.
        kernel_size: taps of each dilated convolution.
        knobs: name and range of each control, e.g. ``{"gain": [0, 1]}``: global conditioning of every layer.
        knob_channels: width of the tanh layer between knobs and conditioning; 0 makes the conditioning linear in the
            knobs.
        head_channels: width between the head's two layers; default ``skip_channels``.
        time_constants: in seconds, of one-pole low-pass filters whose outputs are further input channels
            (:class:`OnePoles`), for effects slower than the receptive field, such as coupling capacitors.
        charges: initial value of each filter; default 0.
        settle: seconds of silence to process before live input; default: the receptive field plus at least five of the
            longest time constant, until every charge is below 1e-4.
        sample_rate: in Hz; stored with the model.
    """

    def __init__(
        self,
        channels: Channels = 16,
        skip_channels: Channels = 16,
        dilations: Schedule = "1..512",
        kernel_size: Taps = 3,
        *,
        knobs: Mapping[str, Sequence[Scale]] | None = None,
        knob_channels: OptionalChannels = 8,
        head_channels: Channels | None = None,
        time_constants: Sequence[Seconds] = (),
        charges: Sequence[Scale] | None = None,
        settle: Settle | None = None,
        sample_rate: SampleRate = 48000,
    ):
        super().__init__()
        self.sample_rate, self.knobs = sample_rate, knob_ranges(knobs or {})
        self.one_poles = OnePoles(time_constants, charges, sample_rate)
        self.knob_layer = nn.Linear(len(self.knobs), knob_channels) if self.knobs and knob_channels else None
        self.input_conv = DilatedConv(1, 1 + len(self.one_poles), channels, 1)
        self.stack = DilatedStack(
            ndim=1,
            channels=channels,
            dilations=dilations,
            kernel_size=kernel_size,
            causal=True,
            skip_channels=skip_channels,
            condition_channels=(knob_channels or len(self.knobs)) if self.knobs else 0,
        )
        hidden = head_channels or skip_channels
        self.hidden = DilatedConv(1, skip_channels, hidden, 1)
        self.out = DilatedConv(1, hidden, 1, 1)
        self._settle = settle
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initializes the weights; see :mod:`wavedil.audio.models.initialization`."""
        nn.init.normal_(self.input_conv.weight, std=2.0)  # sound is quiet; larger weights reach the curved part of tanh
        init_stack_(self.stack)

    @property
    def dilations(self) -> tuple[int, ...]:
        return self.stack.dilations

    @property
    def kernel_size(self) -> int:
        return self.stack.kernel_size

    @property
    def receptive_field(self) -> int:
        """Input samples, up to the present, that an output depends on, apart from the one-pole filters."""
        return self.stack.receptive_field

    @property
    def settle(self) -> float:
        """Seconds of silence after which the start-up has no effect."""
        return self.receptive_field / self.sample_rate + self.one_poles.settle if self._settle is None else self._settle

    @property
    def charged(self) -> bool:
        """Whether a filter has a charge at time 0."""
        return any(self.one_poles.charges)

    def forward(self, x: Tensor, knobs: Tensor | None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time), (batch, knobs) -> (batch, 1, time - skip)``, without the first ``skip`` outputs.

        The stack computes at most one receptive field of the skipped samples.
        """
        self.check_input(x, knobs)
        if not 0 <= skip <= x.shape[2]:
            raise WavedilError(f"skip is {skip}: expected 0 to the {x.shape[2]} samples of the input")
        start = max(0, skip - self.receptive_field + 1) if skip else 0
        x = self.one_poles(x)[:, :, start:]
        if knobs is not None and knobs.ndim == 3:
            knobs = knobs[:, :, start:]
        return self._head(self.stack(self.input_conv(x), self.condition(knobs)))[:, :, skip - start :]

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk, of any length: its output and the state after it; see :class:`EffectModel`."""
        self.check_input(x, knobs)
        x, filters = self.one_poles.step(x, substate(state, "one_poles"))
        skips, stack = self.stack.step(self.input_conv(x), substate(state, "stack"), self.condition(knobs))
        return self._head(skips), {**add_prefix("one_poles", filters), **add_prefix("stack", stack)}

    def program(self) -> Program:
        """The operations of this model, from which C code is written."""
        program = Builder()
        term = program.term(self.input_conv, program.sound)
        terms = [term]
        if len(self.one_poles):
            filtered = program.one_pole(program.sound, self.one_poles.decay, self.one_poles.charges)
            terms = [Term(program.sound, term.weight[:, :1]), Term(filtered, term.weight[:, 1:])]
        x = program.product(terms, self.input_conv.bias)
        skips = program.gated_stack(self.stack, x, "stack")
        program.conv(self.out, program.map(program.conv(self.hidden, skips), nn.Tanh()))
        layer = self.knob_layer
        condition = () if layer is None else ((layer.weight.detach().float(), layer.bias.detach().float(), True),)
        return program.program(self, self.sample_rate, self.settle, knobs=self.knobs, condition=condition)

    def _head(self, skips: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(skips)))

    def condition(self, knobs: Tensor | None) -> Tensor | None:
        """Knob values to the condition: ``(batch, knobs) -> (batch, channels, 1)``, of all samples, or
        ``(batch, knobs, time) -> (batch, channels, time)``.
        """
        if not self.knobs:
            return None
        knobs = knobs if knobs.is_floating_point() else knobs.float()
        low, high = torch.tensor(list(self.knobs.values()), dtype=knobs.dtype, device=knobs.device).T
        knobs = knobs.unsqueeze(1) if knobs.ndim == 2 else knobs.transpose(1, 2)
        centered = (2 * knobs - low - high) / (high - low)
        return (centered if self.knob_layer is None else torch.tanh(self.knob_layer(centered))).transpose(1, 2)
