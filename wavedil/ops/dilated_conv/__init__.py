"""Dilated convolution over 1, 2 or 3 axes, by the fastest implementation that is correct for the tensors."""

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
    """The result of ``F.conv1d``, ``F.conv2d`` or ``F.conv3d`` with zero padding that may differ on the two sides.

    On the CPU, a dense convolution over one axis with stride 1 is one matrix product per tap (``cpu.py``), and the
    result has channels innermost in memory; a depthwise convolution over two axes in training is an undilated
    convolution of interleaved maps (``phases.py``). The case in which torch's result is wrong is computed in float32
    (``_is_wrong_in_torch``). All others use torch's convolution. Under autocast the result has the autocast dtype, as
    in torch.

    Args:
        x: ``(batch, in_channels, *space)``.
        weight: ``(out_channels, in_channels / groups, *kernel)``.
        bias: ``(out_channels,)``.
        stride, dilation: one per axis.
        padding: number of zeros (before, after) per axis.
        groups: as in torch.

    Returns:
        ``(batch, out_channels, *space')``.
    """
    x, weight, bias = as_autocast(x, weight, bias)
    pad = [side for pair in reversed(padding) for side in pair]
    if not all(isinstance(side, int) for side in pad):  # symbols of torch.export, which cannot be compared
        x, padding, pad = F.pad(x, pad), [(0, 0)] * len(padding), [0] * len(pad)
    if cpu.supports(x, weight, bias, stride, groups):
        return cpu.DilatedConv.apply(x, weight, bias, (pad[0], pad[1]), cpu.regular(weight.shape[2], dilation[0]))
    spans = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
    sizes = [n + sum(sides) for n, sides in zip(x.shape[2:], padding, strict=True)]
    out = [-(-(n - span) // s) for n, span, s in zip(sizes, spans, stride, strict=True)]
    if 0 in out:  # an empty chunk of a stream, which torch rejects
        return x.new_zeros(x.shape[0], weight.shape[0], *out)
    if phases.supports(x, weight, bias, stride, dilation, groups):
        return phases.dilated_conv(x, weight, bias, padding, dilation, groups)
    # The convolution itself pads both sides by the smaller amount, without storing the zeros: for large dilations on
    # small maps they would be most of the input.
    common = [min(pair) for pair in padding]
    if any(before != after for before, after in padding):
        x = F.pad(x, [side - both for both, pair in zip(common[::-1], reversed(padding), strict=True) for side in pair])
    if _is_wrong_in_torch(x, dilation, groups):
        with torch.autocast(x.device.type, enabled=False):
            bias32 = None if bias is None else bias.float()
            y = reference(x.float(), weight.float(), bias32, stride, dilation, groups, common)
        return y.to(x.dtype)
    return reference(x, weight, bias, stride, dilation, groups, common)


def as_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """CPU tensors in the dtype to which autocast would cast them in a convolution.

    Explicit, since the implementation is selected by dtype.
    """
    x = tensors[0]
    if x is None or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    dtype = torch.get_autocast_dtype("cpu")
    return [t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]


def _is_wrong_in_torch(x: Tensor, dilation: tuple[int, ...], groups: int) -> bool:
    """Whether torch's weight gradient can be wrong (torch 2.11 to 2.14 on CPUs).

    In half precision, depthwise, dilated and with channels innermost, oneDNN's weight gradient contains uninitialized
    memory, or is written past its end, which crashes the process later (``wavedil bench numerics``). The layout is not
    checked: torch also derives channels-last from the weight's strides, which are ambiguous for dimensions of size 1.
    float32 was correct in all tested cases.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float16)
        and groups == x.shape[1] > 1
        and max(dilation) > 1
        and x.ndim > 3
    )
