"""1-D convolution on the CPU as one matrix product per kernel tap.

With channels innermost, a tap of the convolution is the product of the rows of x, shifted by the tap's offset, with one
matrix of the weight. Offsets are multiples of the dilation, or any (``taps.py``). Nothing is copied or rearranged, and
padding costs nothing, since rows outside x are omitted from the product. The products accumulate in the result. In
training with a regular dilation this is 1.1 to 1.3 times as fast as ``conv1d`` in float32 and 2.3 times in bfloat16
(``wavedil bench conv``, one thread of an Intel core with AMX).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.dilated_conv.reference import tap_conv as reference
from wavedil.ops.fallback import differentiable_backward, is_eager_cpu

_DTYPES = (torch.float32, torch.bfloat16, torch.float64)
_MAX_TAPS = 8  # each tap makes a pass over the result
_MIN_CHANNELS = 8  # with fewer, these passes dominate
_MIN_ROWS = 64  # with fewer, the calls cost more than the products


def supports(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...] = (1,),
    groups: int = 1,
    max_taps: float = _MAX_TAPS,
) -> bool:
    """Whether this implementation supports the arguments: one axis, stride 1, dense, and large enough."""
    return (
        stride == (1,)
        and groups == 1
        and is_eager_cpu(x, weight, bias)
        and x.dtype in _DTYPES
        and weight.dtype == x.dtype
        and (bias is None or bias.dtype == x.dtype)
        and supports_shapes(x, weight, max_taps)
    )


def supports_shapes(x: Tensor, weight: Tensor, max_taps: float = _MAX_TAPS) -> bool:
    """Whether the shapes are supported: one axis, and large enough."""
    return (
        x.ndim == 3
        and x.shape[1] == weight.shape[1] >= _MIN_CHANNELS
        and weight.shape[2] <= max_taps
        and x.shape[0] * x.shape[2] >= _MIN_ROWS
    )


def regular(kernel: int, dilation: int) -> Sequence[int]:
    """The offsets of the taps of a kernel."""
    return range(0, kernel * dilation, dilation)


class Taps(NamedTuple):
    """The rows of input and output that each tap of a convolution connects, and the products over them.

    Tensors are ``(batch, time, channels)``, weights ``(out, in, kernel)``.
    """

    time: int
    out_time: int
    spans: list[tuple[int, slice, slice]]  # (tap, rows of the output, rows of the input)

    @classmethod
    def of_size(cls, time: int, offsets: Sequence[int], padding: tuple[int, int]) -> "Taps":
        """The taps of a convolution of ``time`` rows; negative padding removes rows."""
        out_time = time + sum(padding) - max(offsets)
        spans = []
        for tap, offset in enumerate(offsets):
            shift = offset - padding[0]  # output t reads input t + shift
            first, last = max(0, -shift), min(out_time, time - shift)
            if first < last:
                spans.append((tap, slice(first, last), slice(first + shift, last + shift)))
        # Longest first: a tap that covers all rows is written, and the others are added.
        spans.sort(key=lambda span: span[1].start - span[1].stop)
        return cls(time, out_time, spans)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of x."""
        matrices = weight.permute(2, 1, 0).contiguous()  # (kernel, in, out)
        y = x.new_empty(x.shape[0], self.out_time, weight.shape[0])
        has_values = bias is not None
        if has_values:
            y.copy_(bias)
        for tap, out_rows, in_rows in self.spans:
            _multiply(y, out_rows, x[:, in_rows], matrices[tap], add=has_values)
            has_values = True
        return y if has_values else y.zero_()

    def input_gradient(self, d: Tensor, weight: Tensor, initial: Tensor | None = None) -> Tensor:
        """The gradient of the input; added in place to ``initial``, if set."""
        matrices = weight.permute(2, 0, 1).contiguous()  # (kernel, out, in)
        has_values = initial is not None
        dx = initial if has_values else d.new_empty(d.shape[0], self.time, weight.shape[1])
        for tap, out_rows, in_rows in self.spans:
            _multiply(dx, in_rows, d[:, out_rows], matrices[tap], add=has_values)
            has_values = True
        return dx if has_values else dx.zero_()

    def weight_gradient(self, d: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the weight."""
        # Products sum over time in float32; the sum over the batch must not be rounded to bfloat16.
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        total = torch.zeros(weight.shape[2], *weight.shape[:2], dtype=wide)
        for tap, out_rows, in_rows in self.spans:
            a, b = d[:, out_rows], x[:, in_rows]
            if a.is_contiguous() and b.is_contiguous():
                total[tap] = a.flatten(0, 1).t() @ b.flatten(0, 1)
            else:
                for a_n, b_n in zip(a, b, strict=True):
                    total[tap] += a_n.t() @ b_n
        return total.permute(1, 2, 0).to(weight.dtype)


def _multiply(out: Tensor, rows: slice, a: Tensor, b: Tensor, add: bool) -> None:
    """Adds ``a @ b`` to ``out[:, rows]``; if not ``add``, sets these rows to ``a @ b`` and the others to zero."""
    target = out[:, rows]
    if not add:
        if target.shape == out.shape and a.is_contiguous():
            torch.mm(a.flatten(0, 1), b, out=target.flatten(0, 1))
            return
        out.zero_()
    if target.is_contiguous() and a.is_contiguous():
        target.flatten(0, 1).addmm_(a.flatten(0, 1), b)
        return
    # Rows of several batch entries with gaps between them are not one matrix.
    for target_n, a_n in zip(target, a, strict=True):
        target_n.addmm_(a_n, b)


class DilatedConv(torch.autograd.Function):
    """``(batch, in, time) -> (batch, out, time')``; the result has channels innermost in memory."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int],
        offsets: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.padding, ctx.offsets = padding, offsets
        rows = x.transpose(1, 2).contiguous()  # (batch, channels, time) -> (batch, time, channels)
        ctx.taps = Taps.of_size(rows.shape[1], offsets, padding)
        return ctx.taps.convolve(rows, weight, bias).transpose(1, 2)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                return reference(F.pad(x, ctx.padding), weight, bias, [(offset,) for offset in ctx.offsets], (1,), 1)

            return *differentiable_backward(ctx, plain, (x, weight, bias), (grad,)), None, None
        d = grad.transpose(1, 2).contiguous()
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        dx = ctx.taps.input_gradient(d, weight).transpose(1, 2) if need_x else None
        dweight = dbias = None
        if need_weight:
            dweight = ctx.taps.weight_gradient(d, x.transpose(1, 2).contiguous(), weight)
        if need_bias:
            dbias = d.sum((0, 1))
        return dx, dweight, dbias, None, None
