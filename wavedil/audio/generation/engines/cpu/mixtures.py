"""From a mixture's parameters and a uniform to a code, as ``Mixture.sample`` does it. Float64, without allocation."""

import math

import numba
import numpy as np

from wavedil.audio.distributions.mixtures import SMALLEST
from wavedil.audio.generation.engines.cpu.drawing import LOGISTICS
from wavedil.ops.vector import PART

_ROOT_HALF = math.sqrt(0.5)
_ROOT_TAU = math.sqrt(2 * math.pi)


@numba.njit(**PART)
def _normal_quantile(v):
    """Inverse of the standard normal CDF, to the last digits: Halley's steps, which cube the error, from a start that
    is off by 0.3 at most, x = -(y - ln(y sqrt(2 pi)) / y) of y = sqrt(-2 ln v), the first terms far out.

    Of v and 1 - v the smaller keeps its digits, so the steps are in that tail.
    """
    tail = min(v, 1 - v)
    y = math.sqrt(-2 * math.log(tail))
    x = math.log(y * _ROOT_TAU) / y - y
    for _ in range(4):
        error = (0.5 * math.erfc(-x * _ROOT_HALF) - tail) * _ROOT_TAU * math.exp(0.5 * x * x)
        x -= error / (1 + 0.5 * x * error)
    return x if v < 0.5 else -x


@numba.njit(**PART)
def _quantile(kind, v):
    return math.log(v) - math.log1p(-v) if kind == LOGISTICS else _normal_quantile(v)


@numba.njit(**PART)
def _encode(edges, x):
    """The code whose cell holds x: how many edges are at most x."""
    low, high = 0, len(edges)
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= x:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(**PART)
def _component(logits, u, temperature, count):
    """The component that u picks, and the uniform that remains of u."""
    largest = logits[0]
    for k in range(1, count):
        largest = max(largest, logits[k])
    whole = 0.0
    for k in range(count):
        whole += math.exp((np.float64(logits[k]) - largest) / temperature)
    reached, before, start, chosen, weight = u * whole, 0.0, 0.0, 0, 1.0
    for k in range(count):
        own = math.exp((np.float64(logits[k]) - largest) / temperature)
        if own > 0:
            chosen, weight, start = k, own, before
            if before + own > reached:
                break
        before += own
    return chosen, (reached - start) / weight


def choose_amplitude(parameters, u, drawing, temperature, top_k, top_p, scratch):
    """The code that a uniform in [0, 1) picks. To be compiled by its caller."""
    count = drawing.components
    logits = parameters[: len(parameters) - 2 * count]  # none for one component
    means, log_scales = parameters[len(logits) : len(logits) + count], parameters[len(logits) + count :]
    if temperature == 0:
        best = 0
        for k in range(1, len(logits)):
            best = k if logits[k] > logits[best] else best
        return _encode(drawing.edges, np.float64(means[best]))
    chosen, v = 0, u
    if count > 1:
        chosen, v = _component(logits, u, temperature, count)
    v = min(max(v, SMALLEST), 1 - SMALLEST)
    v = (1 - top_p) / 2 + top_p * v
    scale = temperature * math.exp(min(max(np.float64(log_scales[chosen]), drawing.lowest), drawing.highest))
    return _encode(drawing.edges, means[chosen] + scale * _quantile(drawing.kind, v))
