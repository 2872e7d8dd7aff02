"""A WaveNet of layer arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Builder, Program
from wavedil.audio.models.activations import ActivationSpec, check_slopes, make_activation
from wavedil.audio.models.effect_model import EffectModel, Quality
from wavedil.audio.models.nam.array import LayerArray
from wavedil.audio.models.nam.layer import last
from wavedil.audio.models.nam.presets import NAMES, preset
from wavedil.audio.models.nam.slimming import slimmed
from wavedil.core import DilatedConv
from wavedil.core.schema import Channels, SampleRate, Scale, Taps, checked
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError, one_of, shown
from wavedil.weights import register

STARTS = ("zero_input", "zero_history")


class PostHead(nn.Module):
    """Optional convolutions after the last array's head signal: activation and causal convolution per kernel size."""

    @checked
    def __init__(
        self,
        in_channels: Channels,
        channels: Channels,
        kernel_sizes: Sequence[Taps],
        activation: ActivationSpec = "ReLU",
        out_channels: Channels = 1,
    ):
        super().__init__()
        if not kernel_sizes:
            raise WavedilError("kernel_sizes of head is empty: expected one per convolution")
        widths = [in_channels, *[channels] * (len(kernel_sizes) - 1), out_channels]
        self.activation = make_activation(activation)
        for width in set(widths[:-1]):
            check_slopes(self.activation, width)
        self.convs = nn.ModuleList(
            DilatedConv(1, width, after, taps, padding="causal")
            for width, after, taps in zip(widths, widths[1:], kernel_sizes, strict=False)
        )

    @property
    def receptive_field(self) -> int:
        return 1 + sum(conv.span[0] for conv in self.convs)

    def step(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        new: State = {}
        for index, conv in enumerate(self.convs):
            x, history = conv.step(self.activation(x), substate(state, f"convs.{index}"))
            new |= add_prefix(f"convs.{index}", history)
        return x, new

    def lower(self, program: Builder, x: int, name: str) -> int:
        """Adds the convolutions to a program; x and the result are buffers, ``name`` the key in the state."""
        for index, conv in enumerate(self.convs):
            x = program.conv(conv, program.map(x, self.activation), f"{name}.convs.{index}")
        return x

    def valid(self, x: Tensor) -> Tensor:
        """The outputs that do not depend on what was before ``x``."""
        for conv in self.convs:
            x = conv.valid(self.activation(x))
        return x


@register
class NAM(EffectModel):
    """Layer arrays in sequence: ``(batch, 1, time) -> (batch, 1, time)``, dry sound to that of the amplifier.

    Every array takes the input x as condition, or the output of another NAM for it, and starts its sum of head terms
    with the head signal of the array before::

        h, c, head = x, condition(x), none
        for array in arrays:  h, head = array(h, c, head)
        y = head_scale * head

    **Start-up**: with ``start="zero_input"``, NAM's convention, the input was zero forever before time 0, and the
    layers' histories follow from that. With ``"zero_history"``, as in all other models here, the histories are zero.
    Within the receptive field the two differ audibly: use a model as it was trained.

    Args:
        arrays: layer arrays, or the name of a network of neural-amp-modeler: ``"standard"``, which None is too,
            ``"lite"``, ``"feather"``, ``"nano"`` (two arrays each), ``"a2_8"`` and ``"a2_3"`` (the networks of its
            second generation, of 8 and 3 channels).
        head_scale: factor of the output; None for that of the named network, or 0.02.
        head: arguments of :class:`PostHead` except ``in_channels``; None for no convolutions after the arrays.
        condition: computes the condition, with the sample rate of this model and any number of ``out_channels``; its
            ``start`` does not matter. None: the condition is the input.
        start: ``"zero_input"`` or ``"zero_history"``.
        sample_rate: in Hz, of the training data.
        out_channels: more than 1 only for the ``condition`` of another NAM.
        metadata: plain values stored in the files: name, gear, loudness …
    """

    __module__ = "wavedil.audio.models.nam"  # as model folders name it

    def __init__(
        self,
        arrays: Sequence[LayerArray] | str | None = None,
        *,
        head_scale: Scale | None = None,
        head: Mapping[str, Any] | None = None,
        condition: "NAM | None" = None,
        start: str = "zero_input",
        sample_rate: SampleRate = 48000,
        out_channels: Channels = 1,
        metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        scale = 0.02
        if arrays is None or isinstance(arrays, str):
            name = arrays or "standard"
            if name not in NAMES:
                raise WavedilError(f"arrays is {shown(name)}: expected layer arrays or {one_of(name, NAMES)}")
            arrays, scale = preset(name)
        head_scale = scale if head_scale is None else head_scale
        if start not in STARTS:
            raise WavedilError(f"start is {start!r}: expected {one_of(start, STARTS)}")
        if condition is not None and condition.sample_rate != sample_rate:
            raise WavedilError(f"condition has sample_rate {condition.sample_rate}: expected {sample_rate}")
        width = 1 if condition is None else condition.out_channels
        _check_widths(arrays, width, out_channels if head is None else None)
        self.arrays, self.condition, self.out_channels = nn.ModuleList(arrays), condition, out_channels
        self.head = None if head is None else _post_head(arrays[-1].head_channels, out_channels, head)
        self.head_scale, self.start_up, self.sample_rate, self.metadata = head_scale, start, sample_rate, metadata

    def forward(self, x: Tensor, knobs: Tensor | None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time) -> (batch, 1, time - skip)``, without the first ``skip`` outputs."""
        if skip < self.receptive_field - 1:
            return self.step(x, None, knobs)[0][:, :, skip:]
        self.check_input(x, knobs)
        y = self._valid(x[:, :, skip - self.receptive_field + 1 :])
        return y[:, :, y.shape[2] - (x.shape[2] - skip) :]

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)``, of any length: its output and the state after it."""
        self.check_input(x, knobs)
        return self._run(x, self.start(x) if state is None else state)

    def check_input(self, x: Tensor, knobs: Tensor | None) -> None:
        super().check_input(x, knobs)
        if self.out_channels != 1:
            raise WavedilError(
                f"out_channels is {self.out_channels}: a NAM with several can only be the condition of another NAM"
            )

    @checked
    def at_quality(self, quality: Quality) -> EffectModel:
        """With ``slimmable`` arrays: a model of its first channels, ``quality`` of them; at 1 this model.

        An array with n numbers of channels takes number ``floor(n * quality)``.
        """
        return slimmed(self, quality) if any(array.slimmable for array in self.arrays) else super().at_quality(quality)

    def start(self, like: Tensor) -> State | None:
        """The state before the first sample, for the batch size, dtype and device of ``like``."""
        if self.start_up == "zero_history":
            return None
        return self._run(like.new_zeros(like.shape[0], 1, self.receptive_field - 1), None)[1]

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        new: State = {}
        h, c, head = x, x, None
        if self.condition is not None:
            c, history = self.condition._run(x, substate(state, "condition"))
            new |= add_prefix("condition", history)
        for index, array in enumerate(self.arrays):
            (h, head), history = array.step(h, c, head, substate(state, f"arrays.{index}"))
            new |= add_prefix(f"arrays.{index}", history)
        y = self.head_scale * head
        if self.head is not None:
            y, history = self.head.step(y, substate(state, "head"))
            new |= add_prefix("head", history)
        return y, new

    def program(self) -> Program:
        """The operations of this model, from which C code is written."""
        program = Builder(self.start(next(self.parameters()).new_zeros(1, 1, 0)))
        self._lower(program)
        return program.program(self, self.sample_rate, self.settle)

    def _lower(self, program: Builder, prefix: str = "") -> int:
        h, c, head = program.sound, program.sound, None
        if self.condition is not None:
            c = self.condition._lower(program, f"{prefix}condition.")
        for index, array in enumerate(self.arrays):
            scale = self.head_scale if array is self.arrays[-1] else 1.0
            h, head = array.lower(program, h, c, head, f"{prefix}arrays.{index}", scale)
        return head if self.head is None else self.head.lower(program, head, f"{prefix}head")

    def _valid(self, x: Tensor) -> Tensor:
        """Outputs that do not depend on the start: each layer computes only those that the next ones need."""
        c = x if self.condition is None else self.condition._valid(x)
        h, head = last(x, c), None
        for array in self.arrays:
            h, head = array.valid(h, c, head)
        y = self.head_scale * head
        return y if self.head is None else self.head.valid(y)

    @property
    def settle(self) -> float:
        """Seconds of silence after which the start-up has no effect: 0 with zero input."""
        return 0.0 if self.start_up == "zero_input" else self.receptive_field / self.sample_rate

    @property
    def start_description(self) -> str:
        return "zero input before it" if self.start_up == "zero_input" else super().start_description

    @property
    def dilations(self) -> tuple[int, ...]:
        before = () if self.condition is None else self.condition.dilations
        return before + tuple(dilation for array in self.arrays for dilation in array.dilations)

    @property
    def kernel_size(self) -> int:
        """Taps of each convolution. Missing (AttributeError) if the layers have different kernel sizes."""
        arrays = [part for part in self.modules() if isinstance(part, LayerArray)]
        sizes = {size for array in arrays for size in array.kernel_sizes}
        if len(sizes) > 1:
            raise AttributeError(f"kernel_size: the layers have different ones, {sorted(sizes)}")
        return sizes.pop()

    @property
    def receptive_field(self) -> int:
        """Input samples that an output sample depends on."""
        parts = [part for part in (self.condition, *self.arrays, self.head) if part is not None]
        return 1 + sum(module.receptive_field - 1 for module in parts)


def _post_head(in_channels: int, out_channels: int, options: Mapping[str, Any]) -> PostHead:
    if options.get("out_channels", out_channels) != out_channels:
        raise WavedilError(f"out_channels of head is {shown(options['out_channels'])}: expected {out_channels}")
    try:
        return PostHead(**{"in_channels": in_channels, "out_channels": out_channels, **options})
    except TypeError as error:  # an unknown or missing name
        raise WavedilError(f"head is {shown(options)}: {error}") from None


def _check_widths(arrays: Sequence[LayerArray], condition: int, out_channels: int | None) -> None:
    if not arrays:
        raise WavedilError("arrays is empty: expected at least one LayerArray")
    channels, head = 1, arrays[0].sum_channels
    for index, array in enumerate(arrays):
        if (array.in_channels, array.sum_channels, array.condition_channels) != (channels, head, condition):
            raise WavedilError(
                f"arrays[{index}] has in_channels={array.in_channels}, head terms of {array.sum_channels} channels and "
                f"condition_channels={array.condition_channels}: expected {channels}, {head} and {condition}"
            )
        channels, head = array.channels, array.head_channels
    if out_channels not in (None, head):
        raise WavedilError(f"arrays[-1] has head_channels={head}: expected {out_channels}, the sound")
