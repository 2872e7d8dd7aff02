"""Layers of a dense network: convolution, pooling and padding with dilated windows.

Each takes ``(batch, channels, height, width)`` and is built from a :class:`Window`. Parameters have the names of the
layer that is replaced.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.ops.dilated_conv import dilated_conv
from wavedil.vision.dense.window import IntPair, Window

BORDERS = ("constant", "reflect", "replicate", "circular")


def check_image(image: Tensor, channels: int) -> Tensor:
    """The image if its number of axes and channels is right; the first step of every dense network."""
    if image.ndim != 4 or image.shape[1] != channels:
        raise WavedilError(f"image has shape {tuple(image.shape)}: expected (batch, {channels}, height, width)")
    return image


def pad_interleaved(
    x: Tensor, pads: Sequence[IntPair], mode: str = "constant", value: float = 0.0, spacing: IntPair = (1, 1)
) -> Tensor:
    """Pads the last two axes of ``spacing`` interleaved maps along each axis, each map separately."""
    if mode == "constant":
        flat = [side for pair in reversed(pads) for side in pair]
        return F.pad(x, flat, value=value) if any(flat) else x
    for axis, (before, after), apart in zip((-2, -1), pads, spacing, strict=True):
        if before or after:
            x = x.index_select(axis, _padded_indices(x.shape[axis], before, after, mode, apart).to(x.device))
    return x


def _padded_indices(size: int, before: int, after: int, mode: str, spacing: int) -> Tensor:
    """Source index of every position of the padded axis."""
    position = torch.arange(-before, size + after, device="cpu")
    phase, index = position % spacing, position.div(spacing, rounding_mode="floor")
    last = (size - 1 - phase).div(spacing, rounding_mode="floor")  # of the interleaved map
    if mode == "reflect":
        index = last - (last - index.abs()).abs()
    elif mode == "replicate":
        index = index.clamp(min=0).minimum(last)
    else:
        index = index % (last + 1)
    return phase + spacing * index


class DenseConv2d(nn.Conv2d):
    """Convolution with a dilated window and the weights of ``conv``."""

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
    """``F.conv2d`` with a dilated window, for weights that the network computes."""

    def __init__(self, window: Window, groups: int):
        super().__init__()
        self.window, self.groups = window, groups

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _convolve(x, weight, bias, self.window, self.groups)


class DenseBlurPool2d(nn.Module):
    """A fixed depthwise filter with a dilated window; ``filt`` is (channels or 1, 1, height, width)."""

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
    pads = window.padding_for(x.shape[-2:])
    if border != "constant":
        x, pads = pad_interleaved(x, pads, border, spacing=window.spacing), [(0, 0)] * 2
    return dilated_conv(x, weight, bias, stride=window.stride, padding=pads, dilation=window.dilation, groups=groups)


class DenseMaxPool2d(nn.Module):
    """Max pooling with a dilated window."""

    def __init__(self, window: Window):
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        pads = self.window.padding_for(x.shape[-2:])
        padding = tuple(before for before, _ in pads)
        # torch pads both sides equally, by at most half a kernel. Symbols of torch.export cannot be compared.
        fixed = all(isinstance(side, int) for pair in pads for side in pair)
        if not fixed or any(
            before != after or 2 * before > k for (before, after), k in zip(pads, self.window.kernel, strict=True)
        ):
            x, padding = pad_interleaved(x, pads, value=float("-inf")), (0, 0)
        return F.max_pool2d(x, self.window.kernel, self.window.stride, padding, self.window.dilation)


class DenseAvgPool2d(nn.Module):
    """Average pooling with a dilated window, which torch does not have: one addition per tap and axis.

    Args:
        counted: (before, after) padded positions of each axis that count as zeros; padding beyond them is not part of
            the average.
        divisor: divides the sums instead of the number of counted positions.
    """

    def __init__(self, window: Window, counted: Sequence[IntPair] = ((0, 0), (0, 0)), divisor: int | None = None):
        super().__init__()
        self.window, self.counted, self.divisor = window, tuple(counted), divisor

    def forward(self, x: Tensor) -> Tensor:
        size, pads = x.shape[-2:], self.window.padding_for(x.shape[-2:])
        total = pad_interleaved(x, pads).to(torch.promote_types(x.dtype, torch.float32))  # avoids rounding of the sums
        out = self.window.output_size(size)
        for axis in range(2):
            k, d, s = self.window.kernel[axis], self.window.dilation[axis], self.window.stride[axis]
            length = (out[axis] - 1) * s + 1
            taps = [slice(tap * d, tap * d + length, s) for tap in range(k)]
            total = sum(total[:, :, taken] if axis == 0 else total[..., taken] for taken in taps)
        if self.divisor is not None:
            return (total / self.divisor).to(x.dtype)
        rows, columns = (self._count(axis, size[axis], out[axis], pads[axis][0], total) for axis in range(2))
        return (total / (rows[:, None] * columns)).to(x.dtype)

    def _count(self, axis: int, size: int, out: int, before: int, like: Tensor) -> Tensor:
        """Number of taps of each output that are on the map or on counted padding."""
        first, last = self.counted[axis]
        position = torch.arange(out, device=like.device)[:, None] * self.window.stride[axis] - before
        position = position + torch.arange(self.window.kernel[axis], device=like.device) * self.window.dilation[axis]
        return ((position >= -first) & (position < size + last)).sum(1).clamp(min=1).to(like.dtype)


class DensePad2d(nn.Module):
    """Padding of a dense map."""

    def __init__(self, window: Window, border: str, value: float):
        super().__init__()
        self.window, self.border, self.value = window, border, value

    def forward(self, x: Tensor) -> Tensor:
        pads = self.window.padding_for(x.shape[-2:])
        return pad_interleaved(x, pads, self.border, self.value, self.window.spacing)
