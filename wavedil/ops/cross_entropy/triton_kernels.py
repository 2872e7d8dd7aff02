"""Triton kernels of the cross entropy. Imports triton.

``logits`` and ``gradient`` are contiguous: ``(batch, NUM_CLASSES, size)``, or ``(batch, size, NUM_CLASSES)`` if
CHANNELS_LAST; the others ``(batch, size)``. Each program has BLOCK_N positions of all batch entries, and goes through
their classes in blocks of BLOCK_K.
"""

import triton
import triton.language as tl


@triton.jit
def _positions(count, size, NUM_CLASSES: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_N: tl.constexpr):
    """The positions of this program, the place of their first logit, the step to the next one, and which exist."""
    position = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    if CHANNELS_LAST:
        first, step = position * NUM_CLASSES, 1
    else:
        first, step = position // size * (NUM_CLASSES * size) + position % size, size
    return position, first, step, position < count


@triton.jit
def forward(
    logits,
    targets,
    nats,
    highest,  # the largest logit
    log_sums,  # log(sum(exp(logits - highest))): separate, since a sum of both would lose digits of large logits
    count,
    size,
    NUM_CLASSES: tl.constexpr,
    IGNORED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    position, first, step, exists = _positions(count, size, NUM_CLASSES, CHANNELS_LAST, BLOCK_N)
    peak = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, NUM_CLASSES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)[:, None].to(tl.int64)
        mask = exists[None, :] & (k < NUM_CLASSES)
        x = tl.load(logits + first[None, :] + k * step, mask=mask, other=float("-inf")).to(tl.float32)
        new = tl.maximum(peak, tl.max(x, 0))
        offset = tl.where(new == float("-inf"), 0.0, new)  # so that minus infinity has the weight 0
        total = total * tl.exp(peak - offset) + tl.sum(tl.exp(x - offset[None, :]), 0)
        peak = new
    target = tl.load(targets + position, mask=exists, other=IGNORED)
    inside = (target >= 0) & (target < NUM_CLASSES)
    # NaN for a target out of range. The gradient, which is computed from it, becomes NaN, too.
    log_sum = tl.where(inside | (target == IGNORED), tl.log(total), float("nan"))
    x = tl.load(logits + first + target * step, mask=inside, other=0).to(tl.float32)
    tl.store(highest + position, peak, mask=exists)
    tl.store(log_sums + position, log_sum, mask=exists)
    tl.store(nats + position, tl.where(target == IGNORED, 0.0, log_sum + (peak - x)), mask=exists)


@triton.jit
def backward(
    logits,
    targets,
    highest,
    log_sums,
    grad,
    gradient,
    count,
    size,
    NUM_CLASSES: tl.constexpr,
    IGNORED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    position, first, step, exists = _positions(count, size, NUM_CLASSES, CHANNELS_LAST, BLOCK_N)
    target = tl.load(targets + position, mask=exists, other=IGNORED)[None, :]
    peak = tl.load(highest + position, mask=exists, other=0)[None, :]
    log_sum = tl.load(log_sums + position, mask=exists, other=0)[None, :]
    factor = tl.load(grad + position, mask=exists, other=0)[None, :]
    for start in range(0, NUM_CLASSES, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)[:, None].to(tl.int64)
        mask = exists[None, :] & (k < NUM_CLASSES)
        place = first[None, :] + k * step
        x = tl.load(logits + place, mask=mask, other=0).to(tl.float32)
        d = factor * (tl.exp(x - peak - log_sum) - tl.where(k == target, 1.0, 0.0))
        d = tl.where(target == IGNORED, 0.0, d)
        tl.store(gradient + place, d.to(gradient.dtype.element_ty), mask=mask)
