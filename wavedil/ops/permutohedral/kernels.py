"""Numba loops over a permutohedral lattice's values. Imported only when they are about to run.

The numbers of a point or a vertex are a row of labels, float32, padded to a multiple of `LANES`; all arrays are flat.
`index` and `weights` hold `corners` entries for each point, and an entry of `index` is where a vertex's row begins.
`corners` comes as a tuple of that length, so that each length is compiled as loops of known length.

A row is taken lanes by lanes, and the lanes are a vector of LLVM's own: rows are short and the arrays may overlap for
all it knows, so it would leave loops over single labels scalar.
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
    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


_lanes = _Lanes()


def _filled(number):
    """All lanes the same constant."""
    kind = _INTEGER if isinstance(number, int) else _FLOAT
    return ir.Constant(ir.VectorType(kind, LANES), [ir.Constant(kind, number)] * LANES)


def _spread(builder, number):
    """All lanes the same number."""
    first = builder.insert_element(_filled(0.0), number, ir.Constant(_INTEGER, 0))
    return builder.shuffle_vector(first, first, _filled(0))


def _multiply_add(builder, a, b, c):
    return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), c, flags=_CONTRACT)


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _place(context, builder, array_type, array, offset):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


@intrinsic
def load(typing_context, array, offset):
    def generate(context, builder, signature, arguments):
        return builder.load(_place(context, builder, signature.args[0], *arguments), align=4)

    return _lanes(array, types.intp), generate


@intrinsic
def store(typing_context, array, offset, lanes):
    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], place, align=4)
        return context.get_dummy_value()

    return types.none(array, types.intp, lanes), generate


@intrinsic
def same(typing_context, number):
    def generate(context, builder, signature, arguments):
        return _spread(builder, arguments[0])

    return _lanes(types.float32), generate


@intrinsic
def multiply_add(typing_context, lanes, factor, summand):
    """`lanes * factor + summand`, the factor one number."""

    def generate(context, builder, signature, arguments):
        return _multiply_add(builder, arguments[0], _spread(builder, arguments[1]), arguments[2])

    return _lanes(lanes, types.float32, summand), generate


@intrinsic
def plus(typing_context, a, b):
    def generate(context, builder, signature, arguments):
        return builder.fadd(*arguments)

    return _lanes(a, b), generate


@intrinsic
def larger(typing_context, a, b):
    def generate(context, builder, signature, arguments):
        return _larger(builder, *arguments)

    return _lanes(a, b), generate


def _reduction(combine):
    """All lanes to one number, by halves."""

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


total = _reduction(lambda builder, a, b: builder.fadd(a, b))
largest = _reduction(_larger)


@intrinsic
def exp(typing_context, lanes):
    """exp of numbers from -60 to 0, as in `wavedil.ops.vector`; 0 below.

    What is left out is below 1e-26, and on a lattice it would come down to denormal numbers, which are slow.
    """

    def generate(context, builder, signature, arguments):
        (x,) = arguments
        to_integer = _filled(1.5 * 2**23)  # adding it rounds to an integer and leaves that in the low bits
        shifted = _multiply_add(builder, x, _filled(1.4426950408889634), to_integer)
        n = builder.fsub(shifted, to_integer)
        exponent = builder.add(builder.bitcast(shifted, _INTEGERS), _filled(127))
        scale = builder.bitcast(builder.shl(exponent, _filled(23)), _VECTOR)
        r = _multiply_add(builder, n, _filled(-0.693359375), x)  # ln 2 in two parts: n * the first is exact
        r = _multiply_add(builder, n, _filled(0.693359375 - 0.6931471805599453), r)
        y = _filled(1 / 5040)
        for factorial in (720, 120, 24, 6, 2, 1, 1):
            y = _multiply_add(builder, y, r, _filled(1 / factorial))
        below = builder.fcmp_ordered("<", x, _filled(-60.0))
        return builder.select(below, _filled(0.0), builder.fmul(scale, y))

    return _lanes(lanes), generate


_0, _1, _HALF, _LOWEST = (np.float32(n) for n in (0, 1, 0.5, -3e38))


@inner
def _sliced(begin, values, at, by, corners, g):
    lanes = begin
    for v in range(len(corners)):
        lanes = multiply_add(load(values, at[v] + g), by[v], lanes)
    return lanes


@inner
def _splat(lanes, target, at, by, corners, g):
    for v in range(len(corners)):
        store(target, at[v] + g, multiply_add(lanes, by[v], load(target, at[v] + g)))


@loop
def splat(rows, target, index, weights, corners, width, first, last):
    """Adds each point's row to its vertices."""
    n = len(corners)
    for i in range(first, last):
        at, by = index[n * i : n * (i + 1)], weights[n * i : n * (i + 1)]
        for g in range(0, width, LANES):
            _splat(load(rows, width * i + g), target, at, by, corners, g)


@loop
def blur(source, target, neighbors, width, start, first, last):
    """target = source + half of the neighbors along one axis, for vertices `start + first` on.

    neighbors: two for each vertex, from vertex `start` on.
    """
    for m in range(first, last):
        here, up, down = width * (start + m), width * neighbors[2 * m], width * neighbors[2 * m + 1]
        for g in range(0, width, LANES):
            both = plus(load(source, up + g), load(source, down + g))
            store(target, here + g, multiply_add(both, _HALF, load(source, here + g)))


@loop
def slice_(values, rows, index, weights, corners, width, first, last):
    """Each point's row from its vertices."""
    n = len(corners)
    for i in range(first, last):
        at, by = index[n * i : n * (i + 1)], weights[n * i : n * (i + 1)]
        for g in range(0, width, LANES):
            store(rows, width * i + g, _sliced(same(_0), values, at, by, corners, g))


# The mean field takes points in blocks, one pass after the other: the largest score, the exponentials and their sum
# hang on each other, and a processor has something else to do meanwhile only where many points are at the same stage.
_BLOCK = 32


@inner
def _softmax(logits, values, index, weights, corners, width, first, last, rows, scales):
    """For points of a block: rows = exp(logits + slice(values) - the largest), scales = 1 / their sums."""
    n = len(corners)
    for i in range(first, last):
        at, by = index[n * i : n * (i + 1)], weights[n * i : n * (i + 1)]
        top = same(_LOWEST)
        for g in range(0, width, LANES):
            lanes = _sliced(load(logits, width * i + g), values, at, by, corners, g)
            store(rows, width * (i - first) + g, lanes)
            top = larger(top, lanes)
        scales[i - first] = -largest(top)
    for i in range(last - first):
        shift, sums = same(scales[i]), same(_0)
        for g in range(width * i, width * (i + 1), LANES):
            lanes = exp(plus(load(rows, g), shift))
            store(rows, g, lanes)
            sums = plus(sums, lanes)
        scales[i] = _1 / total(sums)


@loop
def mean_field_step(logits, values, target, index, weights, corners, width, first, last):
    """Q = softmax(logits + slice(values)) of points from `first` on, splatted into target and kept nowhere."""
    n = len(corners)
    rows, scales = np.empty(_BLOCK * width, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        _softmax(logits, values, index, weights, corners, width, start, stop, rows, scales)
        for i in range(start, stop):
            at, by = index[n * i : n * (i + 1)], weights[n * i : n * (i + 1)]
            for g in range(0, width, LANES):
                lanes = load(rows, width * (i - start) + g)
                _splat(multiply_add(lanes, scales[i - start], same(_0)), target, at, by, corners, g)


@loop
def mean_field_end(logits, values, q, labels, points, index, weights, corners, width, first, last):
    """Q = softmax(logits + slice(values)) of points from `first` on; q is (labels, points)."""
    rows, scales = np.empty(_BLOCK * width, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        _softmax(logits, values, index, weights, corners, width, start, stop, rows, scales)
        for label in range(labels):
            for i in range(start, stop):
                q[label * points + i] = rows[width * (i - start) + label] * scales[i - start]


@loop
def to_rows(scores, rows, labels, points, width, first, last):
    """(labels, points) to (points, width); the padding is far below every score."""
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        for label in range(width):
            for i in range(start, stop):
                rows[width * i + label] = scores[label * points + i] if label < labels else _LOWEST
