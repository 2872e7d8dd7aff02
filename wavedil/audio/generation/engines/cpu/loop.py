"""The compiled loop: one for all architectures, cached on disk. Imported only when it is about to run.

It takes streams sample by sample through embedding, layers, skip product and head, and draws codes. It allocates
nothing. The arithmetic is that at the top of ``plan.py``, with one difference in order: the products of a layer with
its past inputs can be computed some steps early (as many as its smallest delay). So they are computed for a block of
steps as one product, which loads their weights once per block.

Two threads can share one stream. Each computes one half of the gates (and of the head's hidden layer) and its half of
the products with them; after each layer they exchange these partial sums. A single thread adds the same two partial
sums, so the numbers are the same.
"""

import numba
import numpy as np
from numba.extending import overload

from wavedil.audio.generation.engines.cpu import arithmetic, categorical, layout, mixtures, primitives, products, specs
from wavedil.audio.generation.engines.cpu.categorical import sample_categorical
from wavedil.audio.generation.engines.cpu.layout import (
    BLOCK,
    CONDITION,
    CURRENT,
    DELAYS,
    PAST,
    RESIDUAL,
    RING,
    SLOTS,
    TAPS,
)
from wavedil.audio.generation.engines.cpu.mixtures import sample_mixture
from wavedil.audio.generation.engines.cpu.primitives import (
    INFINITE,
    barrier,
    gate,
    largest_bits,
    num_scales,
    store,
    store_gates,
)
from wavedil.audio.generation.engines.cpu.products import product
from wavedil.audio.generation.engines.cpu.specs import CategoricalSpec, MixtureSpec
from wavedil.ops.gate import kernels
from wavedil.ops.vector import PART, address, inner, loop

_NO_STEP = np.int64(0)  # not a literal, for which the product would be compiled again


@inner
def _embed(widths, weights, buffers):
    """Computes x of each stream from its last codes."""
    taps = weights.tables.shape[0]
    for s in range(buffers.x.shape[0]):
        x = buffers.x[s]
        for c in range(widths.channels):
            x[c] = weights.input_bias[c]
        for tap in range(taps):
            code = buffers.recent[s, tap]
            if len(weights.levels):
                level = weights.levels[code]
                for c in range(widths.channels):
                    x[c] += level * weights.tables[tap, 0, c]
            else:
                for c in range(widths.channels):
                    x[c] += weights.tables[tap, code, c]


@numba.njit(**PART)
def _copy(values, out):
    """A loop that LLVM vectorizes; inlined into others, it would become gathers."""
    for i in range(len(out)):
        out[i] = values[i]


@numba.njit(**PART)
def _start_block(
    kind, words, starts, rings, bias, condition, layer, delays, gate_inputs, i, steps, time, first_half, num_halves
):
    """Sets ``gate_inputs`` of some halves to bias + condition + past inputs, for ``steps`` steps from step i on."""
    taps, ring, slots = layer[TAPS], layer[RING], layer[SLOTS]
    batch, row_bytes, half = rings.shape[1], 4 * rings.shape[2], gate_inputs.shape[1] // 2
    first, columns = half * first_half, half * num_halves
    count = rings.shape[2] - num_scales(kind)
    for row in range(steps * batch):
        _copy(bias[row % len(bias)][first : first + columns], gate_inputs[row][first : first + columns])
    y, y_row = address(gate_inputs) + 4 * first, 8 * half
    if layer[CONDITION] >= 0:
        k, x_row = condition.shape[2] - num_scales(kind), 4 * condition.shape[2]
        x, start = address(condition) + i * batch * x_row, starts[layer[CONDITION] + first_half]
        product(kind, words, start, x, x_row, x + 4 * k, x_row, y, y_row, k, columns, steps * batch)
    for tap in range(taps - 1):
        start = starts[layer[PAST] + (3 - num_halves) * tap + first_half]
        slot = (time + i - delays[layer[DELAYS] + tap]) % slots
        done = 0
        while done < steps:  # in two parts if the ring buffer wraps around in between
            now = min(steps - done, slots - slot)
            x, out = address(rings) + (ring + slot) * batch * row_bytes, y + done * batch * y_row
            product(kind, words, start, x, row_bytes, x + 4 * count, row_bytes, out, y_row, count, columns, now * batch)
            done += now
            slot = 0


@numba.njit(**PART)
def _half_product(kind, words, start, x, x_row, scale, scale_row, count, sums, bias, half):
    """One half of a product whose inputs are cut into halves: ``sums = (bias if half is 0) + x @ w``."""
    width = len(bias)
    for s in range(sums.shape[0]):
        row = sums[s]
        for c in range(width):
            row[c] = bias[c] if half == 0 else np.float32(0)
    y, y_row = address(sums), 4 * sums.shape[1]
    product(kind, words, start, x, x_row, scale, scale_row, y, y_row, count, width, sums.shape[0])


@numba.njit(**PART, fastmath={"contract"})
def _gate(kind, gate_inputs, gates, first, count, scratch, first_half, num_halves, rounded):
    """Stores tanh * sigmoid of the layer's streams as ``count`` words of ``gates`` from ``first`` on."""
    width = gate_inputs.shape[1] // 4
    z = scratch[:width]
    for h in range(first_half, first_half + num_halves):
        for s in range(gates.shape[1]):
            start = 2 * width * h
            a, b = gate_inputs[s, start : start + width], gate_inputs[s, start + width : start + 2 * width]
            for j in range(width):
                z[j] = gate(a[j], b[j], kind)
            store_gates(z, gates[h, s, first : first + count], rounded)


@numba.njit(**PART)
def _relu(a, b, out, scratch, rounded):
    """Stores relu(a + b) as words."""
    row = scratch[: len(a)]
    for j in range(len(a)):
        row[j] = max(a[j] + b[j], np.float32(0))
    store(row, out, rounded)


@inner
def _layer(
    widths, weights, buffers, bias, condition, index, gate_inputs, i, steps, time, first_half, num_halves, barriers
):
    """One step of one layer: updates x and keeps the gates. Returns the barrier count."""
    kind, words, starts = weights.words[0], address(weights.words), weights.starts
    layer, x, gates = weights.layers[index], buffers.x, buffers.gates
    batch, gate_words = x.shape[0], gates.shape[2] // widths.layers
    count, row_bytes = buffers.rings.shape[2] - num_scales(kind), 4 * buffers.rings.shape[2]
    first, columns, block = 2 * widths.hidden * first_half, 2 * widths.hidden * num_halves, layer[BLOCK]
    if i % block == 0:
        _start_block(
            kind, words, starts, buffers.rings, bias, condition, layer, weights.delays, gate_inputs, i,
            min(block, steps - i), time, first_half, num_halves,
        )  # fmt: skip
    gate_inputs = gate_inputs[i % block * batch : (i % block + 1) * batch]
    now = buffers.rings[layer[RING] + (time + i) % layer[SLOTS]]
    for s in range(batch):
        store(x[s], now[s], weights.rounded)
    start, y = starts[layer[CURRENT] + first_half], address(gate_inputs) + 4 * first
    scale, y_row = address(now) + 4 * count, 4 * gate_inputs.shape[1]
    product(kind, words, start, address(now), row_bytes, scale, row_bytes, y, y_row, count, columns, batch)
    _gate(
        kind, gate_inputs, gates, gate_words * index, gate_words, buffers.row, first_half, num_halves, weights.rounded
    )
    if layer[RESIDUAL] >= 0:
        barriers += 1
        both = buffers.sums[barriers % 2]
        for h in range(first_half, first_half + num_halves):
            start, unit, residual_bias = starts[layer[RESIDUAL] + h], address(weights.unit), weights.residual_bias
            z, z_row = address(gates[h, :, gate_words * index :]), 4 * gates.shape[2]
            _half_product(kind, words, start, z, z_row, unit, _NO_STEP, gate_words, both[h], residual_bias[index], h)
        if num_halves == 1:
            barrier(buffers.flags, first_half, barriers)
        for s in range(batch):
            a, b, out = both[0, s], both[1, s], x[s]
            for c in range(widths.channels):
                out[c] = (out[c] + (a[c] + b[c])) * weights.residual_scale
    else:
        for s in range(batch):
            for c in range(widths.channels):
                x[s, c] *= weights.residual_scale
    return barriers


@inner
def _head(widths, weights, buffers, first_half, num_halves, barriers):
    """Skip product and head: from the gates of all layers to ``logits``. Returns the barrier count."""
    kind, words, rounded = weights.words[0], address(weights.words), weights.rounded
    starts, gates, skips, hidden, logits = weights.starts, buffers.gates, buffers.skips, buffers.hidden, buffers.logits
    head_inputs = buffers.head_inputs
    batch, depth = skips.shape[0], gates.shape[2]
    barriers += 1
    both = buffers.sums[barriers % 2]
    for h in range(first_half, first_half + num_halves):
        start, x, unit = starts[weights.skip + h], address(gates[h]), address(weights.unit)
        _half_product(kind, words, start, x, 4 * depth, unit, _NO_STEP, depth, both[h], weights.skip_bias, h)
    if num_halves == 1:
        barrier(buffers.flags, first_half, barriers)
    first, columns = widths.head * first_half, widths.head * num_halves
    for s in range(batch):
        _relu(both[0, s, : widths.skip], both[1, s, : widths.skip], skips[s], buffers.row, rounded)
        for c in range(first, first + columns):
            head_inputs[s, c] = weights.head_bias[c]
    depth, x, x_row = skips.shape[1] - num_scales(kind), address(skips), 4 * skips.shape[1]
    start, out = starts[weights.head + first_half], address(head_inputs) + 4 * first
    product(kind, words, start, x, x_row, x + 4 * depth, x_row, out, 4 * head_inputs.shape[1], depth, columns, batch)
    barriers += 1
    both = buffers.sums[barriers % 2]
    depth, x_row = hidden.shape[2] - num_scales(kind), 4 * hidden.shape[2]
    for h in range(first_half, first_half + num_halves):
        for s in range(batch):
            row = head_inputs[s, widths.head * h : widths.head * (h + 1)]
            _relu(row, weights.zeros, hidden[h, s], buffers.row, rounded)
        start, x = starts[weights.out + h], address(hidden[h])
        _half_product(kind, words, start, x, x_row, x + 4 * depth, x_row, depth, both[h], weights.out_bias, h)
    if num_halves == 1:
        barrier(buffers.flags, first_half, barriers)
    for s in range(batch):
        a, b, out = both[0, s], both[1, s], logits[s]
        for c in range(widths.outputs):
            out[c] = a[c] + b[c]
        if num_scales(kind) and largest_bits(buffers.x[s]) >= INFINITE:  # which int8 numbers cannot express
            out[:] = np.float32(np.nan)
    return barriers


_SAMPLERS = {CategoricalSpec: sample_categorical, MixtureSpec: sample_mixture}


def _draw(parameters, u, spec, temperature, top_k, top_p, scratch):
    """The code that a uniform u in [0, 1) picks, by the sampler for the type of ``spec``."""
    raise NotImplementedError


@overload(_draw, strict=False, jit_options={"error_model": "numpy", "_nrt": False})
def _(parameters, u, spec, temperature, top_k, top_p, scratch):
    return _SAMPLERS[spec.instance_class]


@loop(
    parts=(arithmetic, categorical, layout, mixtures, primitives, products, specs, kernels),
    announce="the sampler for this precision, some 20 seconds",
    _nrt=False,
    fastmath=False,
)
def sample_steps(
    widths, weights, buffers, bias, condition, uniforms, codes, forced, parameters, settings, time, first_half,
    num_halves,
):  # fmt: skip
    """Draws ``codes`` (time, streams) or, if ``forced``, writes ``parameters`` (time, streams, parameters) of codes.

    With guidance the batch has two rows for each stream: row s with its conditioning, row ``streams + s`` without.
    This thread computes ``num_halves`` halves from ``first_half`` on: both, or one of them beside another thread.
    """
    temperature, top_k, top_p, guidance = settings
    steps, streams = codes.shape
    recent, logits, batch = buffers.recent, buffers.logits, buffers.logits.shape[0]
    barriers = buffers.flags[first_half, 0]
    for i in range(steps):
        _embed(widths, weights, buffers)
        at = 0
        for index in range(widths.layers):
            rows = buffers.gate_inputs[at : at + weights.layers[index, BLOCK] * batch]
            at += len(rows)
            barriers = _layer(
                widths, weights, buffers, bias[index], condition, index, rows, i, steps, time, first_half, num_halves,
                barriers,
            )  # fmt: skip
        barriers = _head(widths, weights, buffers, first_half, num_halves, barriers)
        for s in range(streams):
            guided = logits[s, : widths.num_parameters]
            if guidance != 1:
                unguided = logits[streams + s]
                for c in range(widths.num_parameters):
                    guided[c] = unguided[c] + guidance * (guided[c] - unguided[c])
            if forced:
                for c in range(widths.num_parameters):
                    parameters[i, s, c] = guided[c]
            else:
                codes[i, s] = _draw(guided, uniforms[i, s], weights.spec, temperature, top_k, top_p, buffers.scratch)
            for row in range(s, batch, streams):
                for tap in range(recent.shape[1] - 1):
                    recent[row, tap] = recent[row, tap + 1]
                recent[row, -1] = codes[i, s]
