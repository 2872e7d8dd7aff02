"""Triton kernels of the gated activation. Imports triton.

Tensors are contiguous: ``(batch, channels, size)``, or ``(batch, size, channels)`` if CHANNELS_LAST. Each program has a
block of BLOCK_C channels and BLOCK_N positions.
"""

import triton
import triton.language as tl


@triton.jit
def block_offsets(channels, size, BLOCK_C: tl.constexpr, BLOCK_N: tl.constexpr):
    """The batch entry, channels and positions of this program's block; its number among the blocks of these channels;
    and which elements exist, ``(BLOCK_C, BLOCK_N)``.
    """
    blocks, groups = tl.cdiv(size, BLOCK_N), tl.cdiv(channels, BLOCK_C)
    program = tl.program_id(0)
    group, column = program // blocks % groups, program // (blocks * groups) * blocks + program % blocks
    batch = (program // (blocks * groups)).to(tl.int64)
    c = group * BLOCK_C + tl.arange(0, BLOCK_C)
    n = program % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    return batch, c, n, column, (c < channels)[:, None] & (n < size)[None, :]


@triton.jit
def element(batch, c, n, channels, size, CHANNELS_LAST: tl.constexpr):
    """The places of elements in memory, ``(BLOCK_C, BLOCK_N)``."""
    if CHANNELS_LAST:
        return (batch * size + n)[None, :] * channels + c[:, None]
    return (batch * channels + c)[:, None] * size + n[None, :]


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    """tanh(x) and its derivative, accurate also where one of them is small.

    The polynomial for small x is that of Cephes (Moshier, tanhf.c).
    """
    u = tl.exp(-2 * tl.abs(x))
    square = x * x
    small = (((-5.70498872745e-3 * square + 2.06390887954e-2) * square - 5.37397155531e-2) * square) + 1.33314422036e-1
    small = x + x * square * (small * square - 3.33332819422e-1)
    large = (1 - u) / (1 + u)
    value = tl.where(tl.abs(x) < 0.625, small, tl.where(x < 0, -large, large))
    return value, 4 * u / ((1 + u) * (1 + u))


@triton.jit
def _load_half(h, bias, place, c, channels, exists):
    x = tl.load(h + place, mask=exists, other=0).to(tl.float32)
    if bias is not None:
        x += tl.load(bias + c, mask=c < channels, other=0).to(tl.float32)[:, None]
    return x


@triton.jit
def forward(
    h,
    bias,  # (2 * channels,) or None
    condition,  # of any strides, or None
    total,  # written if there is a condition: h + bias + condition
    z,
    channels,
    size,
    condition_batch,  # strides
    condition_channel,
    condition_position,
    TANH_FIRST: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    batch, c, n, _, exists = block_offsets(channels, size, BLOCK_C, BLOCK_N)
    a_c = c if TANH_FIRST else c + channels
    b_c = c + channels if TANH_FIRST else c
    a_place = element(batch, a_c, n, 2 * channels, size, CHANNELS_LAST)
    b_place = element(batch, b_c, n, 2 * channels, size, CHANNELS_LAST)
    a = _load_half(h, bias, a_place, a_c, 2 * channels, exists)
    b = _load_half(h, bias, b_place, b_c, 2 * channels, exists)
    if condition is not None:
        condition += batch * condition_batch + n.to(tl.int64)[None, :] * condition_position
        a += tl.load(condition + a_c.to(tl.int64)[:, None] * condition_channel, mask=exists, other=0).to(tl.float32)
        b += tl.load(condition + b_c.to(tl.int64)[:, None] * condition_channel, mask=exists, other=0).to(tl.float32)
        # Rounded as stored, so that backward differentiates what forward computes.
        a, b = a.to(total.dtype.element_ty), b.to(total.dtype.element_ty)
        tl.store(total + a_place, a, mask=exists)
        tl.store(total + b_place, b, mask=exists)
        a, b = a.to(tl.float32), b.to(tl.float32)
    value, _ = _tanh(a)
    place = element(batch, c, n, channels, size, CHANNELS_LAST)
    tl.store(z + place, (value * _sigmoid(b)).to(z.dtype.element_ty), mask=exists)


@triton.jit
def backward(
    h,
    bias,  # as in forward
    dz,
    dh,
    sums,  # (2 * channels, blocks) float32 or None: sums of dh over each block's positions
    channels,
    size,
    columns,  # number of blocks
    TANH_FIRST: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    batch, c, n, column, exists = block_offsets(channels, size, BLOCK_C, BLOCK_N)
    a_c = c if TANH_FIRST else c + channels
    b_c = c + channels if TANH_FIRST else c
    a_place = element(batch, a_c, n, 2 * channels, size, CHANNELS_LAST)
    b_place = element(batch, b_c, n, 2 * channels, size, CHANNELS_LAST)
    b = _load_half(h, bias, b_place, b_c, 2 * channels, exists)
    value, slope = _tanh(_load_half(h, bias, a_place, a_c, 2 * channels, exists))
    place = element(batch, c, n, channels, size, CHANNELS_LAST)
    d = tl.load(dz + place, mask=exists, other=0).to(tl.float32)
    d *= _sigmoid(b)
    da, db = d * slope, d * value * _sigmoid(-b)
    tl.store(dh + a_place, da.to(dh.dtype.element_ty), mask=exists)
    tl.store(dh + b_place, db.to(dh.dtype.element_ty), mask=exists)
    if sums is not None:
        tl.store(sums + a_c * columns + column, tl.sum(da, 1), mask=c < channels)
        tl.store(sums + b_c * columns + column, tl.sum(db, 1), mask=c < channels)


#: False under TRITON_INTERPRET=1, where kernels run on CPU tensors.
COMPILED = isinstance(forward, triton.JITFunction)
