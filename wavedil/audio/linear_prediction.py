"""Interpolation of missing samples by linear prediction.

Source: Janssen, Veldhuis & Vries 1986, doi 10.1109/TASSP.1986.1164824.

The missing samples are chosen to minimize the squared prediction error, given the samples on both sides. Each iteration
computes first the prediction coefficients, then the samples.
"""

import numpy as np

ORDER_MS = 8.0  # coefficients: long enough for the period of most voices
MAX_ORDER = 512
CONTEXT_MS = 100.0  # of sound on each side of a gap
ITERATIONS = 3
_FLOOR = 1e-9  # relative noise that keeps the equations solvable


def interpolate(sound: np.ndarray, start: int, stop: int, sample_rate: int) -> np.ndarray:
    """The missing samples from ``start`` to ``stop``, float64.

    Args:
        sound: float64 ``(time,)``; the values in the gap are ignored.
        start, stop: a gap that leaves at least one sample.
        sample_rate: in Hz.
    """
    context = round(CONTEXT_MS * sample_rate / 1000)
    first = max(0, start - context)
    part = sound[first : stop + context].copy()
    gap = slice(start - first, stop - first)
    part[gap] = 0
    known = len(part) - (stop - start)
    order = max(1, min(round(ORDER_MS * sample_rate / 1000), MAX_ORDER, known // 4))
    for _ in range(ITERATIONS):
        part[gap] = _least_error(part, gap.start, gap.stop, _coefficients(part, order))
    return part[gap]


def _coefficients(sound: np.ndarray, order: int) -> np.ndarray:
    """``(order + 1,)``: the error filter, which starts with 1, by the autocorrelation method."""
    from scipy.linalg import solve_toeplitz

    windowed = sound * np.hanning(len(sound) + 2)[1:-1]
    power = np.abs(np.fft.rfft(windowed, 2 * len(sound))) ** 2
    correlation = np.fft.irfft(power, 2 * len(sound))[: order + 1]
    correlation[0] = correlation[0] * (1 + _FLOOR) + 1e-12
    return np.concatenate([[1.0], -solve_toeplitz(correlation[:-1], correlation[1:])])


def _least_error(sound: np.ndarray, start: int, stop: int, coefficients: np.ndarray) -> np.ndarray:
    """The samples from ``start`` to ``stop``, zero in ``sound``, with the least squared output of the error filter."""
    from scipy.linalg import solveh_banded

    order, length = len(coefficients) - 1, stop - start
    products = np.correlate(coefficients, coefficients, "full")  # lags -order to order
    sound = sound.copy()
    sound[start:stop] = 0
    around = np.pad(sound, order)[start : stop + 2 * order]
    lags = products[order : order + min(order, length - 1) + 1]
    bands = np.repeat(lags[:, None], length, 1)
    bands[0] *= 1 + _FLOOR
    return solveh_banded(bands, -np.convolve(around, products, "valid"), lower=True)
