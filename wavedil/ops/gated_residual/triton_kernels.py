"""The Triton kernel of the residual sum. Imports triton."""

import triton
import triton.language as tl

from wavedil.ops.gate.triton_kernels import block_offsets, element


@triton.jit
def add_residual(
    x,
    product,
    bias,  # (channels,) or None
    out,
    channels,
    size,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """``out = x + product + bias``; tensors as in the kernels of the gate."""
    batch, c, n, _, exists = block_offsets(channels, size, BLOCK_C, BLOCK_N)
    place = element(batch, c, n, channels, size, CHANNELS_LAST)
    total = tl.load(x + place, mask=exists, other=0).to(tl.float32)
    total += tl.load(product + place, mask=exists, other=0).to(tl.float32)
    if bias is not None:
        total += tl.load(bias + c, mask=c < channels, other=0).to(tl.float32)[:, None]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=exists)
