"""Numba kernels that filter values on a permutohedral lattice. Imported only when they are used.

Each point and each vertex has a row of labels, float32, padded to a multiple of ``LANES``; all arrays are flat.
``index`` and ``weights`` hold ``corners`` entries per point; an entry of ``index`` is the offset of a vertex's row.
``corners`` is a tuple of this length, so that the loops over corners have a constant length.

Rows are processed as explicit LLVM vectors of ``LANES`` numbers: LLVM would not vectorize loops over labels, since rows
are short and the arrays could overlap.
"""

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from wavedil.ops.vector import inner, loop

LANES = 8
_FLOAT, _INTEGER = ir.FloatType(), ir.IntType(32)
_VECTOR, _INTEGERS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INTEGER, LANES)
_CONTRACT = ("contract",)  # a * b + c may become one instruction


class _Lanes(types.Type):
    """The numba type of an LLVM vector of ``LANES`` float32 numbers."""

    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


_lanes = _Lanes()


def _constant(number):
    """A vector of one constant."""
    kind = _INTEGER if isinstance(number, int) else _FLOAT
    return ir.Constant(ir.VectorType(kind, LANES), [ir.Constant(kind, number)] * LANES)


def _broadcast(builder, number):
    """A vector of one number."""
    first = builder.insert_element(_constant(0.0), number, ir.Constant(_INTEGER, 0))
    return builder.shuffle_vector(first, first, _constant(0))


def _multiply_add(builder, a, b, c):
    return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), c, flags=_CONTRACT)


def _maximum(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _pointer(context, builder, array_type, array, offset):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


@intrinsic
def load(typing_context, array, offset):
    """The vector at an offset of a flat array."""

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=4)

    return _lanes(array, types.intp), generate


@intrinsic
def store(typing_context, array, offset, lanes):
    """Writes a vector at an offset of a flat array."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], pointer, align=4)
        return context.get_dummy_value()

    return types.none(array, types.intp, lanes), generate


@intrinsic
def broadcast(typing_context, number):
    """A vector of one number."""

    def generate(context, builder, signature, arguments):
        return _broadcast(builder, arguments[0])

    return _lanes(types.float32), generate


@intrinsic
def multiply_add(typing_context, lanes, factor, summand):
    """``lanes * factor + summand`` with a scalar factor."""

    def generate(context, builder, signature, arguments):
        return _multiply_add(builder, arguments[0], _broadcast(builder, arguments[1]), arguments[2])

    return _lanes(lanes, types.float32, summand), generate


@intrinsic
def add(typing_context, a, b):
    """``a + b`` of vectors."""

    def generate(context, builder, signature, arguments):
        return builder.fadd(*arguments)

    return _lanes(a, b), generate


@intrinsic
def maximum(typing_context, a, b):
    """The larger number in each lane."""

    def generate(context, builder, signature, arguments):
        return _maximum(builder, *arguments)

    return _lanes(a, b), generate


def _reduction(combine):
    """A function that reduces a vector to one number, by halving."""

    @intrinsic
    def reduce(typing_context, lanes):
        def generate(context, builder, signature, arguments):
            (vector,) = arguments
            half = LANES // 2
            while half:
                turned = ir.Constant(_INTEGERS, [(i + half) % LANES for i in range(LANES)])
                vector = combine(builder, vector, builder.shuffle_vector(vector, vector, turned))
                half //= 2
            return builder.extract_element(vector, ir.Constant(_INTEGER, 0))

        return types.float32(lanes), generate

    return reduce


sum_lanes = _reduction(lambda builder, a, b: builder.fadd(a, b))
max_lane = _reduction(_maximum)


@intrinsic
def exp(typing_context, lanes):
    """exp of numbers from -60 to 0, as in ``wavedil/ops/vector.py``; 0 for smaller numbers.

    Those results are below 1e-26; on a lattice they would become denormal numbers, which are slow.
    """

    def generate(context, builder, signature, arguments):
        (x,) = arguments
        to_integer = _constant(1.5 * 2**23)  # adding it rounds to an integer, which is then in the low bits
        shifted = _multiply_add(builder, x, _constant(1.4426950408889634), to_integer)
        n = builder.fsub(shifted, to_integer)
        exponent = builder.add(builder.bitcast(shifted, _INTEGERS), _constant(127))
        scale = builder.bitcast(builder.shl(exponent, _constant(23)), _VECTOR)
        # ln 2 is a sum of two numbers, so that n times the first is exact.
        r = _multiply_add(builder, n, _constant(-0.693359375), x)
        r = _multiply_add(builder, n, _constant(0.693359375 - 0.6931471805599453), r)
        y = _constant(1 / 5040)
        for factorial in (720, 120, 24, 6, 2, 1, 1):
            y = _multiply_add(builder, y, r, _constant(1 / factorial))
        below = builder.fcmp_ordered("<", x, _constant(-60.0))
        return builder.select(below, _constant(0.0), builder.fmul(scale, y))

    return _lanes(lanes), generate


_0, _1, _HALF, _LOWEST = (np.float32(n) for n in (0, 1, 0.5, -3e38))


@inner
def _slice(initial, values, at, by, corners, g):
    """``initial`` plus the lanes at offset g of a point's vertices, weighted."""
    lanes = initial
    for v in range(len(corners)):
        lanes = multiply_add(load(values, at[v] + g), by[v], lanes)
    return lanes


@inner
def _splat(lanes, target, at, by, corners, g):
    """Adds lanes at offset g to a point's vertices, weighted."""
    for v in range(len(corners)):
        store(target, at[v] + g, multiply_add(lanes, by[v], load(target, at[v] + g)))


@loop
def splat(rows, target, index, weights, corners, width, first, last):
    """Adds each point's row to its vertices, weighted."""
    n = len(corners)
    for i in range(first, last):
        at, by = index[n * i : n * (i + 1)], weights[n * i : n * (i + 1)]
        for g in range(0, width, LANES):
            _splat(load(rows, width * i + g), target, at, by, corners, g)


@loop
def blur(source, target, neighbors, width, start, first, last):
    """target = source + half of the two neighbors along one axis, for vertices ``start + first`` to ``start + last``.

    ``neighbors`` has two entries per vertex, starting at vertex ``start``.
    """
    for m in range(first, last):
        here, up, down = width * (start + m), width * neighbors[2 * m], width * neighbors[2 * m + 1]
        for g in range(0, width, LANES):
            both = add(load(source, up + g), load(source, down + g))
            store(target, here + g, multiply_add(both, _HALF, load(source, here + g)))


@loop
def slice_(values, rows, index, weights, corners, width, first, last):
    """Writes each point's row, the weighted sum of its vertices."""
    n = len(corners)
    for i in range(first, last):
        at, by = index[n * i : n * (i + 1)], weights[n * i : n * (i + 1)]
        for g in range(0, width, LANES):
            store(rows, width * i + g, _slice(broadcast(_0), values, at, by, corners, g))


# The mean field processes points in blocks, stage by stage: the maximum, the exponentials and their sum depend on each
# other, and a processor can only overlap them if many points are at the same stage.
_BLOCK = 32


@inner
def _softmax(logits, values, index, weights, corners, width, first, last, rows, scales):
    """For the points of a block: rows = exp(logits + slice(values) - maximum), scales = 1 / sum of each row."""
    n = len(corners)
    for i in range(first, last):
        at, by = index[n * i : n * (i + 1)], weights[n * i : n * (i + 1)]
        top = broadcast(_LOWEST)
        for g in range(0, width, LANES):
            lanes = _slice(load(logits, width * i + g), values, at, by, corners, g)
            store(rows, width * (i - first) + g, lanes)
            top = maximum(top, lanes)
        scales[i - first] = -max_lane(top)
    for i in range(last - first):
        shift, sums = broadcast(scales[i]), broadcast(_0)
        for g in range(width * i, width * (i + 1), LANES):
            lanes = exp(add(load(rows, g), shift))
            store(rows, g, lanes)
            sums = add(sums, lanes)
        scales[i] = _1 / sum_lanes(sums)


@loop
def mean_field_step(logits, values, target, index, weights, corners, width, first, last):
    """Splats Q = softmax(logits + slice(values)) of points ``first`` to ``last`` into target, without storing Q."""
    n = len(corners)
    rows, scales = np.empty(_BLOCK * width, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        _softmax(logits, values, index, weights, corners, width, start, stop, rows, scales)
        for i in range(start, stop):
            at, by = index[n * i : n * (i + 1)], weights[n * i : n * (i + 1)]
            for g in range(0, width, LANES):
                lanes = load(rows, width * (i - start) + g)
                _splat(multiply_add(lanes, scales[i - start], broadcast(_0)), target, at, by, corners, g)


@loop
def mean_field_result(logits, values, q, labels, points, index, weights, corners, width, first, last):
    """Writes Q = softmax(logits + slice(values)) of points ``first`` to ``last`` into q ``(labels, points)``."""
    rows, scales = np.empty(_BLOCK * width, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        _softmax(logits, values, index, weights, corners, width, start, stop, rows, scales)
        for label in range(labels):
            for i in range(start, stop):
                q[label * points + i] = rows[width * (i - start) + label] * scales[i - start]


@loop
def to_rows(scores, rows, labels, points, width, first, last):
    """Transposes ``(labels, points)`` to ``(points, width)``; the padding is far below every score."""
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        for label in range(width):
            for i in range(start, stop):
                rows[width * i + label] = scores[label * points + i] if label < labels else _LOWEST
