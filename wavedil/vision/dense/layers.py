"""Layers of a dense network: convolution, pooling and padding over windows with holes.

Each takes ``(batch, channels, height, width)`` and a :class:`Window`; parameters have the names of the layer replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.ops.dilated_conv import dilated_conv
from wavedil.vision.dense.window import Pair, Window

BORDERS = ("constant", "reflect", "replicate", "circular")


def check_image(image: Tensor, channels: int) -> Tensor:
    """The image itself, where its rank and channels fit; the first step of every dense network."""
    if image.ndim != 4 or image.shape[1] != channels:
        raise WavedilError(f"image has shape {tuple(image.shape)}: expected (batch, {channels}, height, width)")
    return image


def pad_holes(x: Tensor, pads: Sequence[Pair], mode: str = "constant", value: float = 0.0, hole: int = 1) -> Tensor:
    """Pads the last two axes as each of the ``hole`` x ``hole`` interleaved maps in x would be padded by itself."""
    if mode == "constant":
        flat = [side for pair in reversed(pads) for side in pair]
        return F.pad(x, flat, value=value) if any(flat) else x
    for axis, (before, after) in zip((-2, -1), pads, strict=True):
        if before or after:
            x = x.index_select(axis, _border_index(x.shape[axis], before, after, mode, hole).to(x.device))
    return x


def _border_index(size: int, before: int, after: int, mode: str, hole: int) -> Tensor:
    place = torch.arange(-before, size + after, device="cpu")
    phase, at = place % hole, place.div(hole, rounding_mode="floor")
    last = (size - 1 - phase).div(hole, rounding_mode="floor")  # of the interleaved map
    if mode == "reflect":
        at = last - (last - at.abs()).abs()
    elif mode == "replicate":
        at = at.clamp(min=0).minimum(last)
    else:
        at = at % (last + 1)
    return phase + hole * at


class DenseConv2d(nn.Conv2d):
    """A convolution over a window with holes, with the weights of ``conv``."""

    def __init__(self, conv: nn.Conv2d, window: Window):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            window.kernel,
            window.stride,
            dilation=window.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.window = window
        self.border = {"zeros": "constant"}.get(conv.padding_mode, conv.padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x, self.weight, self.bias, self.window, self.groups, self.border)


class DenseFunctionalConv(nn.Module):
    """``F.conv2d`` over a window with holes, for weights that the network computes."""

    def __init__(self, window: Window, groups: int):
        super().__init__()
        self.window, self.groups = window, groups

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _convolve(x, weight, bias, self.window, self.groups)


class DenseBlurPool2d(nn.Module):
    """A fixed filter for every channel, over a window with holes; ``filt`` is (channels or 1, 1, height, width)."""

    def __init__(self, filt: Tensor, window: Window, border: str):
        super().__init__()
        self.register_buffer("filt", filt, persistent=False)
        self.window, self.border = window, border

    def forward(self, x: Tensor) -> Tensor:
        filt = self.filt.expand(x.shape[1], -1, -1, -1)
        return _convolve(x, filt, None, self.window, x.shape[1], self.border)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int, border: str = "constant"
) -> Tensor:
    pads = window.pads(x.shape[-2:])
    if border != "constant":
        x, pads = pad_holes(x, pads, border, hole=window.hole), [(0, 0)] * 2
    return dilated_conv(x, weight, bias, stride=window.stride, padding=pads, dilation=window.dilation, groups=groups)


class DenseMaxPool2d(nn.Module):
    def __init__(self, window: Window):
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        pads = self.window.pads(x.shape[-2:])
        inside = tuple(before for before, _ in pads)
        if any(before != after or 2 * before > k for (before, after), k in zip(pads, self.window.kernel, strict=True)):
            x, inside = pad_holes(x, pads, value=float("-inf")), (0, 0)  # torch pads evenly, and half a kernel at most
        return F.max_pool2d(x, self.window.kernel, self.window.stride, inside, self.window.dilation)


class DenseAvgPool2d(nn.Module):
    """Average pooling over a window with holes, which torch lacks: one addition per tap and axis.

    Args:
        counted: positions (before, after) of the padding of each axis that count as zeros; what lies beyond does
            not enter the average.
        divisor: divides the sums instead of the count.
    """

    def __init__(self, window: Window, counted: Sequence[Pair] = ((0, 0), (0, 0)), divisor: int | None = None):
        super().__init__()
        self.window, self.counted, self.divisor = window, tuple(counted), divisor

    def forward(self, x: Tensor) -> Tensor:
        size, pads = x.shape[-2:], self.window.pads(x.shape[-2:])
        total = pad_holes(x, pads).to(torch.promote_types(x.dtype, torch.float32))  # sums must not round
        out = self.window.out_size(size)
        for axis in range(2):
            k, d, s = self.window.kernel[axis], self.window.dilation[axis], self.window.stride[axis]
            reach = (out[axis] - 1) * s + 1
            total = sum(_along(total, axis, slice(tap * d, tap * d + reach, s)) for tap in range(k))
        if self.divisor is not None:
            return (total / self.divisor).to(x.dtype)
        rows, columns = (self._count(axis, size[axis], out[axis], pads[axis][0], total) for axis in range(2))
        return (total / (rows[:, None] * columns)).to(x.dtype)

    def _count(self, axis: int, size: int, out: int, before: int, like: Tensor) -> Tensor:
        """How many taps of each output lie on the map or in the padding that counts."""
        first, last = self.counted[axis]
        at = torch.arange(out, device=like.device)[:, None] * self.window.stride[axis] - before
        at = at + torch.arange(self.window.kernel[axis], device=like.device) * self.window.dilation[axis]
        return ((at >= -first) & (at < size + last)).sum(1).clamp(min=1).to(like.dtype)


def _along(x: Tensor, axis: int, part: slice) -> Tensor:
    return x[:, :, part] if axis == 0 else x[:, :, :, part]


class DensePad2d(nn.Module):
    def __init__(self, window: Window, border: str, value: float):
        super().__init__()
        self.window, self.border, self.value = window, border, value

    def forward(self, x: Tensor) -> Tensor:
        return pad_holes(x, self.window.pads(x.shape[-2:]), self.border, self.value, self.window.hole)
