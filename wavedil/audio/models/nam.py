"""Neural Amp Modeler's layer arrays: a WaveNet that turns an instrument's signal into what an amplifier makes of it.

After Steven Atkinson's neural-amp-modeler 0.13 (its ``WaveNet``), which in turn follows Wright et al. 2020, "Real-time
guitar amplifier emulation with deep learning", Applied Sciences 10(3). ``wavedil.interop.nam`` reads and writes its
``.nam`` files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wavedil.audio.models.activations import ActivationSpec, Blended, Gated, make_activation
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core import DilatedConv, Schedule, parse_schedule
from wavedil.core.stream import State, named, part
from wavedil.errors import WavedilError
from wavedil.weights import register

GATINGS = {"none": None, "gated": Gated, "blended": Blended}
STARTS = ("zero_input", "zero_history")


class NAMLayer(nn.Module):
    """One layer of an array. ::

    a = activation(conv(x) + mixin(condition))    # conv is causal and dilated, mixin 1x1
    x = x + layer1x1(a)                           # or x + a, where the layer has none
    head term = a                                 # or head1x1(a)
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilation: int,
        activation: nn.Module,
        *,
        bottleneck: int,
        condition_channels: int,
        layer1x1: bool,
        head1x1_channels: int,
    ):
        super().__init__()
        width = 2 * bottleneck if isinstance(activation, Gated) else bottleneck
        self.conv = DilatedConv(1, channels, width, kernel_size, dilation=dilation, padding="causal")
        self.mixin = DilatedConv(1, condition_channels, width, 1, bias=False)
        self.activation = activation
        self.layer1x1 = DilatedConv(1, bottleneck, channels, 1) if layer1x1 else None
        self.head1x1 = DilatedConv(1, bottleneck, head1x1_channels, 1) if head1x1_channels else None

    def step(self, x: Tensor, condition: Tensor, state: State | None) -> tuple[tuple[Tensor, Tensor], State]:
        """((x of the next layer, term of the head), state)."""
        h, history = self.conv.step(x, part(state, "conv"))
        a = self.activation(h + self.mixin(condition))
        x = x + (a if self.layer1x1 is None else self.layer1x1(a))
        return (x, a if self.head1x1 is None else self.head1x1(a)), named("conv", history)


@register
class LayerArray(nn.Module):
    """Layers of one width, whose activations add up to a head signal of their own.

    Args:
        in_channels: of the signal that comes in.
        channels: of the layers.
        head_channels: of the head signal that goes out; the width in which the next array adds up its activations.
        dilations: schedule, one layer each, e.g. ``"1..512"``.
        kernel_size: taps of each convolution: one number, or one for each layer.
        activation: a name or ``{"type": name, **parameters}``; one, or one for each layer. See
            :mod:`wavedil.audio.models.activations`.
        gating: ``"none"``; ``"gated"`` (activation of the first half of the channels times ``secondary`` of the
            second) or ``"blended"``; one, or one for each layer.
        bottleneck: width of the activations; default ``channels``.
        condition_channels: of the model's input, which every layer hears beside its own.
        head_kernel_size, head_bias: of the convolution from the sum of activations to ``head_channels``.
        layer1x1: whether activations go back through a product; if not, ``bottleneck`` must be ``channels``.
        head1x1_channels: width of a product between activations and sum; 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        head_channels: int,
        dilations: Schedule = "1..512",
        kernel_size: int | Sequence[int] = 3,
        *,
        activation: ActivationSpec | Sequence[ActivationSpec] = "Tanh",
        gating: str | Sequence[str] = "none",
        secondary: ActivationSpec | Sequence[ActivationSpec | None] | None = "Sigmoid",
        bottleneck: int | None = None,
        condition_channels: int = 1,
        head_kernel_size: int = 1,
        head_bias: bool = False,
        layer1x1: bool = True,
        head1x1_channels: int = 0,
    ):
        super().__init__()
        self.dilations = parse_schedule(dilations)
        depth = len(self.dilations)
        width = channels if bottleneck is None else bottleneck
        if not layer1x1 and width != channels:
            raise WavedilError(
                f"bottleneck is {width} and channels {channels}: without layer1x1 activations are added to x, so "
                "expected the same"
            )
        self.kernel_sizes = _per_layer("kernel_size", kernel_size, depth)
        self.activations = _per_layer("activation", activation, depth)
        self.gatings = _per_layer("gating", gating, depth)
        self.secondaries = _per_layer("secondary", secondary, depth)
        self.in_channels, self.head_channels, self.channels, self.bottleneck = (
            in_channels,
            head_channels,
            channels,
            width,
        )
        self.head1x1_channels, self.condition_channels = head1x1_channels, condition_channels
        self.rechannel = DilatedConv(1, in_channels, channels, 1, bias=False)
        self.layers = nn.ModuleList(
            NAMLayer(
                channels,
                taps,
                dilation,
                _activation(gating, primary, secondary),
                bottleneck=width,
                condition_channels=condition_channels,
                layer1x1=layer1x1,
                head1x1_channels=head1x1_channels,
            )
            for taps, dilation, primary, gating, secondary in zip(
                self.kernel_sizes, self.dilations, self.activations, self.gatings, self.secondaries, strict=True
            )
        )
        self.head_rechannel = DilatedConv(
            1, self.sum_channels, head_channels, head_kernel_size, padding="causal", bias=head_bias
        )

    @property
    def sum_channels(self) -> int:
        """Width of the sum of activations, which is that of the array before: its head_channels."""
        return self.head1x1_channels or self.bottleneck

    @property
    def receptive_field(self) -> int:
        """Samples that the head signal sees."""
        reach = sum(layer.conv.span[0] for layer in self.layers)
        return 1 + reach + self.head_rechannel.span[0]

    def step(
        self, x: Tensor, condition: Tensor, total: Tensor | None, state: State | None
    ) -> tuple[tuple[Tensor, Tensor], State]:
        """((x, head signal), state); ``total`` is the head signal of the array before, where the sum starts."""
        new: State = {}
        x = self.rechannel(x)
        for index, layer in enumerate(self.layers):
            (x, term), history = layer.step(x, condition, part(state, f"layers.{index}"))
            total = term if total is None else total + term
            new |= named(f"layers.{index}", history)
        head, history = self.head_rechannel.step(total, part(state, "head_rechannel"))
        return (x, head), new | named("head_rechannel", history)


class PostHead(nn.Module):
    """Activation and causal convolution, once per kernel size: what may follow the last array's head signal."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_sizes: Sequence[int],
        activation: ActivationSpec = "ReLU",
        out_channels: int = 1,
    ):
        super().__init__()
        if not kernel_sizes:
            raise WavedilError("kernel_sizes of the head is empty: expected one for each of its convolutions")
        widths = [in_channels, *[channels] * (len(kernel_sizes) - 1), out_channels]
        self.activation = make_activation(activation)
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
            x, history = conv.step(self.activation(x), part(state, f"convs.{index}"))
            new |= named(f"convs.{index}", history)
        return x, new


@register
class NAM(EffectModel):
    """Layer arrays in sequence: ``(batch, 1, time) -> (batch, 1, time)``, dry sound to that of the amplifier.

    Every array hears the input itself as condition. The head signal of one array is where the next starts adding up
    its activations, and that of the last, times ``head_scale``, is the sound::

        h, head = x, none
        for array in arrays:  h, head = array(h, condition=x, head)
        y = head_scale * head

    **Start-up**: with ``start="zero_input"``, NAM's own convention, the input was zero for ever before time 0, and the
    layers' histories are what that makes of them. With ``"zero_history"``, as everywhere else in wavedil, they are
    zero. Inside the receptive field the two differ audibly: a model is to be used as it was trained.

    Args:
        arrays: default NAM's "standard" pair, of 16 and 8 channels.
        head_scale: factor of the output.
        head: what follows: arguments of :class:`PostHead` but for its ``in_channels``; None for nothing.
        start: ``"zero_input"`` or ``"zero_history"``.
        sample_rate: in Hz, that the model was trained at.
        metadata: plain values that files carry along: name, gear, loudness …

    Raises:
        WavedilError: widths of one array that do not fit the next.
    """

    def __init__(
        self,
        arrays: Sequence[LayerArray] | None = None,
        *,
        head_scale: float = 0.02,
        head: Mapping[str, Any] | None = None,
        start: str = "zero_input",
        sample_rate: int = 48000,
        metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if arrays is None:
            arrays = [LayerArray(1, 16, 8), LayerArray(16, 8, 1, head_bias=True)]
        if start not in STARTS:
            raise WavedilError(f"start is {start!r}: expected one of {', '.join(STARTS)}")
        if not isinstance(sample_rate, int) or sample_rate < 1:
            raise WavedilError(f"sample_rate is {sample_rate!r}: expected Hz as a positive integer")
        _check_widths(arrays, 1 if head is None else None)
        self.arrays = nn.ModuleList(arrays)
        self.head = None if head is None else PostHead(arrays[-1].head_channels, **head)
        self.head_scale, self.start_up, self.sample_rate, self.metadata = head_scale, start, sample_rate, metadata

    @property
    def settle(self) -> float:
        """Seconds of silence until nothing of the start-up is left: none where the input was zero before."""
        return 0.0 if self.start_up == "zero_input" else self.receptive_field / self.sample_rate

    @property
    def beginning(self) -> str:
        """What was before time 0, in words."""
        return "zero input before it" if self.start_up == "zero_input" else super().beginning

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(dilation for array in self.arrays for dilation in array.dilations)

    @property
    def kernel_size(self) -> int:
        """Taps of each convolution, where all layers have as many."""
        sizes = {size for array in self.arrays for size in array.kernel_sizes}
        if len(sizes) > 1:
            raise WavedilError(
                f"this model has kernels of {', '.join(map(str, sorted(sizes)))} taps: inspect them apart"
            )
        return sizes.pop()

    @property
    def receptive_field(self) -> int:
        """Samples of the input that an output sample sees."""
        parts = [*self.arrays, *([] if self.head is None else [self.head])]
        return 1 + sum(module.receptive_field - 1 for module in parts)

    def forward(self, x: Tensor, knobs: None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time) -> (batch, 1, time - skip)``: the first ``skip`` outputs are left out."""
        # Behind the receptive field nothing is left of the start, which costs as much as a receptive field of sound.
        if knobs is None and skip >= self.receptive_field - 1 and x.ndim == 3 and x.shape[1] == 1:
            return self._run(x, None)[0][:, :, skip:]
        return self.step(x, None, knobs)[0][:, :, skip:]

    def step(self, x: Tensor, state: State | None = None, knobs: None = None) -> tuple[Tensor, State]:
        """The next chunk, ``(batch, 1, time)`` of any length, and the state after it. None starts; it has no knobs."""
        if knobs is not None:
            raise WavedilError("knobs are given, but an amplifier model of this kind has none: leave them out")
        if x.ndim != 3 or x.shape[1] != 1:
            raise WavedilError(f"sound has shape {tuple(x.shape)}: expected (batch, 1, time)")
        return self._run(x, self.start(x) if state is None else state)

    def start(self, like: Tensor) -> State | None:
        """The state before the first sample, for ``like``'s batch, dtype and device."""
        if self.start_up == "zero_history":
            return None
        return self._run(like.new_zeros(like.shape[0], 1, self.receptive_field - 1), None)[1]

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        new: State = {}
        h, head = x, None
        for index, array in enumerate(self.arrays):
            (h, head), history = array.step(h, x, head, part(state, f"arrays.{index}"))
            new |= named(f"arrays.{index}", history)
        y = self.head_scale * head
        if self.head is not None:
            y, history = self.head.step(y, part(state, "head"))
            new |= named("head", history)
        return y, new


def _activation(gating: str, primary: ActivationSpec, secondary: ActivationSpec | None) -> nn.Module:
    if gating not in GATINGS:
        raise WavedilError(f"gating is {gating!r}: expected one of {', '.join(GATINGS)}")
    pair = GATINGS[gating]
    return make_activation(primary) if pair is None else pair(make_activation(primary), make_activation(secondary))


def _per_layer(name: str, value: Any, depth: int) -> list:
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * depth
    if len(values) != depth:
        raise WavedilError(f"{name} has {len(values)} values: expected one, or one for each of {depth} layers")
    return values


def _check_widths(arrays: Sequence[LayerArray], out_channels: int | None) -> None:
    if not arrays:
        raise WavedilError("arrays is empty: expected at least one LayerArray")
    channels, head = 1, arrays[0].sum_channels
    for index, array in enumerate(arrays):
        if (array.in_channels, array.sum_channels, array.condition_channels) != (channels, head, 1):
            raise WavedilError(
                f"arrays[{index}] takes {array.in_channels} channels, sums {array.sum_channels} and has "
                f"{array.condition_channels} of condition: expected {channels}, {head} and 1, from what is before it"
            )
        channels, head = array.channels, array.head_channels
    if out_channels not in (None, head):
        raise WavedilError(f"the last array has head_channels={head}: expected {out_channels}, the sound")
