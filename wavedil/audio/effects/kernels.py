"""Numba loops of :class:`wavedil.audio.models.effect.Effect`. Imported only when they are about to run.

Each channel is one row of samples, so that a block is computed as long vectors: a product adds four rows at a time,
each multiplied by its weight, to a row of results.
"""

import numpy as np

from wavedil.ops.gate import kernels as gate_kernels
from wavedil.ops.gate.kernels import gate_value
from wavedil.ops.vector import inner, loop

_80 = np.float32(80)  # the sigmoid of 80 is 1, so a gate with it is a plain tanh
BLOCK = 128  # samples computed together; a layer's rows then stay in the first-level cache
ROOM = 8 * BLOCK  # samples that a history can append before its end is moved to its beginning


@inner
def _add_rows(out, weights, rows, first, stride, length):
    """out += sum over i of weights[i] * rows[first + i * stride :][:length]."""
    count = len(weights)
    i = 0
    while i + 4 <= count:
        at = first + i * stride
        a, b = rows[at : at + length], rows[at + stride : at + stride + length]
        at += 2 * stride
        c, d = rows[at : at + length], rows[at + stride : at + stride + length]
        p, q, r, s = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        for t in range(length):
            out[t] += (p * a[t] + q * b[t]) + (r * c[t] + s * d[t])
        i += 4
    while i < count:
        at = first + i * stride
        a, p = rows[at : at + length], weights[i]
        for t in range(length):
            out[t] += p * a[t]
        i += 1


@inner
def _fill(out, value, length):
    for t in range(length):
        out[t] = value


@loop(parts=(gate_kernels,))
def apply_effect(
    x, y, bias, charges, histories, position, input_weight, input_bias, decay, conv, residual, residual_bias, skip,
    skip_bias, hidden, hidden_bias, out, out_bias, dilations, offsets, scratch, gates,
):  # fmt: skip
    """Processes one audio channel, x ``(time,)`` to y ``(time,)``, and updates its state.

    The state is ``charges`` (filters,) of the one-pole filters, ``histories`` and ``position``. The history of layer n
    is ``channels`` rows of ``(taps - 1) * dilations[n] + ROOM`` samples from index ``offsets[n]`` on, of which
    ``position[0]`` samples of ROOM are used.

    Shapes of the weights: input_weight (channels, 1 + filters), conv (layers, 2 * hidden, taps, channels), residual
    (layers, channels, hidden) with the last layer unused, skip (skips, layers * hidden), hidden (head, skips),
    out (head,).
    """
    layers, double_width, taps, channels = conv.shape
    width = double_width // 2
    row_length = BLOCK
    for start in range(0, len(x), BLOCK):
        length = min(BLOCK, len(x) - start)
        if position[0] + length > ROOM:
            for n in range(layers):
                span = (taps - 1) * dilations[n]
                for c in range(channels):
                    row = offsets[n] + c * (span + ROOM)
                    for t in range(span):
                        histories[row + t] = histories[row + position[0] + t]
            position[0] = 0
        at = position[0]
        sound = scratch[:length]
        sound[:] = x[start : start + length]
        for f in range(len(decay)):
            row = scratch[(1 + f) * row_length : (1 + f) * row_length + length]
            value, a = charges[f], decay[f]
            for t in range(length):
                value = a * value + (np.float32(1) - a) * sound[t]
                row[t] = value
            charges[f] = value
        stride = (taps - 1) * dilations[0] + ROOM
        for c in range(channels):
            row = offsets[0] + c * stride + stride - ROOM + at
            into = histories[row : row + length]
            _fill(into, input_bias[c], length)
            _add_rows(into, input_weight[c], scratch, 0, row_length, length)
        for n in range(layers):
            dilation = dilations[n]
            stride = (taps - 1) * dilation + ROOM
            for j in range(width):
                a, b = scratch[:length], scratch[row_length : row_length + length]
                _fill(a, bias[n, j], length)
                _fill(b, bias[n, width + j], length)
                for tap in range(taps):
                    first = offsets[n] + at + tap * dilation
                    _add_rows(a, conv[n, j, tap], histories, first, stride, length)
                    _add_rows(b, conv[n, width + j, tap], histories, first, stride, length)
                row = (n * width + j) * row_length
                z = gates[row : row + length]
                for t in range(length):
                    z[t] = gate_value(a[t], b[t], a[t])
            if n + 1 < layers:
                next_stride = (taps - 1) * dilations[n + 1] + ROOM
                for c in range(channels):
                    row = offsets[n] + c * stride + stride - ROOM + at
                    source = histories[row : row + length]
                    row = offsets[n + 1] + c * next_stride + next_stride - ROOM + at
                    into = histories[row : row + length]
                    constant = residual_bias[n, c]
                    for t in range(length):
                        into[t] = source[t] + constant
                    _add_rows(into, residual[n, c], gates, n * width * row_length, row_length, length)
        skips = len(skip)
        for s in range(skips):
            row = scratch[s * row_length : s * row_length + length]
            _fill(row, skip_bias[s], length)
            _add_rows(row, skip[s], gates, 0, row_length, length)
        result = y[start : start + length]
        _fill(result, out_bias, length)
        for h in range(len(hidden)):
            row = scratch[(skips + h) * row_length : (skips + h) * row_length + length]
            _fill(row, hidden_bias[h], length)
            _add_rows(row, hidden[h], scratch, 0, row_length, length)
            weight = out[h]
            for t in range(length):
                result[t] += weight * gate_value(row[t], _80, row[t])
        position[0] = at + length
