"""Numba kernels of the cross entropy. Imported only when they are used.

``logits`` and ``gradient`` hold rows of ``num_classes`` numbers, float32 or bfloat16 as uint16; the other arrays hold
one number per row. ``first`` and ``last`` are the range of rows.
"""

import math

import numpy as np

from wavedil.ops.vector import inner, loop, narrow, split_exp, widen

_LOWEST = np.float32(-80)  # exp(-80) is 1e-35, negligible next to the largest term, 1


@inner
def _exp(x, stored):
    scale, rest = split_exp(_LOWEST if x < _LOWEST else x, stored)
    return scale + scale * rest


@loop
def forward(logits, targets, nats, log_sums, num_classes, first, last):
    wide = np.empty(num_classes, np.float32)
    for i in range(first, last):
        row = logits[num_classes * i : num_classes * (i + 1)]
        for j in range(num_classes):
            wide[j] = widen(row[j])
        # Maximum and sum by halving: LLVM vectorizes it, and pairwise sums are accurate.
        size = num_classes
        while size > 1:
            half = (size + 1) // 2
            lower, upper = wide[:half], wide[half:size]
            for j in range(size - half):
                lower[j] = upper[j] if upper[j] > lower[j] else lower[j]
            size = half
        highest = wide[0]
        for j in range(num_classes):
            wide[j] = _exp(widen(row[j]) - highest, highest)
        size = num_classes
        while size > 1:
            half = (size + 1) // 2
            lower, upper = wide[:half], wide[half:size]
            for j in range(size - half):
                lower[j] += upper[j]
            size = half
        log_sums[i] = highest + np.float32(math.log(wide[0]))
        nats[i] = log_sums[i] - widen(row[targets[i]])


@loop
def backward(logits, targets, log_sums, grad, gradient, num_classes, first, last):
    for i in range(first, last):
        row = logits[num_classes * i : num_classes * (i + 1)]
        out = gradient[num_classes * i : num_classes * (i + 1)]
        log_sum, factor = log_sums[i], grad[i]
        for j in range(num_classes):
            out[j] = narrow(factor * _exp(widen(row[j]) - log_sum, row[j]), out[j])
        target = targets[i]
        probability = _exp(widen(row[target]) - log_sum, row[target])
        out[target] = narrow(factor * (probability - np.float32(1)), out[target])
