"""Neural Amp Modeler: a WaveNet of layer arrays, from the dry signal of an instrument to that of an amplifier.

The network is the ``WaveNet`` of Steven Atkinson's neural-amp-modeler 0.13, which follows Wright et al. 2020,
"Real-time guitar amplifier emulation with deep learning", Applied Sciences 10(3). ``wavedil.interop.nam`` reads and
writes its ``.nam`` files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wavedil.audio.models.activations import ActivationSpec, Gated, make_activation, make_gated_activation
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core import DilatedConv, Schedule, parse_schedule
from wavedil.core.receptive_field import per_layer
from wavedil.core.schema import Channels, Dilation, OptionalChannels, SampleRate, Scale, Taps, checked
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError, one_of, shown
from wavedil.weights import register

STARTS = ("zero_input", "zero_history")


class NAMLayer(nn.Module):
    """One layer of an array::

    a = activation(conv(x) + mixin(condition))    # conv is causal and dilated, mixin 1x1
    x = x + layer1x1(a)                           # x + a without layer1x1
    head term = head1x1(a)                        # a without head1x1
    """

    @checked
    def __init__(
        self,
        channels: Channels,
        kernel_size: Taps,
        dilation: Dilation,
        activation: nn.Module,
        *,
        bottleneck: Channels,
        condition_channels: Channels,
        layer1x1: bool,
        head1x1_channels: OptionalChannels,
    ):
        super().__init__()
        width = 2 * bottleneck if isinstance(activation, Gated) else bottleneck
        self.conv = DilatedConv(1, channels, width, kernel_size, dilation=dilation, padding="causal")
        self.mixin = DilatedConv(1, condition_channels, width, 1, bias=False)
        self.activation = activation
        self.layer1x1 = DilatedConv(1, bottleneck, channels, 1) if layer1x1 else None
        self.head1x1 = DilatedConv(1, bottleneck, head1x1_channels, 1) if head1x1_channels else None

    def step(self, x: Tensor, condition: Tensor, state: State | None) -> tuple[tuple[Tensor, Tensor], State]:
        """The next chunk: ``((x, head term), state)``."""
        h, history = self.conv.step(x, substate(state, "conv"))
        a = self.activation(h + self.mixin(condition))
        x = x + (a if self.layer1x1 is None else self.layer1x1(a))
        return (x, a if self.head1x1 is None else self.head1x1(a)), add_prefix("conv", history)


@register
class LayerArray(nn.Module):
    """Layers of one width; the sum of their head terms is convolved to the head signal of the array.

    Args:
        in_channels: of the input.
        channels: of the layers.
        head_channels: of the head signal; the next array starts its sum with it.
        dilations: schedule, one per layer, e.g. ``"1..512"``.
        kernel_size: taps of each convolution: one number, or one per layer.
        activation: a name or ``{"type": name, **parameters}``; one, or one per layer. See
            :mod:`wavedil.audio.models.activations`.
        gating: ``"none"``; ``"gated"`` (activation of the first half of the channels times ``secondary`` of the
            second) or ``"blended"``; one, or one per layer.
        secondary: the gate's activation.
        bottleneck: width of the activations; default ``channels``.
        condition_channels: of the model's input, which every layer takes as its condition.
        head_kernel_size, head_bias: of the convolution from the sum to ``head_channels``.
        layer1x1: whether a 1x1 convolution follows the activations; without it ``bottleneck`` must equal ``channels``.
        head1x1_channels: width of a 1x1 convolution from the activations to the head term; 0 for none.
    """

    def __init__(
        self,
        in_channels: Channels,
        channels: Channels,
        head_channels: Channels,
        dilations: Schedule = "1..512",
        kernel_size: Taps | Sequence[Taps] = 3,
        *,
        activation: ActivationSpec | Sequence[ActivationSpec] = "Tanh",
        gating: str | Sequence[str] = "none",
        secondary: ActivationSpec | Sequence[ActivationSpec | None] | None = "Sigmoid",
        bottleneck: Channels | None = None,
        condition_channels: Channels = 1,
        head_kernel_size: Taps = 1,
        head_bias: bool = False,
        layer1x1: bool = True,
        head1x1_channels: OptionalChannels = 0,
    ):
        super().__init__()
        self.dilations = parse_schedule(dilations)
        depth = len(self.dilations)
        self.in_channels, self.channels, self.head_channels = in_channels, channels, head_channels
        self.bottleneck = channels if bottleneck is None else bottleneck
        self.head1x1_channels, self.condition_channels = head1x1_channels, condition_channels
        if not layer1x1 and self.bottleneck != channels:
            raise WavedilError(
                f"bottleneck is {bottleneck}: expected channels, {channels}, since without layer1x1 the activations "
                "are added to x"
            )
        self.kernel_sizes = list(per_layer("kernel_size", kernel_size, depth))
        self.activations = list(per_layer("activation", activation, depth))
        self.gatings = list(per_layer("gating", gating, depth))
        self.secondaries = list(per_layer("secondary", secondary, depth))
        self.rechannel = DilatedConv(1, in_channels, channels, 1, bias=False)
        self.layers = nn.ModuleList(
            NAMLayer(
                channels,
                taps,
                dilation,
                make_gated_activation(gating, primary, secondary),
                bottleneck=self.bottleneck,
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
        """Width of the head terms; it must equal ``head_channels`` of the array before."""
        return self.head1x1_channels or self.bottleneck

    @property
    def receptive_field(self) -> int:
        """Input samples that the head signal depends on."""
        return 1 + sum(layer.conv.span[0] for layer in self.layers) + self.head_rechannel.span[0]

    def step(
        self, x: Tensor, condition: Tensor, head: Tensor | None, state: State | None
    ) -> tuple[tuple[Tensor, Tensor], State]:
        """The next chunk: ``((x, head signal), state)``; ``head`` is the head signal of the array before."""
        new: State = {}
        x = self.rechannel(x)
        for index, layer in enumerate(self.layers):
            (x, term), history = layer.step(x, condition, substate(state, f"layers.{index}"))
            head = term if head is None else head + term
            new |= add_prefix(f"layers.{index}", history)
        head, history = self.head_rechannel.step(head, substate(state, "head_rechannel"))
        return (x, head), new | add_prefix("head_rechannel", history)


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


@register
class NAM(EffectModel):
    """Layer arrays in sequence: ``(batch, 1, time) -> (batch, 1, time)``, dry sound to that of the amplifier.

    Every array takes the input x as condition, and starts its sum of head terms with the head signal of the array
    before::

        h, head = x, none
        for array in arrays:  h, head = array(h, condition=x, head)
        y = head_scale * head

    **Start-up**: with ``start="zero_input"``, NAM's convention, the input was zero forever before time 0, and the
    layers' histories follow from that. With ``"zero_history"``, as in all other models here, the histories are zero.
    Within the receptive field the two differ audibly: use a model as it was trained.

    Args:
        arrays: default NAM's "standard" pair, of 16 and 8 channels.
        head_scale: factor of the output.
        head: arguments of :class:`PostHead` except ``in_channels``; None for no convolutions after the arrays.
        start: ``"zero_input"`` or ``"zero_history"``.
        sample_rate: in Hz, of the training data.
        metadata: plain values stored in the files: name, gear, loudness …
    """

    def __init__(
        self,
        arrays: Sequence[LayerArray] | None = None,
        *,
        head_scale: Scale = 0.02,
        head: Mapping[str, Any] | None = None,
        start: str = "zero_input",
        sample_rate: SampleRate = 48000,
        metadata: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if arrays is None:
            arrays = [LayerArray(1, 16, 8), LayerArray(16, 8, 1, head_bias=True)]
        if start not in STARTS:
            raise WavedilError(f"start is {start!r}: expected {one_of(start, STARTS)}")
        _check_widths(arrays, 1 if head is None else None)
        self.arrays = nn.ModuleList(arrays)
        self.head = None if head is None else _post_head(arrays[-1].head_channels, head)
        self.head_scale, self.start_up, self.sample_rate, self.metadata = head_scale, start, sample_rate, metadata

    def forward(self, x: Tensor, knobs: Tensor | None = None, skip: int = 0) -> Tensor:
        """``(batch, 1, time) -> (batch, 1, time - skip)``, without the first ``skip`` outputs."""
        if skip < self.receptive_field - 1:
            return self.step(x, None, knobs)[0][:, :, skip:]
        # These outputs do not depend on the start, whose state costs the computation of a receptive field.
        self.check_input(x, knobs)
        return self._run(x, None)[0][:, :, skip:]

    def step(self, x: Tensor, state: State | None = None, knobs: Tensor | None = None) -> tuple[Tensor, State]:
        """The next chunk ``(batch, 1, time)``, of any length: its output and the state after it."""
        self.check_input(x, knobs)
        return self._run(x, self.start(x) if state is None else state)

    def start(self, like: Tensor) -> State | None:
        """The state before the first sample, for the batch size, dtype and device of ``like``."""
        if self.start_up == "zero_history":
            return None
        return self._run(like.new_zeros(like.shape[0], 1, self.receptive_field - 1), None)[1]

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        new: State = {}
        h, head = x, None
        for index, array in enumerate(self.arrays):
            (h, head), history = array.step(h, x, head, substate(state, f"arrays.{index}"))
            new |= add_prefix(f"arrays.{index}", history)
        y = self.head_scale * head
        if self.head is not None:
            y, history = self.head.step(y, substate(state, "head"))
            new |= add_prefix("head", history)
        return y, new

    @property
    def settle(self) -> float:
        """Seconds of silence after which the start-up has no effect: 0 with zero input."""
        return 0.0 if self.start_up == "zero_input" else self.receptive_field / self.sample_rate

    @property
    def start_description(self) -> str:
        return "zero input before it" if self.start_up == "zero_input" else super().start_description

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(dilation for array in self.arrays for dilation in array.dilations)

    @property
    def kernel_size(self) -> int:
        """Taps of each convolution. Missing (AttributeError) if the layers have different kernel sizes."""
        sizes = {size for array in self.arrays for size in array.kernel_sizes}
        if len(sizes) > 1:
            raise AttributeError(f"kernel_size: the layers have different ones, {sorted(sizes)}")
        return sizes.pop()

    @property
    def receptive_field(self) -> int:
        """Input samples that an output sample depends on."""
        parts = [*self.arrays, *([] if self.head is None else [self.head])]
        return 1 + sum(module.receptive_field - 1 for module in parts)


def _post_head(in_channels: int, options: Mapping[str, Any]) -> PostHead:
    try:
        return PostHead(in_channels=in_channels, **options)
    except TypeError as error:  # an unknown or missing name
        raise WavedilError(f"head is {shown(options)}: {error}") from None


def _check_widths(arrays: Sequence[LayerArray], out_channels: int | None) -> None:
    if not arrays:
        raise WavedilError("arrays is empty: expected at least one LayerArray")
    channels, head = 1, arrays[0].sum_channels
    for index, array in enumerate(arrays):
        if (array.in_channels, array.sum_channels, array.condition_channels) != (channels, head, 1):
            raise WavedilError(
                f"arrays[{index}] has in_channels={array.in_channels}, head terms of {array.sum_channels} channels and "
                f"condition_channels={array.condition_channels}: expected {channels}, {head} and 1"
            )
        channels, head = array.channels, array.head_channels
    if out_channels not in (None, head):
        raise WavedilError(f"arrays[-1] has head_channels={head}: expected {out_channels}, the sound")
