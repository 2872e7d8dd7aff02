"""Layers of one width, whose sum of head terms is an array's output."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Builder
from wavedil.audio.models.activations import ActivationSpec, check_slopes, make_gated_activation
from wavedil.audio.models.nam.layer import NAMLayer, last
from wavedil.core import DilatedConv, Schedule, parse_schedule
from wavedil.core.receptive_field import per_layer
from wavedil.core.schema import Channels, Dilation, OptionalChannels, Taps
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError, shown
from wavedil.weights import register


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
        condition_channels: of the condition of every layer: the model's input, or the output of its ``condition``.
        head_kernel_size, head_bias: of the convolution from the sum to ``head_channels``.
        layer1x1: whether a 1x1 convolution follows the activations; without it ``bottleneck`` must equal ``channels``.
        head1x1_channels: width of a 1x1 convolution from the activations to the head term; 0 for none.
        head_dilation: of the convolution from the sum to ``head_channels``.
        groups, mixin_groups, layer1x1_groups, head1x1_groups: of the dilated convolutions, of the 1x1 convolutions from
            the condition, after the activations and to the head terms.
        films: modulations by the condition, by place: ``{"conv_pre": {"shift": True, "groups": 1}}``. Places are those
            of :data:`wavedil.audio.models.nam.layer.FILM_PLACES`.
        slimmable: numbers of channels, ascending up to ``channels``, that :meth:`NAM.at_quality` can reduce this array
            to; None for no other.
    """

    __module__ = "wavedil.audio.models.nam"  # as model folders name it

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
        head_dilation: Dilation = 1,
        groups: Channels = 1,
        mixin_groups: Channels = 1,
        layer1x1_groups: Channels = 1,
        head1x1_groups: Channels = 1,
        films: Mapping[str, Any] | None = None,
        slimmable: Sequence[Channels] | None = None,
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
        if slimmable is not None:
            _check_slimmable(slimmable, channels, (groups, mixin_groups, layer1x1_groups, head1x1_groups))
        self.films, self.slimmable = dict(films or {}), slimmable
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
                groups=groups,
                mixin_groups=mixin_groups,
                layer1x1=layer1x1,
                layer1x1_groups=layer1x1_groups,
                head1x1_channels=head1x1_channels,
                head1x1_groups=head1x1_groups,
                films=self.films,
            )
            for taps, dilation, primary, gating, secondary in zip(
                self.kernel_sizes, self.dilations, self.activations, self.gatings, self.secondaries, strict=True
            )
        )
        for layer in self.layers:
            check_slopes(layer.activation, self.bottleneck)
        self.head_rechannel = DilatedConv(
            1,
            self.sum_channels,
            head_channels,
            head_kernel_size,
            dilation=head_dilation,
            padding="causal",
            bias=head_bias,
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

    def lower(
        self, program: Builder, x: int, condition: int, head: int | None, name: str, scale: float = 1.0
    ) -> tuple[int, int]:
        """Adds the array to a program: the buffers (x, head signal times ``scale``)."""
        x = program.conv(self.rechannel, x)
        for index, layer in enumerate(self.layers):
            x, term = layer.lower(program, x, condition, f"{name}.layers.{index}")
            head = term if head is None else program.sum(head, term)
        return x, program.conv(self.head_rechannel, head, f"{name}.head_rechannel", scale=scale)

    def valid(self, x: Tensor, condition: Tensor, head: Tensor | None) -> tuple[Tensor, Tensor]:
        """``(x, head signal)`` of :meth:`step`, without those that depend on what was before ``x``."""
        x = self.rechannel(x)
        for layer in self.layers:
            x, term = layer.valid(x, last(condition, x))
            if head is not None:  # it is the shorter one after a head_rechannel of several taps
                term = last(term, head) + last(head, term)
            head = term
        return x, self.head_rechannel.valid(head)


def _check_slimmable(slimmable: Sequence[int], channels: int, groups: Sequence[int]) -> None:
    if not slimmable or list(slimmable) != sorted(set(slimmable)) or slimmable[-1] != channels:
        raise WavedilError(f"slimmable is {shown(slimmable)}: expected ascending numbers that end with {channels}")
    if max(groups) > 1:
        raise WavedilError(f"slimmable is {shown(slimmable)} with groups: expected groups of 1")
