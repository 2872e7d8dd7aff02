"""The gated residual layer over one axis on the CPU as one node of the autograd graph.

It uses the products of ``dilated_conv/cpu.py`` and the kernels of ``gate/cpu.py``, with fewer passes over memory: the
residual sum and the sums of the gradients of x and z accumulate in the matrix products, and the kernel of the gate also
computes the gradient of the bias.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.dilated_conv import cpu as conv
from wavedil.ops.fallback import channels_last, differentiable_backward, is_eager_cpu
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
    """Whether the fused layer supports these arguments; parameters may be float32 if x is bfloat16."""
    parameters = (weight, bias, residual_weight, residual_bias)
    return (
        x.dtype in gate.DTYPES
        and is_eager_cpu(x, *parameters)
        and all(t is None or t.dtype in (x.dtype, torch.float32) for t in parameters)
        and conv.supports_shapes(x, weight)
        and residual_weight.shape == (x.shape[1], weight.shape[0] // 2, 1)
        and sum(padding[0]) == (weight.shape[2] - 1) * dilation[0]
        and gate.compiled_kernels(x.dtype) is not None
    )


class GatedResidual(torch.autograd.Function):
    """``(x + residual(z), z)`` with z the gated activations; see :func:`wavedil.ops.gated_residual.gated_residual`."""

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
        rows = channels_last(x).contiguous()
        parameters = (weight, bias, residual_weight, residual_bias)
        # Cast here, and the gradients cast back in backward: as nodes of the graph the casts would take longer.
        w, b, r_w, r_b = (None if t is None else t.to(x.dtype) for t in parameters)
        ctx.taps = conv.Taps.of_size(rows.shape[1], conv.regular(w.shape[2], dilation), padding)
        h = ctx.taps.convolve(rows, w, b)
        z = gate.forward(gate.compiled_kernels(h.dtype), h, order)
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
                cast = (None if t is None else t.to(x.dtype) for t in parameters)
                return reference(x, *cast, [padding], (dilation,), order)

            grads = (grad_out, grad_z)
            return *differentiable_backward(ctx, plain, tuple(inputs), grads), None, None, None
        need_x, need_weight, need_bias, need_residual, need_residual_bias = ctx.needs_input_grad[:5]
        d_out = channels_last(grad_out).contiguous()
        d_rows = d_out.flatten(0, 1)
        dx = dweight = dbias = dresidual = dresidual_bias = None
        if need_residual:
            dresidual = (d_rows.t() @ z.flatten(0, 1)).unsqueeze(2).to(residual_weight.dtype)
        if need_residual_bias:
            dresidual_bias = d_rows.sum(0, dtype=residual_bias.dtype)
        if need_x or need_weight or need_bias:
            d_z = torch.addmm(grad_z.transpose(1, 2).flatten(0, 1), d_rows, r_w[:, :, 0]).view_as(z)
            dh, sums = gate.backward(gate.compiled_kernels(h.dtype), h, d_z, ctx.options[2])
            dbias = sums.to(bias.dtype) if need_bias else None
            if need_weight:
                dweight = ctx.taps.weight_gradient(dh, channels_last(x).contiguous(), weight)
            if need_x:
                dx = ctx.taps.input_gradient(dh, w, initial=d_out.clone()).transpose(1, 2)
        return dx, dweight, dbias, dresidual, dresidual_bias, None, None, None
