"""The Triton kernel: each program generates many samples of a tile of 16 streams in one launch. Imports triton.

``tl.dot`` multiplies at least 16 rows at once. So 16 streams share each weight that is read, and a stream's numbers do
not depend on how many others there are. Every width is padded with zeros to a power of two, at least 16: padded
channels stay zero in all layers, and padded codes have the logit minus infinity.
"""

import triton
import triton.language as tl

#: Streams per program.
TILE = tl.constexpr(16)


@triton.jit
def _product(x, weight, start):
    """start + x @ weight: operands in the weights' dtype, accumulated in float32."""
    return tl.dot(x.to(weight.dtype), weight, start, input_precision="ieee")


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _threshold(bits, amounts, minimum):
    """For each row, the largest v such that the amounts of all elements with bits >= v sum to at least ``minimum``.

    Non-negative floats are ordered like their bits. So v is found bit by bit, and is one of the elements.
    """
    found = tl.zeros_like(tl.max(bits, 1))
    for bit in range(31):
        trial = found | (1 << (30 - bit))
        reached = tl.sum(tl.where(bits >= trial[:, None], amounts, 0), 1) >= minimum
        found = tl.where(reached, trial, found)
    return found


@triton.jit
def _pick(logits, uniform, temperature, top_k, top_p, CUT_K: tl.constexpr, CUT_P: tl.constexpr):
    """Draws codes ``(streams,)`` as ``Sampling.probabilities`` and ``Categorical.sample`` do."""
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
    # The sums are float64 like the uniforms: float32 would round uniforms close to 1 up to 1.
    exact = weights.to(tl.float64)
    threshold = uniform * tl.sum(exact, 1)
    below = tl.sum((tl.cumsum(exact, 1) <= threshold[:, None]).to(tl.int32), 1)
    return tl.minimum(below, tl.max(tl.where(weights > 0, code, 0), 1))


@triton.jit(do_not_specialize=["steps", "top_k"])
def sample_steps(
    codes,  # (taps + steps, streams) int32: the recent codes, then the drawn or forced ones
    uniforms,  # (steps, streams) float64
    features,  # (steps, streams, F)
    parameters,  # (steps, streams, Q) float32; written if FORCED
    rings,  # (tiles, slots, TILE, C): ring buffers with past inputs of all layers
    schedule,  # (layers, 2 + taps) int32: first slot, index of the next input among the layer's slots, delays of taps
    tables,  # (taps, rows, C) float32, or (taps, C) if SCALAR
    levels,  # (rows,) float32 if SCALAR
    input_bias,  # (C,) float32 if SCALAR
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
    STREAM_BIAS: tl.constexpr,
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
        residual_sum = tl.zeros((TILE, C), tl.float32)
        # One loop over the layers and the blocks of their hidden channels, so that the compiler can load the weights of
        # the next passes into shared memory while this one multiplies.
        for index in tl.range(LAYERS * BLOCKS, num_stages=STAGES):
            layer = index // BLOCKS
            block = index % BLOCKS
            delays = schedule + (2 + TAPS) * layer + 2
            first = tl.load(delays - 2)
            # A layer has one slot more than past inputs, so the slot that is written now is not read in this step: no
            # barrier is needed between layers, and the inputs of later layers may be loaded early.
            size = tl.load(delays) + 1
            now = (tl.load(delays - 1) + t) % size
            new = x.to(rings.dtype.element_ty)
            if TAPS > 1:
                tl.store(rings + (first + now).to(tl.int64) * SLOT, new, mask=(row >= 0)[:, None] & (block == 0))
            bias = biases + layer * 2 * H + block * BLOCK + unit[None, :]
            if STREAM_BIAS:
                bias = biases + (layer * streams + stream)[:, None] * (2 * H) + block * BLOCK + unit[None, :]
            tanh_input = tl.zeros((TILE, BLOCK), tl.float32) + tl.load(bias)
            sigmoid_input = tl.zeros((TILE, BLOCK), tl.float32) + tl.load(bias + H)
            if F > 0:
                weight = conditions + index * (2 * F * BLOCK) + tl.arange(0, F)[:, None] * BLOCK + unit[None, :]
                tanh_input = _product(feature, tl.load(weight), tanh_input)
                sigmoid_input = _product(feature, tl.load(weight + F * BLOCK), sigmoid_input)
            weight = weights + index * (TAPS * 2 * C * BLOCK) + channel[:, None] * BLOCK + unit[None, :]
            for tap in tl.static_range(TAPS - 1):
                slot = now - tl.load(delays + tap)
                slot = tl.where(slot < 0, slot + size, slot)
                old = tl.load(rings + (first + slot).to(tl.int64) * SLOT)
                tanh_input = _product(old, tl.load(weight + tap * 2 * C * BLOCK), tanh_input)
                sigmoid_input = _product(old, tl.load(weight + (tap * 2 + 1) * C * BLOCK), sigmoid_input)
            weight += (TAPS - 1) * 2 * C * BLOCK
            tanh_input = _product(new, tl.load(weight), tanh_input)
            sigmoid_input = _product(new, tl.load(weight + C * BLOCK), sigmoid_input)
            z = (2 * _sigmoid(2 * tanh_input) - 1) * _sigmoid(sigmoid_input)  # tanh(a) = 2 * sigmoid(2 * a) - 1
            hidden = (layer * H + block * BLOCK + unit)[:, None]
            y = _product(z, tl.load(skips + hidden * S + skip[None, :]), y)
            weight = tl.load(residuals + hidden * C + channel[None, :])
            bias = tl.load(residual_biases + layer * C + channel)[None, :]
            if BLOCKS == 1:
                x = (_product(z, weight, x) + bias) * residual_scale
            else:
                residual_sum = _product(z, weight, residual_sum)
                last = block == BLOCKS - 1
                x = tl.where(last, (x + residual_sum + bias) * residual_scale, x)
                residual_sum = tl.where(last, 0.0, residual_sum)
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
        # Which thread holds which element of a tensor differs from one operation to the next. So one thread may read in
        # the next step what another wrote above (inputs in the rings, the code), and one may overwrite in the next step
        # a slot that another has read in this one: the oldest input of a layer.
        tl.debug_barrier()
        t += 1


#: False under TRITON_INTERPRET=1, where kernels run on CPU tensors.
COMPILED = isinstance(sample_steps, triton.JITFunction)
