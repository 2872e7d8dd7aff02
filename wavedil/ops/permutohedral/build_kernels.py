"""Numba kernels that build a permutohedral lattice. Imported only when they are used."""

import numpy as np

from wavedil.ops.vector import inner, loop

_EMPTY = -1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: multiplicative (Fibonacci) hashing
_0, _1, _HALF = np.float32(0), np.float32(1), np.float32(0.5)


@loop
def simplices(elevated, keys, weights, lowest, radix, corners, first, last):
    """``reference.simplices`` of points ``first`` to ``last``.

    Shapes: elevated ``(corners, points)``, keys and weights ``(points, corners)``. ``corners`` is a tuple of this
    length, so that the loops over corners have a constant length.
    """
    n = len(corners)
    size, inverse = np.float32(n), _1 / np.float32(n)
    base, rank, by_rank = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    rest, around = np.empty(n, np.float32), np.empty(n + 1, np.float32)
    step = radix.sum()
    for i in range(first, last):
        off = 0
        for j in range(n):
            nearest = np.rint(elevated[j, i] * inverse)
            rest[j] = elevated[j, i] - nearest * size
            base[j] = np.int64(nearest)
            off += base[j]
        for j in range(n):
            rank[j] = off
            around[j] = _0
        around[n] = _0
        for j in range(n):
            for k in range(j + 1, n):
                less = rest[j] < rest[k]
                rank[j] += less
                rank[k] += not less
        key = 0
        for j in range(n):
            turn = (rank[j] < 0) - (rank[j] >= n)
            rank[j] += turn * n
            base[j] = (base[j] + turn) * n
            height = (elevated[j, i] - np.float32(base[j])) * inverse
            around[n - 1 - rank[j]] += height
            around[n - rank[j]] -= height
            by_rank[rank[j]] = radix[j]
            key += (base[j] - lowest[j]) * radix[j]
        around[0] += _1 + around[n]
        for k in range(n):
            weights[i, k] = around[k]
            keys[i, k] = key
            key += step - n * by_rank[n - 1 - k]


@inner
def _slot(table, key):
    """The slot of a key in a hash table of 2^n slots with open addressing, or the empty slot to insert it into."""
    mask = len(table) - 1
    at = np.int64((np.uint64(key) * _MULTIPLIER) >> np.uint64(32)) & mask
    while table[at] != key and table[at] != _EMPTY:
        at = (at + 1) & mask
    return at


@loop
def number_vertices(keys, index):
    """Numbers the vertices from 1 in the order of the points; writes ``(points, corners)`` into index.

    Returns the hash table, the vertex number of each slot, the key of each vertex, and the number of vertices.
    """
    points, corners = keys.shape
    table, numbers = np.full(1 << 14, _EMPTY, np.int64), np.empty(1 << 14, np.int32)
    found = np.empty(1 + (1 << 13), np.int64)
    count = 0
    for i in range(points):
        for k in range(corners):
            key = keys[i, k]
            if i > 0 and keys[i - 1, k] == key:  # neighboring points mostly share corners
                index[i, k] = index[i - 1, k]
                continue
            at = _slot(table, key)
            if table[at] == _EMPTY:
                count += 1
                table[at], numbers[at], found[count] = key, count, key
            index[i, k] = numbers[at]
            if 2 * count == len(table):
                table, numbers = np.full(4 * count, _EMPTY, np.int64), np.empty(4 * count, np.int32)
                longer = np.empty(1 + 2 * count, np.int64)
                for m in range(1, count + 1):
                    longer[m] = found[m]
                    at = _slot(table, longer[m])
                    table[at], numbers[at] = longer[m], m
                found = longer
    return table, numbers, found, count


@loop
def find_neighbors(table, numbers, found, steps, neighbors):
    """Writes the next vertices up and down along each axis, or 0, into neighbors ``(axes, vertices + 1, 2)``."""
    for axis in range(len(steps)):
        neighbors[axis] = 0
        for m in range(1, neighbors.shape[1]):
            at = _slot(table, found[m] + steps[axis])
            if table[at] != _EMPTY:
                other = numbers[at]
                neighbors[axis, m, 0], neighbors[axis, other, 1] = other, m


@loop
def filter_ones(index, weights, neighbors, filtered):
    """Writes ``reference.lattice_filter`` of ones into filtered ``(points,)``."""
    points, corners = index.shape
    values = np.zeros(neighbors.shape[1], np.float32)
    for i in range(points):
        for k in range(corners):
            values[index[i, k]] += weights[i, k]
    for axis in range(corners):
        blurred = np.empty_like(values)
        blurred[0] = _0
        for m in range(1, len(values)):
            blurred[m] = values[m] + _HALF * (values[neighbors[axis, m, 0]] + values[neighbors[axis, m, 1]])
        values = blurred
    for i in range(points):
        total = _0
        for k in range(corners):
            total += weights[i, k] * values[index[i, k]]
        filtered[i] = total
