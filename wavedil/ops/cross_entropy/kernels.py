"""Numba loops of the cross entropy over rows of logits. Imported only when they are about to run."""

import math

import numpy as np

from wavedil.ops.vector import inner, loop, narrow, split_exp, widen

_LOWEST = np.float32(-80)  # exp of it and below is 1e-35 or less, beside a largest term of 1


@inner
def _exp(x, stored):
    scale, rest = split_exp(_LOWEST if x < _LOWEST else x, stored)
    return scale + scale * rest


# `logits` and `gradient` hold rows of `codes` numbers, float32 or bfloat16 as uint16; the others
# hold one number for each row.


@loop
def forward(logits, targets, nats, log_sums, codes, first, last):
    wide = np.empty(codes, np.float32)
    for i in range(first, last):
        row = logits[codes * i : codes * (i + 1)]
        for j in range(codes):
            wide[j] = widen(row[j])
        # Largest and sum by halving: vector code, and pairwise sums, which keep their digits.
        size = codes
        while size > 1:
            half = (size + 1) // 2
            lower, upper = wide[:half], wide[half:size]
            for j in range(size - half):
                lower[j] = upper[j] if upper[j] > lower[j] else lower[j]
            size = half
        highest = wide[0]
        for j in range(codes):
            wide[j] = _exp(widen(row[j]) - highest, highest)
        size = codes
        while size > 1:
            half = (size + 1) // 2
            lower, upper = wide[:half], wide[half:size]
            for j in range(size - half):
                lower[j] += upper[j]
            size = half
        log_sums[i] = highest + np.float32(math.log(wide[0]))
        nats[i] = log_sums[i] - widen(row[targets[i]])


@loop
def backward(logits, targets, log_sums, grad, gradient, codes, first, last):
    for i in range(first, last):
        row = logits[codes * i : codes * (i + 1)]
        out = gradient[codes * i : codes * (i + 1)]
        log_sum, factor = log_sums[i], grad[i]
        for j in range(codes):
            out[j] = narrow(factor * _exp(widen(row[j]) - log_sum, row[j]), out[j])
        target = targets[i]
        probability = _exp(widen(row[target]) - log_sum, row[target])
        out[target] = narrow(factor * (probability - np.float32(1)), out[target])
