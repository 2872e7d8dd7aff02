"""Dilated convolution over 1, 2 or 3 space axes.

:class:`DilatedConv` handles kernels, dilations and padding; ``DilatedConv1d``, ``DilatedConv2d`` and ``DilatedConv3d``
only set the number of axes. ``wavedil.ops.dilated_conv`` computes the result.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from wavedil.core.receptive_field import PerAxis, per_axis
from wavedil.core.schema import Dimensions, Width, checked
from wavedil.core.stream import State, take_history
from wavedil.errors import WavedilError, one_of
from wavedil.ops.dilated_conv import dilated_conv

PADDINGS = ("same", "causal", "valid")
PAD_MODES = ("zeros", "reflect")

MAX_WEIGHTS = 2**32  # of one convolution


def paddings(
    ndim: int, padding: str | Sequence[str] | None = None, causal: bool | Sequence[bool] = False
) -> tuple[str, ...]:
    """The padding mode of each axis, from ``padding`` or ``causal``, of which only one may be set."""
    if padding is None:
        flags = (causal,) * ndim if isinstance(causal, bool) else tuple(causal)
        if len(flags) != ndim:
            raise WavedilError(f"causal is {causal!r}: expected a boolean, or one for each of {ndim} axes")
        return tuple("causal" if flag else "same" for flag in flags)
    if causal is not False:
        raise WavedilError(f"padding is {padding!r} and causal is {causal!r}: expected only one of them")
    names = (padding,) * ndim if isinstance(padding, str) else tuple(padding)
    if len(names) != ndim or any(name not in PADDINGS for name in names):
        raise WavedilError(
            f"padding is {padding!r}: expected {one_of(padding, PADDINGS)}, or one for each of {ndim} axes"
        )
    return names


def axes_value(values: Sequence[int]) -> int | tuple[int, ...]:
    """Per-axis values as one int if they are equal, else as a tuple."""
    return values[0] if len(set(values)) == 1 else tuple(values)


class DilatedConv(nn.Module):
    """Dilated convolution over ``ndim`` space axes: ``(batch, in_channels, *space) -> (batch, out_channels, *space')``.

    As in every deep-learning library this is a cross-correlation: output p is the sum over taps s of weight[s] times
    input p + dilation * s, where the padding determines the first s. Yu & Koltun 2015 (arXiv 1511.07122, eq. 2) write
    p - dilation * s.

    Args:
        ndim: number of space axes, 1 to 3.
        kernel_size, dilation, stride: an int, or one per axis.
        padding: one mode, or one per axis. ``"causal"`` pads (k - 1) * d on the left, so that output t reads no input
            after t. ``"same"`` keeps the size; where (k - 1) * d is odd (even kernels) the larger half is on the right,
            as in torch. ``"valid"`` pads nothing. With a stride s, "same" and "causal" give ceil(size / s).
        pad_mode: ``"zeros"`` or ``"reflect"`` (without repeating the edge).
        groups: as in torch; ``groups == in_channels`` is a depthwise convolution.

    Shapes: ``weight`` is ``(out_channels, in_channels / groups, *kernel)`` and ``bias`` ``(out_channels,)``, as in
    ``torch.nn.Conv*d``.

    Raises:
        WavedilError: invalid arguments, or an input of the wrong rank, number of channels or size.
    """

    @checked
    def __init__(
        self,
        ndim: Dimensions,
        in_channels: Width,
        out_channels: Width,
        kernel_size: PerAxis,
        *,
        dilation: PerAxis = 1,
        stride: PerAxis = 1,
        padding: str | Sequence[str] = "same",
        pad_mode: str = "zeros",
        groups: Width = 1,
        bias: bool = True,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise WavedilError(
                f"groups is {groups}: expected a divisor of in_channels={in_channels} and out_channels={out_channels}"
            )
        if pad_mode not in PAD_MODES:
            raise WavedilError(f"pad_mode is {pad_mode!r}: expected {one_of(pad_mode, PAD_MODES)}")
        self.ndim, self.in_channels, self.out_channels, self.groups = ndim, in_channels, out_channels, groups
        self.kernel_size = per_axis("kernel_size", kernel_size, ndim)
        self.dilation = per_axis("dilation", dilation, ndim)
        self.stride = per_axis("stride", stride, ndim)
        self.padding = paddings(ndim, padding)
        if pad_mode == "reflect" and "causal" in self.padding:
            raise WavedilError(
                "pad_mode is 'reflect' with causal padding: outputs would depend on the future; use pad_mode='zeros'"
            )
        self.pad_mode = pad_mode
        weights = out_channels * (in_channels // groups) * math.prod(self.kernel_size)
        if weights > MAX_WEIGHTS:
            raise WavedilError(
                f"kernel_size is {kernel_size!r} for {in_channels} to {out_channels} channels: {weights} weights, "
                f"expected at most {MAX_WEIGHTS}"
            )
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights and bias uniformly from ±1/√fan_in, as ``torch.nn.Conv*d`` does."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def span(self) -> tuple[int, ...]:
        """(k - 1) * d per axis: the distance between the first and the last input of one output."""
        return tuple((k - 1) * d for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        """1 + (k - 1) * d input positions: an int if all axes have the same value, else one per axis."""
        return axes_value([1 + span for span in self.span])

    @property
    def pads(self) -> list[tuple[int, int]]:
        """Padding (before, after) of each axis, in positions."""
        sides = {
            "valid": lambda span: (0, 0),
            "causal": lambda span: (span, 0),
            "same": lambda span: (span // 2, span - span // 2),
        }
        return [sides[name](span) for name, span in zip(self.padding, self.span, strict=True)]

    def stream_axis(self) -> int:
        """The space axis along which :meth:`step` takes chunks: the last causal one.

        Raises:
            WavedilError: no axis is causal.
        """
        causal = [axis for axis, name in enumerate(self.padding) if name == "causal"]
        if not causal:
            raise WavedilError(f"padding is {self.padding}: streaming needs a causal axis (causal=True)")
        return causal[-1]

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, *space) -> (batch, out_channels, *space')``."""
        return self._convolve(self.check(x), self.pads)

    def valid(self, x: Tensor) -> Tensor:
        """The outputs of :meth:`forward` that do not depend on padding: those with all their inputs in ``x``."""
        return self._convolve(self.check(x), [(0, 0)] * self.ndim)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Processes the next chunk along :meth:`stream_axis`, of any length including 0.

        The outputs of all chunks, concatenated, equal ``forward`` of the concatenated inputs.

        Args:
            x: the chunk, ``(batch, in_channels, *space)``.
            state: the state that the previous step returned, with the last (k - 1) * d inputs under ``"history"``.
                None starts from zeros, as causal padding does.

        Returns:
            The output and the new state.
        """
        self.check(x)
        axis = self.stream_axis()
        if self.stride[axis] != 1:
            raise WavedilError(f"stride is {self.stride[axis]} along axis {axis}: streaming needs 1")
        span = self.span[axis]
        joined = torch.cat([take_history(state, x, axis, span), x], dim=axis + 2)
        pads = self.pads
        pads[axis] = (0, 0)
        # A copy, since a view would keep the complete chunk in memory as long as the state.
        history = joined.narrow(axis + 2, joined.shape[axis + 2] - span, span).clone()
        return self._convolve(joined, pads), {"history": history}

    def _convolve(self, x: Tensor, pads: list[tuple[int, int]]) -> Tensor:
        if self.pad_mode == "reflect" and any(map(any, pads)):
            for axis, (size, pad) in enumerate(zip(x.shape[2:], pads, strict=True)):
                if max(pad) >= size:
                    raise WavedilError(
                        f"axis {axis} of the input has {size} positions: reflect padding by {max(pad)} needs "
                        f"{max(pad) + 1} or more; use a larger input or pad_mode='zeros'"
                    )
            x = F.pad(x, [side for pad in reversed(pads) for side in pad], mode="reflect")
            pads = [(0, 0)] * self.ndim
        sizes = [size + sum(pad) - span for size, pad, span in zip(x.shape[2:], pads, self.span, strict=True)]
        if not torch.compiler.is_exporting() and min(sizes) < 1:  # there it would compare the axes with each other
            axis = sizes.index(min(sizes))
            if sizes[axis] < 0 or self.padding[axis] == "valid":
                raise WavedilError(
                    f"axis {axis} of the input has {x.shape[axis + 2]} positions: kernel {self.kernel_size[axis]} with "
                    f"dilation {self.dilation[axis]} and {self.padding[axis]!r} padding needs at least "
                    f"{self.span[axis] + 1}"
                )
        return dilated_conv(
            x, self.weight, self.bias, stride=self.stride, padding=pads, dilation=self.dilation, groups=self.groups
        )

    def check(self, x: Tensor) -> Tensor:
        """Returns x; raises a WavedilError unless its rank and number of channels match."""
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_channels:
            raise WavedilError(
                f"x has shape {tuple(x.shape)}: expected (batch, {self.in_channels}, *space) with {self.ndim} "
                "space axes"
            )
        return x

    def extra_repr(self) -> str:
        text = f"{self.ndim}-D, {self.in_channels} -> {self.out_channels}, kernel {self.kernel_size}"
        for name, value in (("dilation", self.dilation), ("stride", self.stride)):
            text += f", {name} {value}" if max(value) > 1 else ""
        return f"{text}, padding {axes_value(self.padding)}" + (f", groups {self.groups}" if self.groups > 1 else "")


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a module has forward or backward hooks, which a fused operation on its weights would skip."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for module in modules for name in hooks)


class DilatedConv1d(DilatedConv):
    """:class:`DilatedConv` with ``ndim=1``: ``(batch, channels, time)``."""

    def __init__(self, *args, **kwargs):
        super().__init__(1, *args, **kwargs)


class DilatedConv2d(DilatedConv):
    """:class:`DilatedConv` with ``ndim=2``: ``(batch, channels, height, width)``."""

    def __init__(self, *args, **kwargs):
        super().__init__(2, *args, **kwargs)


class DilatedConv3d(DilatedConv):
    """:class:`DilatedConv` with ``ndim=3``: ``(batch, channels, depth, height, width)``."""

    def __init__(self, *args, **kwargs):
        super().__init__(3, *args, **kwargs)


def add_weight_norm(module: nn.Module) -> nn.Module:
    """Adds weight normalization (Salimans & Kingma 2016, arXiv 1602.07868) to every dilated convolution, in place."""
    for conv in _convolutions(module):
        if not parametrize.is_parametrized(conv):
            parametrizations.weight_norm(conv, "weight")
    return module


def fold_weight_norm(module: nn.Module) -> nn.Module:
    """Replaces each normalized weight by its value, in place. The outputs stay the same and each call is faster."""
    for conv in _convolutions(module):
        if parametrize.is_parametrized(conv, "weight"):
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)
    return module


def _convolutions(module: nn.Module) -> list[DilatedConv]:
    return [part for part in module.modules() if isinstance(part, DilatedConv)]
