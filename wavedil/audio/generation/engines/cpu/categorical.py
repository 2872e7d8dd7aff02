"""Sampling from logits in compiled code, as ``Categorical.sample`` does it. Without allocation."""

import numba
import numpy as np

from wavedil.ops.vector import PART, inner, split_exp

_f = np.float32
_options = {**PART, "fastmath": {"contract"}}


@inner
def _exp(x):
    """exp of x <= 0, as float32; 0 below -80."""
    scale, rest = split_exp(max(x, _f(-80)), x)
    return _f(0) if x < _f(-80) else scale + scale * rest


@numba.njit(**_options)
def _weights(logits, temperature, weights):
    """exp((logit - largest) / temperature): the largest weight is 1."""
    largest = logits[0]
    for i in range(1, len(logits)):
        largest = max(largest, logits[i])
    inverse = _f(1 / temperature) if temperature > 1e-30 else _f(1e30)
    for i in range(len(logits)):
        weights[i] = _exp((logits[i] - largest) * inverse)


@numba.njit(**_options)
def _sort(values):
    """Sorts in ascending order and in place, by heapsort: numpy's sort would allocate."""
    start, end = len(values) // 2, len(values)
    while end > 1:
        if start > 0:  # the heap is still being built
            start -= 1
        else:
            end -= 1
            values[0], values[end] = values[end], values[0]
        place = start
        while 2 * place + 1 < end:
            child = 2 * place + 1
            if child + 1 < end and values[child + 1] > values[child]:
                child += 1
            if values[place] >= values[child]:
                break
            values[place], values[child] = values[child], values[place]
            place = child


@numba.njit(**_options)
def _truncate(weights, ordered, top_k, top_p):
    """Sets to 0 the weights that top-k and then nucleus sampling drop; ties with the smallest kept weight stay."""
    count = len(weights)
    for i in range(count):
        ordered[i] = weights[i]
    _sort(ordered)
    smallest = ordered[count - top_k] if 0 < top_k < count else ordered[0]
    if top_p < 1:
        total, place = 0.0, count - 1
        while place >= 0 and ordered[place] >= smallest:
            total += ordered[place]
            place -= 1
        kept, last = 0.0, count - 1
        while last > 0 and kept + ordered[last] < top_p * total:
            kept += ordered[last]
            last -= 1
        smallest = max(smallest, ordered[last])
    for i in range(count):
        if weights[i] < smallest:
            weights[i] = 0


_BLOCK = 16


@numba.njit(**_options)
def _inverse_cdf(weights, u):
    """The first code whose cumulative weight is above u times the total; -1 if the weights are NaN."""
    count = len(weights)
    total = 0.0
    for i in range(count):
        total += weights[i]
    threshold = u * total
    before, code, start = 0.0, -1, 0
    while start < count:
        stop = min(start + _BLOCK, count)
        block = 0.0
        for i in range(start, stop):
            block += weights[i]
        if before + block > threshold:
            for i in range(start, stop):
                if weights[i] > 0:
                    code = i
                    if before + weights[i] > threshold:
                        break
                    before += weights[i]
            break
        before += block
        start = stop
    if code < 0:  # rounding has lifted the threshold to the total: take the last code that has any weight
        for i in range(count):
            if weights[i] > 0:
                code = i
    return code


def sample_categorical(logits, u, spec, temperature, top_k, top_p, scratch):
    """The code that a uniform u in [0, 1) picks. Compiled by its caller; ``scratch`` is float32 (2, codes)."""
    if temperature == 0:
        best = 0
        for i in range(1, len(logits)):
            best = i if logits[i] > logits[best] else best
        return best
    weights = scratch[0]
    _weights(logits, temperature, weights)
    if top_k > 0 or top_p < 1:
        _truncate(weights, scratch[1], top_k, top_p)
    return _inverse_cdf(weights, u)
