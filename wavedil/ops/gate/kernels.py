"""Numba kernels of the gated activation. Imported only when they are used.

``h`` and ``dh`` hold rows of 2 * channels numbers, with the inputs of tanh at offset ``t`` and those of the sigmoid at
offset ``s``; ``g`` and ``d`` hold rows of ``channels`` numbers. All are flat arrays of float32, or bfloat16 as uint16.
``first`` and ``last`` are the range of rows.
"""

import numpy as np

from wavedil.ops.vector import inner, loop, narrow, split_exp, widen

_f = np.float32
_1, _2, _4, _40, _80 = (_f(n) for n in (1, 2, 4, 40, 80))


@inner
def _parts(a, b, stored):
    """``u = exp(-2|a|)``, ``v = 1 - u`` without cancellation, and ``w = exp(-b)``.

    Then tanh|a| = v / (2 - v) and sigmoid(b) = 1 / (1 + w). |a| is clipped at 40 and |b| at 80, where tanh is 1 and the
    sigmoid 1 or below 2e-35. The comparisons propagate NaN.
    """
    z = abs(a)
    z = _40 if z > _40 else z
    scale, rest = split_exp(-_2 * z, stored)
    u = scale + scale * rest
    v = -(scale * rest + (scale - _1))
    c = -b
    c = _80 if c > _80 else c
    c = -_80 if c < -_80 else c
    scale, rest = split_exp(c, stored)
    return u, v, scale + scale * rest


@inner
def gate_value(a, b, stored):
    """tanh(a) * sigmoid(b)."""
    u, v, w = _parts(a, b, stored)
    g = v / ((_2 - v) * (_1 + w))
    return -g if a < _f(0) else g


@inner
def _gate_gradient(a, b, d, stored):
    """Gradients of a and b from the gradient d of the gate."""
    u, v, w = _parts(a, b, stored)
    q = _1 / ((_2 - v) * (_1 + w))  # the only division
    sigmoid = q * (_2 - v)
    product = v * q  # tanh|a| * sigmoid(b)
    product = -product if a < _f(0) else product
    half = q * (_1 + w)  # 1 / (1 + u); 1 - tanh^2 = 4 u / (1 + u)^2
    return d * sigmoid * (_4 * u) * half * half, d * product * (sigmoid * w)


@loop
def forward(h, g, channels, t, s, first, last):
    for i in range(first, last):
        row = 2 * channels * i
        a, b = h[row + t : row + t + channels], h[row + s : row + s + channels]
        out = g[channels * i : channels * (i + 1)]
        for j in range(channels):
            out[j] = narrow(gate_value(widen(a[j]), widen(b[j]), a[j]), out[j])


@loop
def backward(h, d, dh, sums, channels, t, s, first, last):
    """Also adds the rows of ``dh`` to ``sums`` (float32): the gradient of a bias that was added to h."""
    for i in range(first, last):
        row = 2 * channels * i
        a, b = h[row + t : row + t + channels], h[row + s : row + s + channels]
        da, db = dh[row + t : row + t + channels], dh[row + s : row + s + channels]
        grad = d[channels * i : channels * (i + 1)]
        for j in range(channels):
            x, y = _gate_gradient(widen(a[j]), widen(b[j]), widen(grad[j]), a[j])
            da[j] = narrow(x, da[j])
            db[j] = narrow(y, db[j])
        # A separate loop, since LLVM vectorizes a loop only if it has few arrays to check for overlap.
        out = dh[row : row + 2 * channels]
        for j in range(2 * channels):
            sums[j] += widen(out[j])
