"""The temporal convolutional network of Bai, Kolter and Koltun (2018, arXiv 1803.01271), out of the core's blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.audio.models.activations import ActivationSpec, make_activation
from wavedil.core import ConvBlock, DilatedConv, DilatedStack, Schedule, add_weight_norm, parse_schedule
from wavedil.core.block import field_of
from wavedil.core.stream import State, named, part
from wavedil.errors import WavedilError
from wavedil.weights import register


@register
class TCN(nn.Module):
    """Sequence to sequence: residual blocks of two dilated convolutions each, then a 1x1 convolution.

    ``forward(x)``: ``(batch, in_channels, time) -> (batch, out_channels, time)``. Causal: output t sees inputs up to t
    and no others, and at time 0 every layer's history is zero.

    Args:
        in_channels: of the input, e.g. 88 piano keys.
        out_channels: of the output; None leaves out the last convolution: the output is the last block's.
        channels: of all blocks, or one width for each.
        dilations: one for each block, e.g. ``"1..8"``.
        kernel_size: taps of each dilated convolution.
        dropout: share of activations that training drops after each convolution.
        input_dropout: share of inputs that training drops.
        activation: a name, e.g. ``"ReLU"``; see :func:`wavedil.audio.models.activations.make_activation`.
        gated: the first convolution of each block makes two halves, and the first is multiplied by the sigmoid of the
            second (section 5.6; Dauphin et al. 2017, arXiv 1612.08083) instead of its activation.
        weight_norm: normalize the weights of the dilated convolutions, as the paper does.
        causal: False sees as far ahead as back, and does not stream.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        channels: int | list[int] = 150,
        dilations: Schedule = "1..8",
        kernel_size: int = 3,
        *,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        activation: ActivationSpec = "ReLU",
        gated: bool = False,
        weight_norm: bool = True,
        causal: bool = True,
    ):
        super().__init__()
        for name, share in (("dropout", dropout), ("input_dropout", input_dropout)):
            if not 0 <= share < 1:
                raise WavedilError(f"{name} is {share!r}: expected a share of at least 0 and below 1")
        depth = len(parse_schedule(dilations))
        widths = [channels] * depth if isinstance(channels, int) else list(channels)
        self.dropout = nn.Dropout(input_dropout)
        self.stack = DilatedStack(
            ndim=1,
            channels=[in_channels, *widths],
            dilations=dilations,
            kernel_size=kernel_size,
            block=ResidualBlock,
            causal=causal,
            activation=partial(make_activation, activation),
            dropout=dropout,
            gated=gated,
        )
        if weight_norm:
            for layer in self.stack.layers:
                add_weight_norm(layer.first)
                add_weight_norm(layer.second)
        self.head = None if out_channels is None else DilatedConv(1, widths[-1], out_channels, 1)

    @torch.no_grad()
    def set_prior(self, shares: Tensor) -> None:
        """Starts the head at how often each output is 1, ``(out_channels,)`` shares, which it would learn first."""
        outputs = 0 if self.head is None else self.head.out_channels
        if shares.shape != (outputs,):
            raise WavedilError(
                f"out_channels is {outputs or None}: expected {len(shares)}, one for each output there is"
            )
        self.head.bias.copy_(shares.clamp(1e-4, 1 - 1e-4).logit())

    @property
    def receptive_field(self) -> int:
        """In time steps: twice as far as one convolution per dilation."""
        return self.stack.receptive_field

    @property
    def kernel_size(self) -> int:
        return self.stack.kernel_size

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of the convolutions in order: each block has two of its dilation."""
        return tuple(dilation for dilation in self.stack.dilations for _ in range(2))

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.audio.piano_rolls import evaluate_roll_file

        return evaluate_roll_file

    def forward(self, x: Tensor) -> Tensor:
        y = self.stack(self.dropout(x))
        return y if self.head is None else self.head(y)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next chunk of any length: ``(y, state)``; chunks, joined, equal the whole pass. None starts."""
        y, history = self.stack.step(self.dropout(x), part(state, "stack"))
        return y if self.head is None else self.head(y), named("stack", history)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (Bai et al. 2018, figure 1b): ``(batch, channels, *space)``, out_channels out.

    ::

        h = dropout(activation(first(x)))
        h = dropout(activation(second(h)))
        y = activation(h + shortcut(x))      # shortcut is 1x1 where the channels differ

    Args:
        activation, dropout, gated: see :class:`TCN`; the activation makes a module, e.g. ``torch.nn.ReLU``.
        kernel_size, dilation, causal: of both convolutions; see :class:`wavedil.ConvBlock`.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        out_channels: int | None = None,
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        gated: bool = False,
        **options,
    ):
        super().__init__()
        self.ndim = ndim
        out = channels if out_channels is None else out_channels

        def dropped(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
            return lambda: nn.Sequential(make(), nn.Dropout(dropout))

        self.first = ConvBlock(
            ndim,
            channels,
            2 * out if gated else out,
            activation=dropped(partial(nn.GLU, dim=1) if gated else activation),
            **options,
        )
        self.second = ConvBlock(ndim, out, out, activation=dropped(activation), **options)
        self.shortcut = None if channels == out else DilatedConv(ndim, channels, out, 1)
        self.activation = activation()

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        return field_of([self.first, self.second], self.ndim)

    def forward(self, x: Tensor) -> Tensor:
        return self._joined(x, self.second(self.first(x)))

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next chunk along the causal axis."""
        h, first = self.first.step(x, part(state, "first"))
        h, second = self.second.step(h, part(state, "second"))
        return self._joined(x, h), named("first", first) | named("second", second)

    def _joined(self, x: Tensor, h: Tensor) -> Tensor:
        return self.activation(h + (x if self.shortcut is None else self.shortcut(x)))
