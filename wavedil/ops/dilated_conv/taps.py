"""Convolution whose taps are at any offsets, by products by tap or by the dense kernel."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.ops.dilated_conv import as_autocast, cpu, dilated_conv
from wavedil.ops.dilated_conv.reference import tap_conv as reference

# A dense kernel with up to this many positions per tap is as fast as one product per tap on a CPU. With 64 channels and
# 64 x 64 positions, 3 x 3 taps in 5 x 5 positions take 4.6 ms by tap and 8.6 ms dense; depthwise 3.2 ms and 0.5 ms.
_DENSE, _DENSE_GROUPED = 2, 32


def tap_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    offsets: Sequence[Sequence[int]],
    span: Sequence[int],
    stride: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    groups: int,
) -> Tensor:
    """Convolution by a kernel of ``span + 1`` positions per axis that is zero except at ``offsets``.

    Args:
        x: ``(batch, in_channels, *space)``.
        weight: ``(out_channels, in_channels / groups, taps)``.
        bias: ``(out_channels,)``.
        offsets: of each tap, one integer from 0 to span per axis. The weights of taps with equal offsets are added.
        span: distance between the first and the last position of the kernel, per axis.
        stride, padding, groups: as in :func:`wavedil.ops.dilated_conv.dilated_conv`.

    Returns:
        ``(batch, out_channels, *space')``.
    """
    x, weight, bias = as_autocast(x, weight, bias)
    low, high = ([limit(places) for places in zip(*offsets, strict=True)] for limit in (min, max))
    offsets = [tuple(at - first for at, first in zip(offset, low, strict=True)) for offset in offsets]
    # Positions before the first tap and after the last one take no part: less padding, or fewer inputs.
    padding = [
        (before - first, after - (whole - last))
        for (before, after), first, last, whole in zip(padding, low, high, span, strict=True)
    ]
    reach = [last - first for first, last in zip(low, high, strict=True)]
    if stride == (1,) and cpu.supports(x, weight, bias, stride, groups, max_taps=math.inf):
        return cpu.DilatedConv.apply(x, weight, bias, padding[0], [offset[0] for offset in offsets])
    x = F.pad(x, [side for pair in reversed(padding) for side in pair])
    if not torch.compiler.is_exporting():  # sizes may be symbols, which cannot be compared
        sizes = [(n - extent - 1) // s + 1 for n, extent, s in zip(x.shape[2:], reach, stride, strict=True)]
        if min(sizes) < 1:  # an empty chunk of a stream
            return x.new_zeros(x.shape[0], weight.shape[0], *sizes)
    densest = _DENSE if groups == 1 else _DENSE_GROUPED
    if math.prod(extent + 1 for extent in reach) > densest * len(offsets):
        if set(stride) == {1} and cpu.supports(x.flatten(2), weight, bias, (1,), groups, max_taps=math.inf):
            return _in_one_row(x, weight, bias, offsets, reach)
        return reference(x, weight, bias, offsets, stride, groups)
    kernel = dense_kernel(weight, offsets, reach)
    no_padding = [(0, 0)] * len(reach)
    return dilated_conv(x, kernel, bias, stride=stride, padding=no_padding, dilation=(1,) * len(reach), groups=groups)


def _in_one_row(
    x: Tensor, weight: Tensor, bias: Tensor | None, offsets: Sequence[Sequence[int]], reach: Sequence[int]
) -> Tensor:
    """The convolution of x, without padding, over all positions in one row, where a tap is an offset as well.

    Outputs whose taps would continue in the next row of the map are computed and dropped.
    """
    sizes = x.shape[2:]
    steps = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    places = [sum(at * step for at, step in zip(offset, steps, strict=True)) for offset in offsets]
    out = [size - extent for size, extent in zip(sizes, reach, strict=True)]
    padding = (0, max(places) - reach[0] * steps[0])  # to complete rows
    y = cpu.DilatedConv.apply(x.flatten(2), weight, bias, padding, places)
    return y.unflatten(2, (out[0], *sizes[1:]))[(..., *(slice(size) for size in out))]


def dense_kernel(weight: Tensor, offsets: Sequence[Sequence[int]], span: Sequence[int]) -> Tensor:
    """``(out, in, taps)`` to the kernel ``(out, in, *[s + 1 for s in span])`` that has the taps at ``offsets``."""
    sizes = [extent + 1 for extent in span]
    places = [sum(at * math.prod(sizes[axis + 1 :]) for axis, at in enumerate(offset)) for offset in offsets]
    kernel = weight.new_zeros(*weight.shape[:2], math.prod(sizes))
    kernel = kernel.index_add(2, torch.tensor(places, device=weight.device), weight)
    return kernel.view(*weight.shape[:2], *sizes)
