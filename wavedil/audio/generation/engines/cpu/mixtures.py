"""Sampling from a mixture in compiled code, as ``Mixture.sample`` does it. In float64, without allocation."""

import math

import numba
import numpy as np

from wavedil.audio.distributions.mixtures import SMALLEST
from wavedil.audio.generation.engines.cpu.specs import GAUSSIAN, LOGISTIC
from wavedil.ops.vector import PART

_ROOT_HALF = math.sqrt(0.5)
_ROOT_TAU = math.sqrt(2 * math.pi)


@numba.njit(**PART)
def _normal_quantile(v):
    """Inverse of the standard normal CDF, to the last digits.

    Halley's method, which cubes the error with each step, starting from the first terms of the expansion in the tail,
    x = -(y - ln(y sqrt(2 pi)) / y) with y = sqrt(-2 ln v), which is off by at most 0.3. It works in the tail of the
    smaller of v and 1 - v, which has more digits.
    """
    tail = min(v, 1 - v)
    y = math.sqrt(-2 * math.log(tail))
    x = math.log(y * _ROOT_TAU) / y - y
    for _ in range(4):
        error = (0.5 * math.erfc(-x * _ROOT_HALF) - tail) * _ROOT_TAU * math.exp(0.5 * x * x)
        x -= error / (1 + 0.5 * x * error)
    return x if v < 0.5 else -x


@numba.njit(**PART)
def _quantile(form, v):
    """Inverse CDF of a component with mean 0 and scale 1."""
    if form == LOGISTIC:
        return math.log(v) - math.log1p(-v)
    if form == GAUSSIAN:
        return _normal_quantile(v)
    return math.nan


@numba.njit(**PART)
def _encode(edges, x):
    """The code whose cell contains x: the number of edges <= x."""
    low, high = 0, len(edges)
    while low < high:
        middle = (low + high) // 2
        if edges[middle] <= x:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(**PART)
def _pick_component(logits, u, temperature, count):
    """The component that the uniform number u selects, and the position of u within its weight, in [0, 1)."""
    largest = logits[0]
    for k in range(1, count):
        largest = max(largest, logits[k])
    total = 0.0
    for k in range(count):
        total += math.exp((np.float64(logits[k]) - largest) / temperature)
    threshold, before, start, chosen, chosen_weight = u * total, 0.0, 0.0, 0, 1.0
    for k in range(count):
        weight = math.exp((np.float64(logits[k]) - largest) / temperature)
        if weight > 0:
            chosen, chosen_weight, start = k, weight, before
            if before + weight > threshold:
                break
        before += weight
    return chosen, (threshold - start) / chosen_weight


def sample_mixture(parameters, u, spec, temperature, top_k, top_p, scratch):
    """The code that a uniform u in [0, 1) picks. Compiled by its caller."""
    count = spec.components
    logits = parameters[: len(parameters) - 2 * count]  # empty for one component
    means, log_scales = parameters[len(logits) : len(logits) + count], parameters[len(logits) + count :]
    if temperature == 0:
        best = 0
        for k in range(1, len(logits)):
            best = k if logits[k] > logits[best] else best
        return _encode(spec.edges, np.float64(means[best]))
    chosen, v = 0, u
    if count > 1:
        chosen, v = _pick_component(logits, u, temperature, count)
    v = min(max(v, SMALLEST), 1 - SMALLEST)
    v = (1 - top_p) / 2 + top_p * v
    scale = temperature * math.exp(min(max(np.float64(log_scales[chosen]), spec.lowest), spec.highest))
    return _encode(spec.edges, means[chosen] + scale * _quantile(spec.form, v))
