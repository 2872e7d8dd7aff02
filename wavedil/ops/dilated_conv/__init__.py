"""Dilated convolution over 1, 2 or 3 axes: the fastest form that is right for the tensors at hand."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wavedil.ops.dilated_conv import cpu, phases
from wavedil.ops.dilated_conv.reference import dilated_conv as reference


def dilated_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...],
    padding: Sequence[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """What `F.conv1d`, `F.conv2d` or `F.conv3d` computes, with zeros added before and after.

    Shapes: x `(batch, in_channels, *space)`, weight `(out_channels, in_channels / groups, *kernel)`,
    bias `(out_channels,)`, result `(batch, out_channels, *space')`. `stride`, `padding` (pairs of
    numbers of zeros before and after) and `dilation` have one entry for each axis. Under autocast
    it computes in autocast's dtype, as torch's own convolutions do.

    Over one axis on the CPU, dense and with stride 1, it runs as one matrix product per tap
    (`cpu.py`) and its result has channels innermost in memory. Depthwise over two axes, in training
    on the CPU, it runs undilated over interleaved maps (`phases.py`). One case that torch gets wrong is
    computed in float32 (`_is_wrong_in_torch`). All else is torch's convolution.
    """
    x, weight, bias = as_autocast(x, weight, bias)
    pad = [side for pair in reversed(padding) for side in pair]
    if cpu.supports(x, weight, bias, stride, groups):
        return cpu.dilated_conv(x, weight, bias, (pad[0], pad[1]), dilation[0])
    spans = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
    sizes = [n + sum(sides) for n, sides in zip(x.shape[2:], padding, strict=True)]
    out = [-(-(n - span) // s) for n, span, s in zip(sizes, spans, stride, strict=True)]
    if 0 in out:  # an empty chunk of a stream; torch refuses to convolve it
        return x.new_zeros(x.shape[0], weight.shape[0], *out)
    if phases.supports(x, weight, bias, stride, dilation, groups):
        return phases.dilated_conv(x, weight, bias, padding, dilation, groups)
    # As many zeros as are on both sides need not be stored: far dilations on small maps would be mostly those.
    inside = [min(pair) for pair in padding]
    if any(before != after for before, after in padding):
        x = F.pad(x, [side - both for both, pair in zip(inside[::-1], reversed(padding), strict=True) for side in pair])
    if _is_wrong_in_torch(x, dilation, groups):
        with torch.autocast(x.device.type, enabled=False):
            wide = None if bias is None else bias.float()
            y = reference(x.float(), weight.float(), wide, stride, dilation, groups, inside)
        return y.to(x.dtype)
    return reference(x, weight, bias, stride, dilation, groups, inside)


def as_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """CPU tensors in the dtype that autocast would give them at a convolution.

    Done here because what follows chooses by the dtype that is computed in.
    """
    x = tensors[0]
    if x is None or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    dtype = torch.get_autocast_dtype("cpu")
    return [t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]


def _is_wrong_in_torch(x: Tensor, dilation: tuple[int, ...], groups: int) -> bool:
    """Whether torch's weight gradient would be garbage (seen in torch 2.11 to 2.14 on CPUs).

    In half precision, depthwise, dilated, and with channels innermost, oneDNN's weight gradient
    contains uninitialized memory, or is written past its end, which ends the process later.
    `wavedil bench numerics` shows it. Layout is not asked: torch takes channels-last from the
    weight's strides as well, and those are ambiguous where a dimension has size 1. float32 is
    right in every case tried.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float16)
        and groups == x.shape[1] > 1
        and max(dilation) > 1
        and x.ndim > 3
    )
