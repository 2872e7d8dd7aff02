"""Temporal convolutional network (Bai, Kolter and Koltun 2018, arXiv 1803.01271)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.audio.effects.compiled.program import Builder, Program
from wavedil.audio.models.activations import ActivationSpec, make_activation
from wavedil.core import ConvBlock, DilatedConv, DilatedStack, Schedule, add_weight_norm, parse_schedule
from wavedil.core.block import sequential_receptive_field
from wavedil.core.schema import Channels, Dimensions, Dropout, Taps, checked
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError
from wavedil.weights import register


@register
class TCN(nn.Module):
    """Residual blocks of two dilated convolutions each, then a 1x1 convolution.

    ``forward(x)``: ``(batch, in_channels, time) -> (batch, out_channels, time)``. Causal: the output at t depends on
    inputs up to and including t. At time 0 every layer's history is zero.

    Args:
        in_channels: of the input, e.g. 88 piano keys.
        out_channels: of the output; None for no final convolution: the output is that of the last block.
        channels: of all blocks, or a list with one width per block.
        dilations: one per block, e.g. ``"1..8"``.
        kernel_size: taps of each dilated convolution.
        dropout: dropout probability after each convolution.
        input_dropout: dropout probability of the inputs.
        activation: a name, e.g. ``"ReLU"``; see :func:`wavedil.audio.models.activations.make_activation`.
        gated: the first convolution of each block has a gated linear unit as its activation (section 5.6; Dauphin et
            al. 2017, arXiv 1612.08083).
        weight_norm: normalize the weights of the dilated convolutions, as in the paper.
        causal: False centers the convolutions; the network then cannot stream.
    """

    #: Name of the first input in an ONNX file.
    input_name = "features"

    def __init__(
        self,
        in_channels: Channels,
        out_channels: Channels | None,
        channels: Channels | list[Channels] = 150,
        dilations: Schedule = "1..8",
        kernel_size: Taps = 3,
        *,
        dropout: Dropout = 0.0,
        input_dropout: Dropout = 0.0,
        activation: ActivationSpec = "ReLU",
        gated: bool = False,
        weight_norm: bool = True,
        causal: bool = True,
    ):
        super().__init__()
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
    def set_prior(self, frequencies: Tensor) -> None:
        """Sets the head's bias so that training starts from the frequency of each output, ``(out_channels,)``."""
        outputs = 0 if self.head is None else self.head.out_channels
        if frequencies.shape != (outputs,):
            raise WavedilError(f"out_channels is {outputs or None}: expected {len(frequencies)}, as in the data")
        self.head.bias.copy_(frequencies.clamp(1e-4, 1 - 1e-4).logit())

    @property
    def receptive_field(self) -> int:
        """In time steps; each block has two convolutions of its dilation."""
        return self.stack.receptive_field

    @property
    def kernel_size(self) -> int:
        return self.stack.kernel_size

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of all dilated convolutions in order, two per block."""
        return tuple(dilation for dilation in self.stack.dilations for _ in range(2))

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.audio.piano_rolls import evaluate_roll_file

        return evaluate_roll_file

    @staticmethod
    def sampling() -> Callable[..., Any]:
        """The function behind ``wavedil sample``."""
        from wavedil.audio.piano_roll_files import sample_roll_files

        return sample_roll_files

    def program(self) -> Program:
        """The network for compiled code, if it is causal and from one channel of sound to another."""
        if (self.stack.layers[0].first.conv.in_channels, 1) != (1, self.head and self.head.out_channels):
            raise WavedilError("this TCN has no C source: expected in_channels=1 and out_channels=1, sound to sound")
        program = Builder()
        x = program.sound
        for index, block in enumerate(self.stack.layers):
            x = block.lower(program, x, f"stack.layers.{index}")
        program.conv(self.head, x)
        return program.program(self, 0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stack(self.dropout(x))
        return y if self.head is None else self.head(y)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next chunk, of any length: its output and the state after it. ``state=None`` starts."""
        y, history = self.stack.step(self.dropout(x), substate(state, "stack"))
        return y if self.head is None else self.head(y), add_prefix("stack", history)


class ResidualBlock(nn.Module):
    """Two dilated convolutions and a shortcut (figure 1b).

    ``(batch, channels, *space) -> (batch, out_channels, *space)``::

        h = dropout(activation(first(x)))
        h = dropout(activation(second(h)))
        y = activation(h + shortcut(x))      # the shortcut is a 1x1 convolution if the channels differ

    Args:
        activation: builds the activation module, e.g. ``torch.nn.ReLU``.
        dropout, gated: see :class:`TCN`.
        kernel_size, dilation, causal: of both convolutions; see :class:`wavedil.ConvBlock`.
    """

    @checked
    def __init__(
        self,
        ndim: Dimensions,
        channels: Channels,
        out_channels: Channels | None = None,
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: Dropout = 0.0,
        gated: bool = False,
        **options,
    ):
        super().__init__()
        self.ndim = ndim
        out = channels if out_channels is None else out_channels

        def with_dropout(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
            return lambda: nn.Sequential(make(), nn.Dropout(dropout))

        self.first = ConvBlock(
            ndim,
            channels,
            2 * out if gated else out,
            activation=with_dropout(partial(nn.GLU, dim=1) if gated else activation),
            **options,
        )
        self.second = ConvBlock(ndim, out, out, activation=with_dropout(activation), **options)
        self.shortcut = None if channels == out else DilatedConv(ndim, channels, out, 1)
        self.activation = activation()

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        return sequential_receptive_field([self.first, self.second], self.ndim)

    def forward(self, x: Tensor) -> Tensor:
        return self._add_shortcut(x, self.second(self.first(x)))

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next chunk along the causal axis: its output and the state after it."""
        h, first = self.first.step(x, substate(state, "first"))
        h, second = self.second.step(h, substate(state, "second"))
        return self._add_shortcut(x, h), add_prefix("first", first) | add_prefix("second", second)

    def lower(self, program: Builder, x: int, name: str) -> int:
        """Adds the block to a program; x and the result are buffers, ``name`` the key in the state."""
        h = x
        for part, key in ((self.first, "first"), (self.second, "second")):
            h = program.conv(part.conv, h, f"{name}.{key}.conv")
            activation = part.activation[0]  # without the dropout
            is_gated = isinstance(activation, nn.GLU)
            h = program.gate(h, nn.Identity(), nn.Sigmoid()) if is_gated else program.map(h, activation)
        shortcut = x if self.shortcut is None else program.conv(self.shortcut, x)
        return program.map(program.sum(h, shortcut), self.activation)

    def _add_shortcut(self, x: Tensor, h: Tensor) -> Tensor:
        return self.activation(h + (x if self.shortcut is None else self.shortcut(x)))
