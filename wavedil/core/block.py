"""The blocks that a stack repeats: WaveNet's gated residual/skip block, and a convolution with activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wavedil.core.conv import DilatedConv, PerAxis, axes_value, is_plain, paddings, per_axis
from wavedil.core.stream import State, named, part
from wavedil.errors import WavedilError
from wavedil.ops.gate import GATE_ORDERS, gate
from wavedil.ops.gated_residual import gated_residual


class GatedBlock(nn.Module):
    """Gated residual block with a skip path (van den Oord et al. 2016, arXiv 1609.03499, section 2.3 and 2.4).

    ::

        h = conv(x) + condition(c)                     # 2 * hidden_channels, dilated; condition is 1x1
        z = tanh(first half) * sigmoid(second half)    # hidden_channels
        x = (x + residual(z)) * residual_scale         # 1x1
        skip = skip(z) * skip_scale                    # 1x1

    Args:
        ndim: number of space axes.
        channels: residual channels, in and out.
        hidden_channels: width of the gated activations; default ``channels``. (The convolution makes twice as many,
            which some packages call gate channels.)
        skip_channels: width of the skip path; default ``channels``; 0 for none.
        condition_channels: width of the conditioning input; 0 for none.
        causal: for all axes, or one flag per axis; the others are padded to the same size.
        residual: False leaves out the residual product, as in a last layer of which only the skip is used: x is
            returned as it came.
        residual_scale, skip_scale: factors that published models differ in, e.g. √½.
        gate_order: ``"tanh_first"`` (WaveNet) or ``"sigmoid_first"`` (DiffWave).

    ``forward(x, condition=None)`` takes x ``(batch, channels, *space)`` and the condition
    ``(batch, condition_channels, *space)``, or of size 1 along axes where it is the same everywhere (a speaker), and
    returns ``(x, skip)``; skip is None where skip_channels is 0.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        *,
        kernel_size: PerAxis = 2,
        dilation: PerAxis = 1,
        hidden_channels: int | None = None,
        skip_channels: int | None = None,
        condition_channels: int = 0,
        causal: bool | Sequence[bool] = False,
        residual: bool = True,
        residual_scale: float = 1.0,
        skip_scale: float = 1.0,
        gate_order: str = "tanh_first",
        bias: bool = True,
    ):
        super().__init__()
        if gate_order not in GATE_ORDERS:
            raise WavedilError(f"gate_order is {gate_order!r}: expected one of {', '.join(GATE_ORDERS)}")
        hidden = channels if hidden_channels is None else hidden_channels
        skips = channels if skip_channels is None else skip_channels
        self.ndim, self.channels = ndim, channels
        self.residual_scale, self.skip_scale, self.gate_order = residual_scale, skip_scale, gate_order

        def pointwise(inputs: int, outputs: int, bias: bool = bias) -> DilatedConv:
            return DilatedConv(ndim, inputs, outputs, 1, bias=bias)

        self.conv = DilatedConv(
            ndim, channels, 2 * hidden, kernel_size, dilation=dilation, padding=paddings(ndim, causal=causal), bias=bias
        )
        # No bias: the convolution's own bias is added to the same sum.
        self.condition = pointwise(condition_channels, 2 * hidden, bias=False) if condition_channels else None
        self.residual = pointwise(hidden, channels) if residual else None
        self.skip = pointwise(hidden, skips) if skips else None

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        return self.conv.receptive_field

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x, z = self.advance(x, condition)
        return x, self.project(z)

    def step(
        self, x: Tensor, state: State | None = None, condition: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor | None], State]:
        """The next chunk; ``((x, skip), state)``. The condition is of the chunk alone."""
        (x, z), state = self.advance_step(x, state, condition)
        return (x, self.project(z)), state

    def advance(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(residual output, gated activations z): what a stack needs to take all layers' skips in one product."""
        bias, whole = self._bias(condition)
        if whole and torch.is_grad_enabled() and self.residual is not None and is_plain(self.conv, self.residual):
            # In training the layer is one operation; without gradients that would save nothing.
            x, z = gated_residual(
                self.conv.check(x),
                self.conv.weight,
                bias,
                self.residual.weight,
                self.residual.bias,
                padding=self.conv.pads,
                dilation=self.conv.dilation,
                order=self.gate_order,
            )
            return self._scaled(x), z
        return self._combine(x, self.conv(x), condition)

    def advance_step(
        self, x: Tensor, state: State | None = None, condition: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor], State]:
        h, history = self.conv.step(x, part(state, "conv"))
        return self._combine(x, h, condition), named("conv", history)

    def _bias(self, condition: Tensor | None) -> tuple[Tensor | None, bool]:
        """The convolution's bias with the condition in it, and whether that is all of it: one setting for all of x."""
        if condition is None or self.condition is None:
            return self.conv.bias, condition is None and self.condition is None
        if condition.ndim != self.ndim + 2 or condition[:, 0].numel() != 1 or self.conv.bias is None:
            return self.conv.bias, False
        return self.conv.bias + self.condition(condition).flatten(), True

    def _combine(self, x: Tensor, h: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        if (condition is None) != (self.condition is None):
            raise WavedilError(
                "this block has condition_channels=0: it takes no condition"
                if self.condition is None
                else f"this block needs a condition of {self.condition.in_channels} channels, (batch, channels, *space)"
            )
        if self.condition is not None:
            sizes = list(zip(condition.shape[2:], x.shape[2:], strict=False))
            if condition.ndim != x.ndim or any(have not in (1, size) for have, size in sizes):
                raise WavedilError(
                    f"condition has space {tuple(condition.shape[2:])}, x has {tuple(x.shape[2:])}: expected the same, "
                    "or 1 for what is the same everywhere"
                )
            h = h + self.condition(condition)
        z = gate(h, order=self.gate_order)
        if self.residual is not None:
            # The stream keeps the product's dtype: under autocast it stays bf16 instead of going back to float32 at
            # each of the layers, which is a fifth of the step's time on a CPU.
            out = self.residual(z)
            x = x.to(out.dtype) + out
        return self._scaled(x), z

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.residual_scale == 1 else x * self.residual_scale

    def project(self, z: Tensor) -> Tensor | None:
        """The skip of gated activations z."""
        if self.skip is None:
            return None
        skip = self.skip(z)
        return skip if self.skip_scale == 1 else skip * self.skip_scale


class ConvBlock(nn.Module):
    """Dilated convolution and activation: ``(batch, channels, *space) -> (batch, out_channels, *space')``.

    Args:
        channels, out_channels: in and out (default the same).
        activation: makes the activation module, e.g. ``torch.nn.ReLU``; None for none.
        padding or causal, pad_mode, groups, bias: as in :class:`DilatedConv`.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        out_channels: int | None = None,
        *,
        kernel_size: PerAxis = 3,
        dilation: PerAxis = 1,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        padding: str | Sequence[str] | None = None,
        causal: bool | Sequence[bool] = False,
        pad_mode: str = "zeros",
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        self.ndim = ndim
        self.conv = DilatedConv(
            ndim,
            channels,
            channels if out_channels is None else out_channels,
            kernel_size,
            dilation=dilation,
            padding=paddings(ndim, padding, causal),
            pad_mode=pad_mode,
            groups=groups,
            bias=bias,
        )
        self.activation = nn.Identity() if activation is None else activation()

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        return self.conv.receptive_field

    def forward(self, x: Tensor, condition: None = None) -> Tensor:
        self._refuse(condition)
        return self.activation(self.conv(x))

    def step(self, x: Tensor, state: State | None = None, condition: None = None) -> tuple[Tensor, State]:
        """The next chunk along the causal axis; see :meth:`DilatedConv.step`."""
        self._refuse(condition)
        y, history = self.conv.step(x, part(state, "conv"))
        return self.activation(y), named("conv", history)

    @staticmethod
    def _refuse(condition: Tensor | None) -> None:
        if condition is not None:
            raise WavedilError("a ConvBlock takes no condition: use GatedBlock with condition_channels")


def field_of(modules: Sequence[nn.Module], ndim: int) -> int | tuple[int, ...]:
    """Receptive field of modules of stride 1 in sequence: 1 + the sum of what each adds, per axis."""
    fields = [per_axis("receptive_field", module.receptive_field, ndim) for module in modules]
    return axes_value([1 + sum(size - 1 for size in sizes) for sizes in zip(*fields, strict=True)] or (1,) * ndim)
