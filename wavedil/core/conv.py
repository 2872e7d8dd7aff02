"""Dilated convolution over 1, 2 or 3 space axes.

:class:`DilatedConv` handles kernels, dilations and padding; ``DilatedConv1d``, ``DilatedConv2d`` and ``DilatedConv3d``
only set the number of axes. ``wavedil.ops.dilated_conv`` computes the result.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from wavedil.core.padded_conv import PaddedConv, tap_offsets
from wavedil.core.receptive_field import PerAxis, per_axis
from wavedil.core.schema import Dimensions, Width, checked
from wavedil.errors import WavedilError
from wavedil.ops.dilated_conv import dilated_conv

MAX_WEIGHTS = 2**32  # of one convolution


class DilatedConv(PaddedConv):
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
        super().__init__(
            ndim, in_channels, out_channels, stride=stride, padding=padding, pad_mode=pad_mode, groups=groups
        )
        self.kernel_size = per_axis("kernel_size", kernel_size, ndim)
        self.dilation = per_axis("dilation", dilation, ndim)
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

    def taps(self) -> tuple[Tensor, list[tuple[int, ...]]]:
        """Weights ``(out_channels, in_channels / groups, taps)`` and their offsets in ``span``."""
        return self.weight.flatten(2), tap_offsets(self.kernel_size, self.dilation, (0,) * self.ndim)

    def _apply_taps(self, x: Tensor, pads: list[tuple[int, int]]) -> Tensor:
        return dilated_conv(
            x, self.weight, self.bias, stride=self.stride, padding=pads, dilation=self.dilation, groups=self.groups
        )

    def _describe(self, axis: int) -> str:
        return f"kernel {self.kernel_size[axis]} with dilation {self.dilation[axis]}"

    def extra_repr(self) -> str:
        dilation = f", dilation {self.dilation}" if max(self.dilation) > 1 else ""
        return (
            f"{self.ndim}-D, {self.in_channels} -> {self.out_channels}, kernel {self.kernel_size}{dilation}"
            + self._parameters_for_repr()
        )


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


def _convolutions(module: nn.Module) -> list[PaddedConv]:
    return [part for part in module.modules() if isinstance(part, PaddedConv) and part.weight is not None]
