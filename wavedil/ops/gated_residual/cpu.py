"""The gated residual layer over one axis on the CPU as one node of the autograd graph.

Made of the products of `dilated_conv.cpu` and the loops of `gate.cpu`. What it saves is passes over
memory: the residual sum and the sums of gradients at x and at z start from one summand and let the
matrix products add the rest, and the bias's gradient falls out of the gate's loop.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.dilated_conv import cpu as conv
from wavedil.ops.fallback import differentiable_backward, plain_eager
from wavedil.ops.gate import cpu as gate
from wavedil.ops.gated_residual.reference import gated_residual as reference


def supports(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual_weight: Tensor,
    residual_bias: Tensor | None,
    padding: list[tuple[int, int]],
    dilation: tuple[int, ...],
) -> bool:
    """Whether these run as one node; weights may be in float32 where x is not."""
    parameters = (weight, bias, residual_weight, residual_bias)
    return (
        x.dtype in gate.DTYPES
        and plain_eager(x, *parameters)
        and all(t is None or t.dtype in (x.dtype, torch.float32) for t in parameters)
        and conv.suits_shapes(x, weight)
        and residual_weight.shape == (x.shape[1], weight.shape[0] // 2, 1)
        and sum(padding[0]) == (weight.shape[2] - 1) * dilation[0]
        and gate.loops(x.dtype) is not None
    )


def _rows(x: Tensor) -> Tensor:
    """(batch, channels, time) -> (batch, time, channels), contiguous."""
    return x.transpose(1, 2).contiguous()


class GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual_weight: Tensor,
        residual_bias: Tensor | None,
        padding: tuple[int, int],
        dilation: int,
        order: str,
    ) -> tuple[Tensor, Tensor]:
        ctx.options = padding, dilation, order
        rows = _rows(x)
        parameters = (weight, bias, residual_weight, residual_bias)
        # Narrowed here, and their gradients are widened below: as nodes of the graph these casts
        # would take longer than on the tensors.
        w, b, r_w, r_b = (None if t is None else t.to(x.dtype) for t in parameters)
        ctx.taps = conv.Taps.of(rows.shape[1], w.shape[2], padding, dilation)
        h = ctx.taps.convolve(rows, w, b)
        z = gate.forward(gate.loops(h.dtype), h, order)
        out = rows.clone() if r_b is None else rows + r_b
        out.flatten(0, 1).addmm_(z.flatten(0, 1), r_w[:, :, 0].t())
        ctx.save_for_backward(x, *parameters, w, r_w, h, z)
        return out.transpose(1, 2), z.transpose(1, 2)

    @staticmethod
    def backward(ctx: FunctionCtx, grad_out: Tensor, grad_z: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, w, r_w, h, z = ctx.saved_tensors
        x, weight, bias, residual_weight, residual_bias = inputs
        if torch.is_grad_enabled():
            padding, dilation, order = ctx.options

            def plain(x: Tensor, *parameters: Tensor | None) -> tuple[Tensor, Tensor]:
                narrowed = (None if t is None else t.to(x.dtype) for t in parameters)
                return reference(x, *narrowed, [padding], (dilation,), order)

            grads = (grad_out, grad_z)
            return *differentiable_backward(ctx, plain, tuple(inputs), grads), None, None, None
        need_x, need_weight, need_bias, need_residual, need_residual_bias = ctx.needs_input_grad[:5]
        d_out = _rows(grad_out)
        flat = d_out.flatten(0, 1)
        dx = dweight = dbias = dresidual = dresidual_bias = None
        if need_residual:
            dresidual = (flat.t() @ z.flatten(0, 1)).unsqueeze(2).to(residual_weight.dtype)
        if need_residual_bias:
            dresidual_bias = flat.sum(0, dtype=residual_bias.dtype)
        if need_x or need_weight or need_bias:
            d_z = torch.addmm(grad_z.transpose(1, 2).flatten(0, 1), flat, r_w[:, :, 0]).view_as(z)
            dh, sums = gate.backward(gate.loops(h.dtype), h, d_z, ctx.options[2])
            dbias = sums.to(bias.dtype) if need_bias else None
            if need_weight:
                dweight = ctx.taps.weight_gradient(dh, _rows(x), weight)
            if need_x:
                dx = ctx.taps.input_gradient(dh, w, begin=d_out.clone()).transpose(1, 2)
        return dx, dweight, dbias, dresidual, dresidual_bias, None, None, None
