"""Blocks of a stack: WaveNet's gated residual/skip block, and a convolution with activation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wavedil.core.conv import DilatedConv
from wavedil.core.padded_conv import PaddedConv, axes_value, has_hooks, paddings
from wavedil.core.receptive_field import PerAxis, default_kernel_size, per_axis
from wavedil.core.schema import Channels, Dimensions, OptionalChannels, Scale, Width, checked
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError, one_of
from wavedil.ops.gate import GATE_ORDERS, gate
from wavedil.ops.gated_residual import gated_residual


class GatedBlock(nn.Module):
    """Gated residual block with a skip path (van den Oord et al. 2016, arXiv 1609.03499, sections 2.3 and 2.4).

    ::

        h = conv(x) + condition(c)                     # 2 * hidden_channels, dilated; condition is 1x1
        z = tanh(first half) * sigmoid(second half)    # hidden_channels
        x = (x + residual(z)) * residual_scale         # 1x1
        skip = skip(z) * skip_scale                    # 1x1

    Args:
        ndim: number of space axes.
        channels: residual channels of the input and output.
        kernel_size: of the dilated convolution; default 2 in one dimension, 3 in more.
        dilation: of the dilated convolution.
        bias: whether the convolutions have biases.
        hidden_channels: width of the gated activations; default ``channels``. The convolution has twice as many outputs
            (called gate channels in some packages).
        skip_channels: width of the skip path; default ``channels``; 0 for none.
        condition_channels: width of the conditioning input; 0 for none.
        causal: one flag, or one per axis. Axes that are not causal are padded to the same size.
        residual: False omits the residual convolution and returns x times ``residual_scale``, for a last layer whose
            residual output is unused.
        residual_scale, skip_scale: scale factors of the outputs; published models differ, e.g. √½.
        gate_order: ``"tanh_first"`` (WaveNet) or ``"sigmoid_first"`` (DiffWave).
        conv: class or function that returns the dilated convolution, called as :class:`DilatedConv` is, e.g.
            :class:`LearnedDilation`.

    Shapes:
        x: ``(batch, channels, *space)``, as input and output.
        condition: ``(batch, condition_channels, *space)``; size 1 along an axis where it is constant, e.g. a speaker
            embedding.
        skip: ``(batch, skip_channels, *space)``, or None if ``skip_channels`` is 0.
    """

    @checked
    def __init__(
        self,
        ndim: Dimensions,
        channels: Channels,
        *,
        kernel_size: PerAxis | None = None,
        dilation: PerAxis = 1,
        hidden_channels: Channels | None = None,
        skip_channels: OptionalChannels | None = None,
        condition_channels: OptionalChannels = 0,
        causal: bool | Sequence[bool] = False,
        residual: bool = True,
        residual_scale: Scale = 1.0,
        skip_scale: Scale = 1.0,
        gate_order: str = "tanh_first",
        bias: bool = True,
        conv: Callable[..., PaddedConv] = DilatedConv,
    ):
        super().__init__()
        if gate_order not in GATE_ORDERS:
            raise WavedilError(f"gate_order is {gate_order!r}: expected {one_of(gate_order, GATE_ORDERS)}")
        hidden = channels if hidden_channels is None else hidden_channels
        skips = channels if skip_channels is None else skip_channels
        kernel_size = default_kernel_size(ndim) if kernel_size is None else kernel_size
        self.ndim, self.channels = ndim, channels
        self.residual_scale, self.skip_scale, self.gate_order = residual_scale, skip_scale, gate_order

        def pointwise(inputs: int, outputs: int, bias: bool = bias) -> DilatedConv:
            return DilatedConv(ndim, inputs, outputs, 1, bias=bias)

        self.conv = conv(
            ndim, channels, 2 * hidden, kernel_size, dilation=dilation, padding=paddings(ndim, causal=causal), bias=bias
        )
        # Without a bias, since the convolution has one.
        self.condition = pointwise(condition_channels, 2 * hidden, bias=False) if condition_channels else None
        self.residual = pointwise(hidden, channels) if residual else None
        self.skip = pointwise(hidden, skips) if skips else None

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        """Receptive field of the convolution: an int if all axes have the same value, else one per axis."""
        return self.conv.receptive_field

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Returns ``(x, skip)``."""
        x, z = self.forward_gated(x, condition)
        return x, self.project_skip(z)

    def step(
        self, x: Tensor, state: State | None = None, condition: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor | None], State]:
        """Processes the next chunk; returns ``((x, skip), state)``. ``condition`` covers the same positions as x."""
        (x, z), state = self.step_gated(x, state, condition)
        return (x, self.project_skip(z)), state

    def forward_gated(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns x and the gated activations z, so that a stack can compute the skips of all layers in one product.

        Subclasses may override this method.
        """
        is_regular = self.residual is not None and isinstance(self.conv, DilatedConv)
        can_fuse = is_regular and not has_hooks(self.conv, self.residual)
        if can_fuse and torch.is_grad_enabled() and not torch.jit.is_tracing():
            # One fused operation in training; without gradients it is not faster than the separate ones.
            x, bias, projected = self.conv.check(x), self.conv.bias, self._project(x, condition)
            if projected is not None and bias is not None and projected[:, 0].numel() == 1:
                bias, projected = bias + projected.flatten(), None  # constant, and the same for the batch
            x, z = gated_residual(
                x,
                self.conv.weight,
                bias,
                self.residual.weight,
                self.residual.bias,
                padding=self.conv.pads,
                dilation=self.conv.dilation,
                order=self.gate_order,
                condition=projected,
            )
            return self._scaled(x), z
        return self._combine(x, self.conv(x), condition)

    def step_gated(
        self, x: Tensor, state: State | None = None, condition: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor], State]:
        """:meth:`forward_gated` of the next chunk; returns ``((x, z), state)``."""
        h, history = self.conv.step(x, substate(state, "conv"))
        return self._combine(x, h, condition), add_prefix("conv", history)

    def _project(self, x: Tensor, condition: Tensor | None) -> Tensor | None:
        """The projected condition, ``(batch, 2 * hidden_channels, *space)``, for an input x."""
        if (condition is None) != (self.condition is None):
            raise WavedilError(
                "condition is a tensor: expected None, since this block has condition_channels=0"
                if self.condition is None
                else f"condition is None: expected (batch, {self.condition.in_channels}, *space)"
            )
        if self.condition is None:
            return None
        sizes = list(zip(condition.shape[2:], x.shape[2:], strict=False))
        if condition.ndim != x.ndim or any(have not in (1, size) for have, size in sizes):
            raise WavedilError(
                f"condition has shape {tuple(condition.shape)}, x has {tuple(x.shape)}: expected the same size "
                "along each space axis, or 1 where the condition is constant"
            )
        return self.condition(condition)

    def _combine(self, x: Tensor, h: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        z = gate(h, self.gate_order, condition=self._project(x, condition))
        if self.residual is not None:
            # Under autocast x stays in bf16, as the product: converting it back to float32 in each layer takes a fifth
            # of the step's time on a CPU.
            out = self.residual(z)
            x = x.to(out.dtype) + out
        return self._scaled(x), z

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.residual_scale == 1 else x * self.residual_scale

    def project_skip(self, z: Tensor) -> Tensor | None:
        """The skip output of gated activations z."""
        if self.skip is None:
            return None
        skip = self.skip(z)
        return skip if self.skip_scale == 1 else skip * self.skip_scale


class ConvBlock(nn.Module):
    """Dilated convolution with activation: ``(batch, channels, *space) -> (batch, out_channels, *space')``.

    Args:
        ndim: number of space axes.
        channels: input channels.
        out_channels: output channels; default ``channels``.
        kernel_size, dilation, pad_mode, groups, bias: as in :class:`DilatedConv`.
        activation: class or function that returns the activation module, e.g. ``torch.nn.ReLU``; None for none.
        padding: one mode, or one per axis, as in :class:`DilatedConv`; default from ``causal``.
        causal: one flag, or one per axis. Axes that are not causal are padded to the same size.
        conv: as in :class:`GatedBlock`.
    """

    @checked
    def __init__(
        self,
        ndim: Dimensions,
        channels: Width,
        out_channels: Width | None = None,
        *,
        kernel_size: PerAxis = 3,
        dilation: PerAxis = 1,
        activation: Callable[[], nn.Module] | None = nn.ReLU,
        padding: str | Sequence[str] | None = None,
        causal: bool | Sequence[bool] = False,
        pad_mode: str = "zeros",
        groups: Width = 1,
        bias: bool = True,
        conv: Callable[..., PaddedConv] = DilatedConv,
    ):
        super().__init__()
        self.ndim = ndim
        self.conv = conv(
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
        """Receptive field of the convolution: an int if all axes have the same value, else one per axis."""
        return self.conv.receptive_field

    def forward(self, x: Tensor, condition: None = None) -> Tensor:
        self._check_no_condition(condition)
        return self.activation(self.conv(x))

    def step(self, x: Tensor, state: State | None = None, condition: None = None) -> tuple[Tensor, State]:
        """Processes the next chunk along the causal axis; see :meth:`DilatedConv.step`."""
        self._check_no_condition(condition)
        y, history = self.conv.step(x, substate(state, "conv"))
        return self.activation(y), add_prefix("conv", history)

    @staticmethod
    def _check_no_condition(condition: Tensor | None) -> None:
        if condition is not None:
            raise WavedilError("condition is a tensor: expected None; use GatedBlock with condition_channels")


def sequential_receptive_field(modules: Sequence[nn.Module], ndim: int) -> int | tuple[int, ...]:
    """Receptive field of modules in sequence, all with stride 1: 1 + the sum of (field - 1), per axis."""
    fields = [per_axis("receptive_field", module.receptive_field, ndim) for module in modules]
    return axes_value([1 + sum(size - 1 for size in sizes) for sizes in zip(*fields, strict=True)] or (1,) * ndim)
