"""The Triton kernel that takes a tile of 16 streams through many samples in one launch. Needs triton to import.

16 rows are the least that ``tl.dot`` multiplies at once: so many streams share each weight that is read, and a stream's
numbers do not depend on how many others there are. Every width is padded with zeros to a power of two, 16 at least:
padded channels are zero all the way, and padded codes have the logit minus infinity.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Streams of one program.
TILE = tl.constexpr(16)


@triton.jit
def _product(x, weight, start):
    """start + x @ weight, in the weights' dtype, accumulated in float32."""
    return tl.dot(x.to(weight.dtype), weight, start, input_precision="ieee")


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _threshold(bits, measure, least):
    """Per row the largest number v for which the measure of all elements with bits >= v is at least ``least``.

    Non-negative floats are ordered like their bits, so v is found bit by bit, and is one of the elements.
    """
    found = tl.zeros_like(tl.max(bits, 1))
    for bit in range(31):
        trial = found | (1 << (30 - bit))
        reached = tl.sum(tl.where(bits >= trial[:, None], measure, 0), 1) >= least
        found = tl.where(reached, trial, found)
    return found


@triton.jit
def _pick(logits, uniform, temperature, top_k, top_p, CUT_K: tl.constexpr, CUT_P: tl.constexpr):
    """Categorical choice, as in ``Sampling.probabilities`` and ``Categorical.sample``: ``(streams,)`` codes."""
    code = tl.arange(0, logits.shape[1])[None, :]
    weights = tl.exp((logits - tl.max(logits, 1)[:, None]) / temperature)
    bits = weights.to(tl.int32, bitcast=True)
    if CUT_K:
        kept = _threshold(bits, tl.full(bits.shape, 1, tl.int32), top_k)
        weights = tl.where(bits >= kept[:, None], weights, 0)
        bits = weights.to(tl.int32, bitcast=True)
    if CUT_P:
        kept = _threshold(bits, weights, tl.sum(weights, 1) * top_p)
        weights = tl.where(bits >= kept[:, None], weights, 0)
    # The sums are float64 like the uniforms: in float32 the numbers next to 1 would all be one.
    exact = weights.to(tl.float64)
    threshold = uniform * tl.sum(exact, 1)
    below = tl.sum((tl.cumsum(exact, 1) <= threshold[:, None]).to(tl.int32), 1)
    return tl.minimum(below, tl.max(tl.where(weights > 0, code, 0), 1))


@triton.jit(do_not_specialize=["steps", "top_k"])
def advance(
    codes,  # (taps + steps, streams) int32: the recent codes, then those that are drawn, or forced
    uniforms,  # (steps, streams) float64
    features,  # (steps, streams, F)
    parameters,  # (steps, streams, Q) float32; written where FORCED
    rings,  # (tiles, slots, TILE, C): past inputs of all layers
    schedule,  # (layers, 3) int32: dilation, first slot, place of the next input
    tables,  # (taps, rows, C) float32, or (taps, C) where SCALAR
    levels,  # (rows,) float32 where SCALAR
    input_bias,  # (C,) float32 where SCALAR
    weights,  # (layers, H / BLOCK, taps, 2, C, BLOCK)
    biases,  # (layers, streams or 1, 2, H) float32
    conditions,  # (layers, H / BLOCK, 2, F, BLOCK)
    residuals,  # (layers, H, C)
    residual_biases,  # (layers, C) float32
    skips,  # (layers, H, S)
    skip_bias,  # (S,) float32
    head,  # (E / HEAD_BLOCK, S, HEAD_BLOCK)
    head_bias,  # (E,) float32
    out,  # (E, Q)
    out_bias,  # (Q,) float32
    steps,
    streams,
    slots,
    residual_scale,
    temperature,
    top_k,
    top_p,
    LAYERS: tl.constexpr,
    INPUT_TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    SCALAR: tl.constexpr,
    TAPS: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    S: tl.constexpr,
    E: tl.constexpr,
    Q: tl.constexpr,
    F: tl.constexpr,
    BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    OWN_BIAS: tl.constexpr,
    FORCED: tl.constexpr,
    GREEDY: tl.constexpr,
    CUT_K: tl.constexpr,
    CUT_P: tl.constexpr,
    STAGES: tl.constexpr,
):
    BLOCKS: tl.constexpr = H // BLOCK
    SLOT: tl.constexpr = TILE * C
    tile = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, TILE)
    stream = tile.to(tl.int32) * TILE + row
    channel = tl.arange(0, C)
    unit = tl.arange(0, BLOCK)
    skip = tl.arange(0, S)
    head_unit = tl.arange(0, HEAD_BLOCK)
    code = tl.arange(0, Q)
    rings += tile * slots * SLOT + row[:, None] * C + channel[None, :]
    t = 0
    while t < steps:
        x = tl.zeros((TILE, C), tl.float32)
        if SCALAR:
            x += tl.load(input_bias + channel)[None, :]
        for tap_index in range(INPUT_TAPS):
            recent = tl.load(codes + (t + tap_index) * streams + stream)
            if SCALAR:
                x += tl.load(tables + tap_index * C + channel)[None, :] * tl.load(levels + recent)[:, None]
            else:
                x += tl.load(tables + (tap_index * ROWS + recent)[:, None] * C + channel[None, :])
        if F > 0:
            feature = tl.load(features + (t * streams + stream)[:, None] * F + tl.arange(0, F)[None, :])
        y = tl.zeros((TILE, S), tl.float32) + tl.load(skip_bias + skip)[None, :]
        through = tl.zeros((TILE, C), tl.float32)
        # Layers and blocks of their hidden channels in one loop, so that the compiler fetches the weights of the next
        # passes into shared memory while this one multiplies.
        for index in tl.range(LAYERS * BLOCKS, num_stages=STAGES):
            layer = index // BLOCKS
            block = index % BLOCKS
            dilation = tl.load(schedule + 3 * layer)
            first = tl.load(schedule + 3 * layer + 1)
            # A layer has one slot more than it looks back, so the slot that is written now is not read in this step:
            # no barrier is needed between the layers, and inputs of later layers may be fetched early.
            size = (TAPS - 1) * dilation + 1
            now = (tl.load(schedule + 3 * layer + 2) + t) % size
            new = x.to(rings.dtype.element_ty)
            if TAPS > 1:
                tl.store(rings + (first + now).to(tl.int64) * SLOT, new, mask=(row >= 0)[:, None] & (block == 0))
            bias = biases + layer * 2 * H + block * BLOCK + unit[None, :]
            if OWN_BIAS:
                bias = biases + (layer * streams + stream)[:, None] * (2 * H) + block * BLOCK + unit[None, :]
            first_half = tl.zeros((TILE, BLOCK), tl.float32) + tl.load(bias)
            second_half = tl.zeros((TILE, BLOCK), tl.float32) + tl.load(bias + H)
            if F > 0:
                weight = conditions + index * (2 * F * BLOCK) + tl.arange(0, F)[:, None] * BLOCK + unit[None, :]
                first_half = _product(feature, tl.load(weight), first_half)
                second_half = _product(feature, tl.load(weight + F * BLOCK), second_half)
            weight = weights + index * (TAPS * 2 * C * BLOCK) + channel[:, None] * BLOCK + unit[None, :]
            for tap in tl.static_range(TAPS - 1):
                slot = now - (TAPS - 1 - tap) * dilation
                slot = tl.where(slot < 0, slot + size, slot)
                old = tl.load(rings + (first + slot).to(tl.int64) * SLOT)
                first_half = _product(old, tl.load(weight + tap * 2 * C * BLOCK), first_half)
                second_half = _product(old, tl.load(weight + (tap * 2 + 1) * C * BLOCK), second_half)
            weight += (TAPS - 1) * 2 * C * BLOCK
            first_half = _product(new, tl.load(weight), first_half)
            second_half = _product(new, tl.load(weight + C * BLOCK), second_half)
            z = (2 * _sigmoid(2 * first_half) - 1) * _sigmoid(second_half)  # tanh(first) * sigmoid(second)
            hidden = (layer * H + block * BLOCK + unit)[:, None]
            y = _product(z, tl.load(skips + hidden * S + skip[None, :]), y)
            weight = tl.load(residuals + hidden * C + channel[None, :])
            bias = tl.load(residual_biases + layer * C + channel)[None, :]
            if BLOCKS == 1:
                x = (_product(z, weight, x) + bias) * residual_scale
            else:
                through = _product(z, weight, through)
                last = block == BLOCKS - 1
                x = tl.where(last, (x + through + bias) * residual_scale, x)
                through = tl.where(last, 0.0, through)
        y = tl.maximum(y, 0)
        logits = tl.zeros((TILE, Q), tl.float32) + tl.load(out_bias + code)[None, :]
        for block in tl.range(E // HEAD_BLOCK, num_stages=STAGES):
            hidden = block * HEAD_BLOCK + head_unit
            weight = head + block * (S * HEAD_BLOCK) + skip[:, None] * HEAD_BLOCK + head_unit[None, :]
            z = tl.zeros((TILE, HEAD_BLOCK), tl.float32) + tl.load(head_bias + hidden)[None, :]
            z = tl.maximum(_product(y, tl.load(weight), z), 0)
            logits = _product(z, tl.load(out + hidden[:, None] * Q + code[None, :]), logits)
        if FORCED:
            tl.store(parameters + (t * streams + stream)[:, None] * Q + code[None, :], logits)
        else:
            if GREEDY:
                drawn = tl.argmax(logits, 1)
            else:
                uniform = tl.load(uniforms + t * streams + stream)
                drawn = _pick(logits, uniform, temperature, top_k, top_p, CUT_K, CUT_P)
            tl.store(codes + (t + INPUT_TAPS) * streams + stream, drawn.to(tl.int32))
        # The threads of a program share out the elements of a tensor differently from one operation to the next. So
        # what one thread wrote above (inputs into rings, the code) another reads in the next step; and a slot that a
        # thread has read in this step another overwrites in the next, where (TAPS - 1) * dilation steps are over.
        tl.debug_barrier()
        t += 1


#: False under TRITON_INTERPRET=1, where kernels run on CPU tensors.
COMPILED = isinstance(advance, triton.JITFunction)
