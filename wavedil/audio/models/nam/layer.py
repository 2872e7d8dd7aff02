"""One layer of an array, and its feature-wise linear modulations."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Builder
from wavedil.audio.models.activations import Blended, Gated
from wavedil.core import DilatedConv
from wavedil.core.schema import Channels, Dilation, OptionalChannels, Taps, checked
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError, one_of, shown

#: Places of modulations in a layer, in the order of their weights in a file.
FILM_PLACES = (
    "conv_pre", "conv_post", "input_mixin_pre", "input_mixin_post",
    "activation_pre", "activation_post", "layer1x1_post", "head1x1_post",
)  # fmt: skip


class FiLM(nn.Module):
    """Feature-wise linear modulation, ``scale(condition) * x + shift(condition)`` (Perez et al. 2018, 1709.07871).

    Scale and shift are the first and the second half of one 1x1 convolution; ``shift=False`` has the scale only.
    """

    @checked
    def __init__(self, condition_channels: Channels, channels: Channels, shift: bool = True, groups: Channels = 1):
        super().__init__()
        self.shift = shift
        self.conv = DilatedConv(1, condition_channels, (2 if shift else 1) * channels, 1, groups=groups)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        modulation = self.conv(condition)
        if not self.shift:
            return modulation * x
        scale, shift = modulation.chunk(2, dim=1)
        return scale * x + shift

    def lower(self, program: Builder, x: int, condition: int) -> int:
        """Adds the modulation to a program; x, condition and result are buffers."""
        return program.modulate(x, program.conv(self.conv, condition), self.shift)


class NAMLayer(nn.Module):
    """One layer of an array::

    a = activation(conv(x) + mixin(condition))    # conv is causal and dilated, mixin 1x1
    x = x + layer1x1(a)                           # x + a without layer1x1
    head term = head1x1(a)                        # a without head1x1

    Each input of conv and mixin and each result, also that of the sum, may be modulated by the condition
    (:class:`FiLM`).
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
        groups: Channels,
        mixin_groups: Channels,
        layer1x1: bool,
        layer1x1_groups: Channels,
        head1x1_channels: OptionalChannels,
        head1x1_groups: Channels,
        films: Mapping[str, Any],
    ):
        super().__init__()
        width = 2 * bottleneck if isinstance(activation, Gated) else bottleneck
        self.conv = DilatedConv(1, channels, width, kernel_size, dilation=dilation, padding="causal", groups=groups)
        self.mixin = DilatedConv(1, condition_channels, width, 1, groups=mixin_groups, bias=False)
        self.activation = activation
        self.layer1x1 = DilatedConv(1, bottleneck, channels, 1, groups=layer1x1_groups) if layer1x1 else None
        self.head1x1 = (
            DilatedConv(1, bottleneck, head1x1_channels, 1, groups=head1x1_groups) if head1x1_channels else None
        )
        widths = {
            "conv_pre": channels, "conv_post": width,
            "input_mixin_pre": condition_channels, "input_mixin_post": width,
            "activation_pre": width, "activation_post": bottleneck,
        }  # fmt: skip
        widths |= {"layer1x1_post": channels} if layer1x1 else {}
        widths |= {"head1x1_post": head1x1_channels} if head1x1_channels else {}
        self.films = nn.ModuleDict()
        for place in films:
            if place not in widths:
                reason = f" without {place.removesuffix('_post')}" if place in FILM_PLACES else ""
                raise WavedilError(f"films has {shown(place)}{reason}: expected {one_of(place, widths, some=True)}")
        for place in FILM_PLACES:
            if films.get(place) is not None:
                self.films[place] = _film(condition_channels, widths[place], place, films[place])

    def _modulate(self, place: str, x: Tensor, condition: Tensor) -> Tensor:
        return self.films[place](x, condition) if place in self.films else x

    def step(self, x: Tensor, condition: Tensor, state: State | None) -> tuple[tuple[Tensor, Tensor], State]:
        """The next chunk: ``((x, head term), state)``."""
        h, history = self.conv.step(self._modulate("conv_pre", x, condition), substate(state, "conv"))
        return self._finish(x, h, condition), add_prefix("conv", history)

    def valid(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """``(x, head term)`` of :meth:`step`, without those that depend on what was before ``x``."""
        h = self.conv.valid(self._modulate("conv_pre", x, condition))
        return self._finish(last(x, h), h, last(condition, h))

    def _finish(self, x: Tensor, h: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.mixin(self._modulate("input_mixin_pre", condition, condition))
        h = self._modulate("conv_post", h, condition) + self._modulate("input_mixin_post", mixed, condition)
        a = self.activation(self._modulate("activation_pre", h, condition))
        a = self._modulate("activation_post", a, condition)
        residual = a if self.layer1x1 is None else self._modulate("layer1x1_post", self.layer1x1(a), condition)
        term = a if self.head1x1 is None else self._modulate("head1x1_post", self.head1x1(a), condition)
        return x + residual, term

    def lower(self, program: Builder, x: int, condition: int, name: str) -> tuple[int, int]:
        """Adds the layer to a program: the buffers (x, head term). ``name`` is its key in the state."""

        def modulated(place: str, buffer: int) -> int:
            return self.films[place].lower(program, buffer, condition) if place in self.films else buffer

        source, mixed = modulated("conv_pre", x), modulated("input_mixin_pre", condition)
        if "conv_post" in self.films or "input_mixin_post" in self.films:
            h = modulated("conv_post", program.conv(self.conv, source, f"{name}.conv"))
            h = program.sum(h, modulated("input_mixin_post", program.conv(self.mixin, mixed)))
        else:
            terms = [program.term(self.conv, source, f"{name}.conv"), program.term(self.mixin, mixed)]
            h = program.product(terms, self.conv.bias)
        h = modulated("activation_pre", h)
        if isinstance(self.activation, Gated):
            pair = self.activation.primary, self.activation.secondary
            a = program.gate(h, *pair, blended=isinstance(self.activation, Blended))
        else:
            a = program.map(h, self.activation)
        a = modulated("activation_post", a)
        term = a if self.head1x1 is None else modulated("head1x1_post", program.conv(self.head1x1, a))
        if self.layer1x1 is None:
            return program.sum(x, a), term
        if "layer1x1_post" in self.films:
            return program.sum(x, modulated("layer1x1_post", program.conv(self.layer1x1, a))), term
        return program.conv(self.layer1x1, a, add=x), term


def last(x: Tensor, like: Tensor) -> Tensor:
    """The end of ``x`` that is as long as ``like``; all of ``x`` if it is shorter."""
    return x[..., max(0, x.shape[-1] - like.shape[-1]) :]


def _film(condition_channels: int, channels: int, place: str, options: Any) -> FiLM:
    try:
        return FiLM(condition_channels, channels, **options)
    except (TypeError, WavedilError) as error:  # no mapping, an unknown name, or no divisor as groups
        raise WavedilError(f"films.{place} is {shown(options)}: {error}") from None
