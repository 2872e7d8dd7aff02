"""Counting paths: the arithmetic under `wavedil.core.gridding`, exact in integers.

Along one axis, a layer with kernel k and dilation d is a comb of k ones, d apart; the path counts of
a stack are the convolution of its layers' combs, and in several dimensions the outer product.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wavedil.errors import WavedilError

# Above this, counts beyond 64 bits would take minutes; no network in use comes near.
_MAX_BIG_INTEGER_WORK = 2**26

Counts = tuple[NDArray, ...]  # one array per axis


def path_counts(rates: tuple[int, ...], kernel: int) -> NDArray:
    """Paths by position along one axis. All counts sum to kernel**layers, which picks the integers."""
    field = 1 + (kernel - 1) * sum(rates)
    fits = kernel ** len(rates) < 2**63
    if not fits and len(rates) * field > _MAX_BIG_INTEGER_WORK:
        raise WavedilError(
            f"{len(rates)} layers over a field of {field} positions have path counts too large to "
            "audit; audit one period of the schedule instead"
        )
    counts = np.ones(1, dtype=np.int64 if fits else object)
    for rate in rates:
        wider = np.zeros(len(counts) + (kernel - 1) * rate, dtype=counts.dtype)
        for tap in range(kernel):
            wider[tap * rate : tap * rate + len(counts)] += counts
        counts = wider
    return counts


def placed(counts: NDArray, size: int, causal: bool) -> NDArray:
    """`counts` among `size` positions, at the end (causal) or in the middle."""
    spare = size - len(counts)
    before = spare if causal else (spare + 1) // 2
    return np.pad(counts, (before, spare - before))


def count_map(branches: Sequence[Counts]) -> NDArray:
    """Counts in all dimensions: the sum over branches of the outer product of their axes."""
    highest = sum(math.prod(int(axis.max()) for axis in counts) for counts in branches)
    dtype = np.int64 if highest < 2**63 else object
    total: NDArray = np.zeros((), dtype=dtype)
    for counts in branches:
        product: NDArray = np.ones((), dtype=dtype)
        for axis in counts:
            product = np.multiply.outer(product, axis.astype(dtype))
        total = total + product
    return total


def reached(branches: Sequence[Counts]) -> int:
    """Size of the union of the branches' boxes (products of axis sets), by adding one at a time.

    A product set minus the union of the earlier ones follows from inclusion and exclusion: every
    intersection is again a product set, so no map of all positions is made.
    """
    terms: list[tuple[int, tuple[NDArray, ...]]] = []
    for counts in branches:
        sets = tuple(axis > 0 for axis in counts)
        overlaps = [(-sign, tuple(a & b for a, b in zip(sets, other, strict=True))) for sign, other in terms]
        terms += [(1, sets), *overlaps]
    return sum(sign * math.prod(int(axis.sum()) for axis in sets) for sign, sets in terms)


def path_ratio(branches: Sequence[Counts]) -> float:
    """Largest over smallest count among the reached positions, in all dimensions."""
    if len(branches) == 1:
        high = math.prod(int(axis.max()) for axis in branches[0])
        low = math.prod(int(axis[axis > 0].min()) for axis in branches[0])
    else:
        # Positions where all branches count alike are one: a small map instead of the whole.
        axes = [sorted({tuple(c) for c in zip(*axis, strict=True)}) for axis in zip(*branches, strict=True)]
        high, low = 0, 0
        for first in axes[0]:
            slices = [
                tuple(np.array([c[b] for c in axis], dtype=object) for axis in ([first], *axes[1:]))
                for b in range(len(branches))
            ]
            total = count_map(slices)
            used = total[total > 0]
            if used.size:
                high = max(high, int(used.max()))
                low = min(low, int(used.min())) if low else int(used.min())
    try:
        return high / low
    except OverflowError:  # beyond a float: the whole part, exactly
        return high // low
