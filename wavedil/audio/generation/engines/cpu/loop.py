"""The compiled loop: one for all architectures, kept on disk. Imported only when it is to run.

It takes streams sample by sample through front, layers, skip product and head, and draws codes. Nothing is allocated
inside. What a layer makes of its past is known some steps ahead (as many as its dilation), so it is made for a block of
steps in one product, which loads the weights of the past once per block. The rest follows the plan's text line by line.

Two threads may share one stream: each takes one half of the gates (and of the head's hidden layer), adds up its half of
the products over them, and they meet once a layer to exchange these sums. One thread adds the same two sums: so the
numbers are the same.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba.extending import overload

from wavedil.audio.generation.engines.cpu import choice, drawing, mixtures, pieces, products
from wavedil.audio.generation.engines.cpu.choice import choose
from wavedil.audio.generation.engines.cpu.drawing import CategoricalDrawing, MixtureDrawing
from wavedil.audio.generation.engines.cpu.mixtures import choose_amplitude
from wavedil.audio.generation.engines.cpu.pieces import meet, store
from wavedil.audio.generation.engines.cpu.products import product
from wavedil.ops.gate import kernels
from wavedil.ops.gate.kernels import gate_value
from wavedil.ops.vector import PART, address, inner, loop


class Buffers(NamedTuple):
    """Memory of the streams of one thread; two threads on one stream have the same ``sums`` and ``flags``."""

    rings: np.ndarray  # units (slots of all layers, batch, channels)
    recent: np.ndarray  # int64 (batch, taps): the last codes, oldest first
    x: np.ndarray  # float32 (batch, channels)
    ahead: np.ndarray  # float32 (rows of all layers' blocks, 4 * hidden)
    z: np.ndarray  # float32 (widest,)
    gates: np.ndarray  # units (half, batch, layers * hidden)
    y: np.ndarray  # units (batch, skip)
    wide: np.ndarray  # float32 (batch, 2 * head)
    hidden: np.ndarray  # units (half, batch, head)
    logits: np.ndarray  # float32 (batch, outputs)
    scratch: np.ndarray  # float32 (2, parameters)
    sums: np.ndarray  # float32 (parity, half, batch, widest)
    flags: np.ndarray  # int64 (2, 8): how far each thread has come


@inner
def _front(size, packed, buffers):
    """x of each stream, from its last codes."""
    taps = packed.tables.shape[0]
    for s in range(buffers.x.shape[0]):
        x = buffers.x[s]
        for c in range(size.channels):
            x[c] = packed.input_bias[c]
        for tap in range(taps):
            code = buffers.recent[s, tap]
            if len(packed.levels):
                level = packed.levels[code]
                for c in range(size.channels):
                    x[c] += level * packed.tables[tap, 0, c]
            else:
                for c in range(size.channels):
                    x[c] += packed.tables[tap, code, c]


@numba.njit(**PART)
def _past(kind, units, rings, bias, condition, layer, ahead, i, steps, time, first, columns):
    """Fills columns of ``ahead`` with bias, condition and past of the ``steps`` steps from ``i`` on."""
    dilation, taps, ring, slots = layer[0], layer[1], layer[2], layer[3]
    batch, count, width = rings.shape[1], rings.shape[2], ahead.shape[1]
    for step in range(steps):
        for s in range(batch):
            own = bias[s if len(bias) > 1 else 0]
            row = ahead[step * batch + s]
            for c in range(first, first + columns):
                row[c] = own[c]
    y, y_row = address(ahead) + 4 * first, 4 * width
    if layer[5] >= 0:
        k = condition.shape[2]
        w = units + 4 * (layer[5] + k * first)
        x = address(condition) + 4 * i * batch * k
        product(kind, w, x, 4 * k, y, y_row, k, columns, steps * batch)
    for tap in range(taps - 1):
        w = units + 4 * (layer[6] + tap * count * width + count * first)
        slot = (time + i - (taps - 1 - tap) * dilation) % slots
        done = 0
        while done < steps:  # the ring may end in between
            now = min(steps - done, slots - slot)
            x = address(rings) + 4 * (ring + slot) * batch * count
            product(kind, w, x, 4 * count, y + done * batch * y_row, y_row, count, columns, now * batch)
            done += now
            slot = 0


@numba.njit(**PART)
def _sum_up(kind, w, x, x_row, count, sums, bias, half):
    """One half's part of a product over both halves' inputs: ``sums = (bias, for half 0) + x @ w``."""
    width = len(bias)
    for s in range(sums.shape[0]):
        row = sums[s]
        for c in range(width):
            row[c] = bias[c] if half == 0 else np.float32(0)
    product(kind, w, x, x_row, address(sums), 4 * sums.shape[1], count, width, sums.shape[0])


@numba.njit(**PART)
def _gate(ahead, gates, first, count, scratch, half, halves, rounded):
    """z of the layer's streams as ``count`` units from ``first`` on, from its rows of ``[half: tanh, sigmoid]``."""
    width = ahead.shape[1] // 4
    z = scratch[:width]
    for h in range(half, half + halves):
        for s in range(gates.shape[1]):
            start = 2 * width * h
            a, b = ahead[s, start : start + width], ahead[s, start + width : start + 2 * width]
            for j in range(width):
                z[j] = gate_value(a[j], b[j], a[j])
            store(z, gates[h, s, first : first + count], rounded)


@numba.njit(**PART)
def _relu(a, b, out, scratch, rounded):
    """A row of the sum of two, rectified, as units."""
    row = scratch[: len(a)]
    for j in range(len(a)):
        row[j] = max(a[j] + b[j], np.float32(0))
    store(row, out, rounded)


@inner
def _layer(size, packed, buffers, bias, condition, index, rows, i, steps, time, half, halves, met):
    """One layer of one step: x goes on, gates are kept. Returns how often the threads have met."""
    kind, units = packed.units[0], address(packed.units)
    layer, x, gates = packed.layers[index], buffers.x, buffers.gates
    batch, count, of_gates = x.shape[0], buffers.rings.shape[2], gates.shape[2] // size.layers
    first, columns, block = 2 * size.hidden * half, 2 * size.hidden * halves, layer[4]
    if i % block == 0:
        ahead = min(block, steps - i)
        _past(kind, units, buffers.rings, bias, condition, layer, rows, i, ahead, time, first, columns)
    rows = rows[i % block * batch : (i % block + 1) * batch]
    now = buffers.rings[layer[2] + (time + i) % layer[3]]
    for s in range(batch):
        store(x[s], now[s], packed.rounded)
    w, y = units + 4 * (layer[7] + count * first), address(rows) + 4 * first
    product(kind, w, address(now), 4 * count, y, 4 * rows.shape[1], count, columns, batch)
    _gate(rows, gates, of_gates * index, of_gates, buffers.z, half, halves, packed.rounded)
    if layer[8] >= 0:
        met += 1
        both = buffers.sums[met % 2]
        for h in range(half, half + halves):
            w, z = units + 4 * (layer[8] + h * of_gates * size.channels), gates[h, :, of_gates * index :]
            _sum_up(kind, w, address(z), 4 * gates.shape[2], of_gates, both[h], packed.residual_bias[index], h)
        if halves == 1:
            meet(buffers.flags, half, met)
        for s in range(batch):
            a, b, out = both[0, s], both[1, s], x[s]
            for c in range(size.channels):
                out[c] = (out[c] + (a[c] + b[c])) * packed.residual_scale
    else:
        for s in range(batch):
            for c in range(size.channels):
                x[s, c] *= packed.residual_scale
    return met


@inner
def _head(size, packed, buffers, half, halves, met):
    """From the gates of all layers to ``logits``."""
    kind, units, rounded = packed.units[0], address(packed.units), packed.rounded
    gates, y, wide, hidden, logits = buffers.gates, buffers.y, buffers.wide, buffers.hidden, buffers.logits
    batch, depth = y.shape[0], gates.shape[2]
    met += 1
    both = buffers.sums[met % 2]
    for h in range(half, half + halves):
        w = units + 4 * (packed.skip + h * depth * size.skip)
        _sum_up(kind, w, address(gates[h]), 4 * depth, depth, both[h], packed.skip_bias, h)
    if halves == 1:
        meet(buffers.flags, half, met)
    first, columns = size.head * half, size.head * halves
    for s in range(batch):
        _relu(both[0, s, : size.skip], both[1, s, : size.skip], y[s], buffers.z, rounded)
        for c in range(first, first + columns):
            wide[s, c] = packed.head_bias[c]
    w, out = units + 4 * (packed.head + y.shape[1] * first), address(wide) + 4 * first
    product(kind, w, address(y), 4 * y.shape[1], out, 4 * wide.shape[1], y.shape[1], columns, batch)
    met += 1
    both = buffers.sums[met % 2]
    depth = hidden.shape[2]
    for h in range(half, half + halves):
        for s in range(batch):
            row = wide[s, size.head * h : size.head * (h + 1)]
            _relu(row, packed.nothing, hidden[h, s], buffers.z, rounded)
        w = units + 4 * (packed.out + h * depth * size.outputs)
        _sum_up(kind, w, address(hidden[h]), 4 * depth, depth, both[h], packed.out_bias, h)
    if halves == 1:
        meet(buffers.flags, half, met)
    for s in range(batch):
        a, b, out = both[0, s], both[1, s], logits[s]
        for c in range(size.outputs):
            out[c] = a[c] + b[c]
    return met


_DRAWS = {CategoricalDrawing: choose, MixtureDrawing: choose_amplitude}


def _draw(parameters, u, drawing, temperature, top_k, top_p, scratch):
    """The code that a uniform in [0, 1) picks, by the function for the type of ``drawing``."""
    raise NotImplementedError


@overload(_draw, strict=False, jit_options={"error_model": "numpy", "_nrt": False})
def _(parameters, u, drawing, temperature, top_k, top_p, scratch):
    return _DRAWS[drawing.instance_class]


@loop(
    parts=(choice, drawing, mixtures, pieces, products, kernels),
    announce="the sampler for this precision, some 20 seconds",
    _nrt=False,
    fastmath=False,
)
def run(size, packed, buffers, bias, condition, uniforms, codes, forced, parameters, settings, time, half, halves):
    """Draws ``codes`` (time, streams), or, where ``forced``, writes ``parameters`` (time, streams, parameters).

    With guidance the batch has two rows for each stream: s with its conditioning, ``streams + s`` without.
    This thread makes ``halves`` halves from ``half`` on: both, or one of them beside another thread.
    """
    temperature, top_k, top_p, guidance = settings
    steps, streams = codes.shape
    recent, logits, batch = buffers.recent, buffers.logits, buffers.logits.shape[0]
    met = buffers.flags[half, 0]
    for i in range(steps):
        _front(size, packed, buffers)
        at = 0
        for index in range(size.layers):
            rows = buffers.ahead[at : at + packed.layers[index, 4] * batch]
            at += len(rows)
            met = _layer(size, packed, buffers, bias[index], condition, index, rows, i, steps, time, half, halves, met)
        met = _head(size, packed, buffers, half, halves, met)
        for s in range(streams):
            own = logits[s, : size.num_parameters]
            if guidance != 1:
                other = logits[streams + s]
                for c in range(size.num_parameters):
                    own[c] = other[c] + guidance * (own[c] - other[c])
            if forced:
                for c in range(size.num_parameters):
                    parameters[i, s, c] = own[c]
            else:
                codes[i, s] = _draw(own, uniforms[i, s], packed.drawing, temperature, top_k, top_p, buffers.scratch)
            for row in range(s, batch, streams):
                for tap in range(recent.shape[1] - 1):
                    recent[row, tap] = recent[row, tap + 1]
                recent[row, -1] = codes[i, s]
