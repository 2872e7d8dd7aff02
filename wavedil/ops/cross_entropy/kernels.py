"""Numba loops of the cross entropy over rows of logits. Imported only when they are about to run."""

import math

import numpy as np

from wavedil.ops.vector import inner, loop, narrow, split_exp, widen

_LANES = 16  # partial sums, so that one addition need not wait for the one before it
_LOWEST = np.float32(-80)  # exp of it and below is 1e-35 or less, beside a largest term of 1


@inner
def _exp(x):  # type: ignore[no-untyped-def]
    scale, rest = split_exp(_LOWEST if x < _LOWEST else x)
    return scale + scale * rest


# `logits` and `gradient` hold rows of `codes` numbers, float32 or bfloat16 as uint16; the others
# hold one number for each row.


@loop
def forward(logits, targets, nats, log_sums, codes, first, last):  # type: ignore[no-untyped-def]
    wide = np.empty((codes + _LANES - 1) // _LANES * _LANES, np.float32)
    lanes = np.empty(_LANES, np.float32)
    for i in range(first, last):
        row = logits[codes * i : codes * (i + 1)]
        wide[codes:] = -np.inf
        for j in range(codes):
            wide[j] = widen(row[j])
        lanes[:] = wide[:_LANES]
        for start in range(_LANES, wide.size, _LANES):
            part = wide[start : start + _LANES]
            for j in range(_LANES):
                # Written so that NaN, once there, stays.
                lanes[j] = lanes[j] if part[j] <= lanes[j] else part[j]
        highest = lanes[0]
        for j in range(1, _LANES):
            highest = highest if lanes[j] <= highest else lanes[j]
        lanes[:] = 0
        for start in range(0, wide.size, _LANES):
            part = wide[start : start + _LANES]
            for j in range(_LANES):
                lanes[j] += _exp(part[j] - highest)
        total = np.float32(0)
        for j in range(_LANES):
            total += lanes[j]
        log_sums[i] = highest + np.float32(math.log(total))
        nats[i] = log_sums[i] - wide[targets[i]]


@loop
def backward(logits, targets, log_sums, grad, gradient, codes, first, last):  # type: ignore[no-untyped-def]
    for i in range(first, last):
        row = logits[codes * i : codes * (i + 1)]
        out = gradient[codes * i : codes * (i + 1)]
        log_sum, factor = log_sums[i], grad[i]
        for j in range(codes):
            out[j] = narrow(factor * _exp(widen(row[j]) - log_sum), out[j])
        target = targets[i]
        probability = _exp(widen(row[target]) - log_sum)
        out[target] = narrow(factor * (probability - np.float32(1)), out[target])
