"""Depthwise dilated convolution over two axes on the CPU, for training: as undilated ones of interleaved maps.

Positions that lie a multiple of the dilation apart never meet the others, so a map is cut into `dilation` interleaved
ones along each axis, which join the batch, and put together again. With channels innermost oneDNN's gradients of
undilated depthwise kernels are fast, and those of dilated ones are not. Forward and backward of 4 maps of 23 x 30, ms
(one thread of an AMD Zen 3 core with other work beside it, float32, median of 7):

    channels, kernel, dilation    conv2d, zeros added before    conv2d with padding    interleaved
    1152, 5x5, 4                  1148                          872                    195
    672, 5x5, 2                   415                           117                    77
    1152, 3x3, 4                  523                           153                    87
    480, 3x3, 2                   59                            49                     31
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedil.ops.fallback import plain_eager


def supports(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> bool:
    """Whether these run so: a gradient is wanted, float32, two axes, stride 1, depthwise and dilated."""
    return (
        x.ndim == 4
        and stride == (1, 1)
        and groups == x.shape[1] > 1
        and max(dilation) > 1
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and plain_eager(x, weight, bias)
    )


def dilated_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """`(batch, channels, height, width)` to `(batch, out, height', width')`, channels innermost."""
    size = [
        n + sum(pad) - (k - 1) * d
        for n, pad, k, d in zip(x.shape[2:], padding, weight.shape[2:], dilation, strict=True)
    ]
    # Of the padding, whole steps are left to the convolution; at the end comes what fills all interleaved maps.
    inside = [min(pad) // d for pad, d in zip(padding, dilation, strict=True)]
    sides = []
    for n, (before, after), steps, d in zip(x.shape[2:], padding, inside, dilation, strict=True):
        before, after = before - steps * d, after - steps * d
        sides.append((before, after + -(before + n + after) % d))
    flat = [side for pair in reversed(sides) for side in pair]
    x = F.pad(x, flat) if any(flat) else x
    (down, across), batch = dilation, x.shape[0]
    # (batch, rows, row phase, columns, column phase, channels); the phases join the batch.
    cells = x.permute(0, 2, 3, 1).unflatten(2, (-1, across)).unflatten(1, (-1, down))
    maps = cells.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    y = F.conv2d(maps.permute(0, 3, 1, 2), weight, bias, padding=inside, groups=groups).permute(0, 2, 3, 1)
    y = y.unflatten(0, (batch, down, across)).permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2)
    return y.permute(0, 3, 1, 2)[:, :, : size[0], : size[1]]
