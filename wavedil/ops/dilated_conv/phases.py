"""Depthwise dilated convolution over two axes on the CPU for training, as undilated convolution of interleaved maps.

A dilated convolution connects only positions that are a multiple of the dilation apart. So a map is split along each
axis into ``dilation`` interleaved maps, which are stacked in the batch, and merged afterwards. With channels innermost,
oneDNN's gradients are fast for undilated depthwise kernels and slow for dilated ones. Forward and backward of 4 maps of
23 x 30, in ms (one thread of a busy AMD Zen 3 core, float32, median of 7):

    channels, kernel, dilation    conv2d after F.pad            conv2d with padding    interleaved
    1152, 5x5, 4                  1148                          872                    195
    672, 5x5, 2                   415                           117                    77
    1152, 3x3, 4                  523                           153                    87
    480, 3x3, 2                   59                            49                     31
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedil.ops.fallback import is_eager_cpu


def supports(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> bool:
    """Whether the arguments are supported: training in float32, two axes, stride 1, depthwise and dilated."""
    return (
        x.ndim == 4
        and stride == (1, 1)
        and groups == x.shape[1] > 1
        and max(dilation) > 1
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and is_eager_cpu(x, weight, bias)
    )


def dilated_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """``(batch, channels, height, width) -> (batch, out, height', width')``, with channels innermost in memory."""
    size = [
        n + sum(pad) - (k - 1) * d
        for n, pad, k, d in zip(x.shape[2:], padding, weight.shape[2:], dilation, strict=True)
    ]
    # The convolution pads multiples of the dilation; the rest is padded here, and after the end up to a multiple of the
    # dilation, so that all interleaved maps have the same size.
    steps = [min(pad) // d for pad, d in zip(padding, dilation, strict=True)]
    sides = []
    for n, (before, after), count, d in zip(x.shape[2:], padding, steps, dilation, strict=True):
        before, after = before - count * d, after - count * d
        sides.append((before, after + -(before + n + after) % d))
    pad = [side for pair in reversed(sides) for side in pair]
    x = F.pad(x, pad) if any(pad) else x
    (down, across), batch = dilation, x.shape[0]
    # (batch, rows, row phase, columns, column phase, channels); the phases join the batch.
    cells = x.permute(0, 2, 3, 1).unflatten(2, (-1, across)).unflatten(1, (-1, down))
    maps = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    y = F.conv2d(maps.permute(0, 3, 1, 2), weight, bias, padding=steps, groups=groups).permute(0, 2, 3, 1)
    y = y.unflatten(0, (batch, down, across)).permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2)
    return y.permute(0, 3, 1, 2)[:, :, : size[0], : size[1]]
