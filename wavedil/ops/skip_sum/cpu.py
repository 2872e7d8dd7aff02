"""The sum of the skip projections over one axis on the CPU.

Forward is one product over the concatenated gated activations, which sums all layers in float32 before rounding. It
runs in pieces of time, so that the concatenation stays in the cache. Backward runs layer by layer, so that the gradient
of each layer is a separate matrix and not a slice of a wide one, which is twice as fast.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.dilated_conv import cpu as conv
from wavedil.ops.fallback import channels_last, differentiable_backward, is_eager_cpu
from wavedil.ops.skip_sum.reference import skip_sum as reference

_PIECE_BYTES = 2**20  # of the concatenation; at most half of a core's L2 cache


def supports(gates: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> bool:
    """Whether this implementation supports the arguments: more than one layer, and as ``dilated_conv/cpu.py``."""
    first = gates[0]
    return (
        len(gates) > 1
        and conv.supports(first, weight[:, : first.shape[1]], bias)
        and is_eager_cpu(weight, *gates)
        and weight.shape[1] == sum(g.shape[1] for g in gates)
        and all(g.dtype == first.dtype and g.shape[::2] == first.shape[::2] for g in gates)
    )


class SkipSum(torch.autograd.Function):
    """The sum for ``(weight, bias, *gates)``; shapes as in :func:`wavedil.ops.skip_sum.skip_sum`."""

    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, bias: Tensor | None, *gates: Tensor) -> Tensor:
        ctx.save_for_backward(weight, bias, *gates)
        rows = [channels_last(g).flatten(0, 1) for g in gates]
        batch, _, time = gates[0].shape
        matrix = weight[:, :, 0].t()
        y = rows[0].new_empty(batch * time, weight.shape[0])
        step = max(_PIECE_BYTES // (weight.shape[1] * weight.element_size()), 64)
        for start in range(0, batch * time, step):
            piece = slice(start, start + step)
            joined = torch.cat([r[piece] for r in rows], dim=1)
            if bias is None:
                torch.mm(joined, matrix, out=y[piece])
            else:
                torch.addmm(bias, joined, matrix, out=y[piece])
        return y.view(batch, time, -1).transpose(1, 2)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, bias, *gates = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(weight: Tensor, bias: Tensor | None, *gates: Tensor) -> Tensor:
                return reference(gates, weight, bias)

            return tuple(differentiable_backward(ctx, plain, (weight, bias, *gates), (grad,)))
        d = grad.transpose(1, 2).contiguous()
        d_rows = d.flatten(0, 1)
        widths = [g.shape[1] for g in gates]
        dweight = dbias = None
        if ctx.needs_input_grad[0]:
            products = [d_rows.t() @ channels_last(g).flatten(0, 1) for g in gates]
            dweight = torch.cat(products, dim=1).unsqueeze(2)
        if ctx.needs_input_grad[1]:
            dbias = d_rows.sum(0)
        dgates: list[Tensor | None] = [None] * len(gates)
        for i, matrix in enumerate(weight[:, :, 0].split(widths, dim=1)):
            if ctx.needs_input_grad[2 + i]:
                dgates[i] = (d @ matrix.contiguous()).transpose(1, 2)
        return dweight, dbias, *dgates
