"""Numba loops of the gate over rows of channels. Imported only when they are about to run.

Written so that LLVM turns the inner loop into vector code: plain arithmetic without branches or
calls, slices instead of computed indices, and no check for division by zero. bfloat16 comes as
uint16 and is the upper half of a float32; the way back rounds to the nearest, ties to even.
"""

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic, overload

_f = np.float32
_LOG2_E = _f(1.4426950408889634)
_TO_INTEGER = _f(1.5 * 2**23)  # adding it rounds to an integer and leaves that in the low bits
_LN2_HIGH = _f(0.693359375)  # ln 2 in two parts: n * high is exact
_LN2_LOW = _f(0.6931471805599453 - 0.693359375)
_1, _2, _4, _40, _80 = (_f(n) for n in (1, 2, 4, 40, 80))
_F2, _F3, _F4, _F5, _F6, _F7 = (_f(1 / n) for n in (2, 6, 24, 120, 720, 5040))

_inner = numba.njit(inline="always", error_model="numpy")


def _loop(function):  # type: ignore[no-untyped-def]
    """Compiles an outer loop; kept on disk for the next process where a place can be written."""
    # "contract" lets a*b+c become one instruction; NaN and infinity keep their meaning.
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache
        return numba.njit(**options)(function)


@intrinsic
def _bits(typing_context, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@intrinsic
def _float(typing_context, value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


def _widen(value):  # type: ignore[no-untyped-def]
    """float32 from a stored number."""
    raise NotImplementedError


def _narrow(x, stored):  # type: ignore[no-untyped-def]
    """float32 as a number of the stored kind."""
    raise NotImplementedError


@overload(_widen, jit_options={"error_model": "numpy"})
def _(value):  # type: ignore[no-untyped-def]
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: _float(np.uint32(value) << np.uint32(16))


@overload(_narrow, jit_options={"error_model": "numpy"})
def _(x, stored):  # type: ignore[no-untyped-def]
    if isinstance(stored, types.Float):
        return lambda x, stored: x

    def narrow(x, stored):  # type: ignore[no-untyped-def]
        b = _bits(x)
        odd = (b >> np.uint32(16)) & np.uint32(1)
        rounded = (b + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        return np.uint16(np.uint32(0x7FC0) if x != x else rounded)

    return narrow


@_inner
def _split_exp(x):  # type: ignore[no-untyped-def]
    """`exp(x) = scale * (1 + rest)`, scale a power of two and |rest| < 0.42, for |x| <= 80."""
    shifted = x * _LOG2_E + _TO_INTEGER
    n = shifted - _TO_INTEGER
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    rest = r + r * r * (_F2 + r * (_F3 + r * (_F4 + r * (_F5 + r * (_F6 + r * _F7)))))
    return _float((_bits(shifted) + np.uint32(127)) << np.uint32(23)), rest


@_inner
def _parts(a, b):  # type: ignore[no-untyped-def]
    """`u = exp(-2|a|)`, `v = 1 - u` without cancellation, and `w = exp(-b)`.

    Then tanh|a| = v / (2 - v) and sigmoid(b) = 1 / (1 + w). Beyond |a| = 40 and |b| = 80 both are
    held: tanh is 1 there and the sigmoid 1 or below 2e-35. Comparisons let NaN through.
    """
    z = abs(a)
    z = _40 if z > _40 else z
    scale, rest = _split_exp(-_2 * z)
    u = scale + scale * rest
    v = -(scale * rest + (scale - _1))
    c = -b
    c = _80 if c > _80 else c
    c = -_80 if c < -_80 else c
    scale, rest = _split_exp(c)
    return u, v, scale + scale * rest


@_inner
def _gate(a, b):  # type: ignore[no-untyped-def]
    u, v, w = _parts(a, b)
    g = v / ((_2 - v) * (_1 + w))
    return -g if a < _f(0) else g


@_inner
def _gate_gradient(a, b, d):  # type: ignore[no-untyped-def]
    u, v, w = _parts(a, b)
    q = _1 / ((_2 - v) * (_1 + w))  # one division for everything below
    sigmoid = q * (_2 - v)
    product = v * q  # tanh|a| * sigmoid(b)
    product = -product if a < _f(0) else product
    half = q * (_1 + w)  # 1 / (1 + u); 1 - tanh^2 = 4 u / (1 + u)^2
    return d * sigmoid * (_4 * u) * half * half, d * product * (sigmoid * w)


# `h` and `dh` hold rows of 2 * channels numbers, tanh's half from `t` on and the sigmoid's from `s`
# on; `g` and `d` hold rows of `channels`; all of them float32, or bfloat16 as uint16. `sums`
# (float32) takes up the sums of the rows of dh: the gradient of a bias that was added to h. It has
# a loop of its own, since LLVM vectorises a loop only while it can tell cheaply that its few
# arrays do not overlap.


@_loop
def forward(h, g, channels, t, s, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        row = 2 * channels * i
        a, b = h[row + t : row + t + channels], h[row + s : row + s + channels]
        out = g[channels * i : channels * (i + 1)]
        for j in range(channels):
            out[j] = _narrow(_gate(_widen(a[j]), _widen(b[j])), out[j])


@_loop
def backward(h, d, dh, sums, channels, t, s, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        row = 2 * channels * i
        a, b = h[row + t : row + t + channels], h[row + s : row + s + channels]
        da, db = dh[row + t : row + t + channels], dh[row + s : row + s + channels]
        grad = d[channels * i : channels * (i + 1)]
        for j in range(channels):
            x, y = _gate_gradient(_widen(a[j]), _widen(b[j]), _widen(grad[j]))
            da[j] = _narrow(x, da[j])
            db[j] = _narrow(y, db[j])
        out = dh[row : row + 2 * channels]
        for j in range(2 * channels):
            sums[j] += _widen(out[j])
