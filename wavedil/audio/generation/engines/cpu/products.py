"""Small matrix products as LLVM vector code: ``y[rows, n] += x[rows, k] @ w[k, n]``. Imported when a loop will run.

LLVM does not find this form by itself: a tile of outputs stays in registers during the loop over k, so that each weight
is loaded once for up to six rows. **Every output is one chain** of fused multiply-adds over k, starting from y, for any
tile. So a stream's numbers depend neither on the number of streams in the product nor on the width of the vectors.

Weights and inputs are stored in words of 4 bytes: one float32, or a pair of bfloat16 of neighboring k, the first in the
upper half. A pair takes two multiply-adds, the upper half first. ``packing`` stores the weights in panels of PANEL
columns, each (k, columns), so that a product reads memory from start to end.
"""

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from wavedil.ops.vector import PART

_FEATURES = llvm.get_host_cpu_features()
#: float32 numbers per vector, and vectors per row in a tile of several rows (there are 16 or 32 registers).
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx2") else 4
_TILE = 2 if LANES == 8 else 4

#: Columns per panel. A tile of one row is as wide as a panel, so that enough chains run in parallel.
PANEL = 8 * LANES
_PREFETCH = 6144  # bytes ahead that a product of a single row, which is limited by memory, prefetches

_float, _int, _address = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_floats, _ints = ir.VectorType(_float, LANES), ir.VectorType(_int, LANES)


def _splat(builder, value, vector):
    """A vector with all elements equal to a value."""
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_int, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_int, LANES), [0] * LANES))


def _fma(builder, a, b, c):
    kind = ir.FunctionType(_floats, [_floats] * 3)
    return builder.call(get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32"), [a, b, c])


def _prefetch(builder, address):
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), _int, _int, _int])
    function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, *(ir.Constant(_int, n) for n in (0, 3, 1))])  # for reading, soon, data


def _weights(builder, loaded, paired):
    """The one or two vectors of weights in loaded words.

    The lower half of a pair is not cleared when the upper half is used: ``packing`` has rounded for that, and it saves
    a mask for each weight.
    """
    if not paired:
        return [loaded]
    lower = builder.shl(loaded, ir.Constant(_ints, [16] * LANES))
    return [builder.bitcast(loaded, _floats), builder.bitcast(lower, _floats)]


def _values(builder, loaded, paired):
    """The one or two vectors of inputs in loaded words."""
    if not paired:
        return [loaded]
    upper = builder.and_(loaded, ir.Constant(_ints, [0xFFFF0000] * LANES))
    lower = builder.shl(loaded, ir.Constant(_ints, [16] * LANES))
    return [builder.bitcast(upper, _floats), builder.bitcast(lower, _floats)]


def _multiply_add(builder, weights, values, y):
    for w, x in zip(weights, values, strict=True):
        y = _fma(builder, w, x, y)
    return y


def _emit(builder, rows, vectors, paired, arguments):
    """Writes the code of one tile: a loop over k."""
    w, w_step, x, x_row, y, y_row, count = arguments
    vector, scalar = (_ints, _int) if paired else (_floats, _float)

    def at(address, kind, offset=0):
        if offset:
            address = builder.add(address, ir.Constant(_address, offset))
        return builder.inttoptr(address, kind.as_pointer())

    def row(address, step, index):
        return builder.add(address, builder.mul(step, ir.Constant(_address, index))) if index else address

    bytes_each = 4 * LANES
    xs = [row(x, x_row, r) for r in range(rows)]
    outs = [at(row(y, y_row, r), _floats, bytes_each * v) for r in range(rows) for v in range(vectors)]
    starts = [builder.load(out, align=4) for out in outs]
    before = builder.block
    body = builder.append_basic_block("product")
    after = builder.append_basic_block("product.end")
    builder.branch(body)
    builder.position_at_end(body)
    index, weight, shift = (builder.phi(_address) for _ in range(3))
    sums = [builder.phi(_floats) for _ in starts]

    def weights_at(v):
        return _weights(builder, builder.load(at(weight, vector, bytes_each * v), align=4), paired)

    if rows == 1 and vectors > 1:
        for line in range(0, bytes_each * vectors, 64):
            _prefetch(builder, at(weight, ir.IntType(8), _PREFETCH + line))
    # Several rows share the weights in registers; for one row, each weight is loaded when it is used.
    held = [weights_at(v) for v in range(vectors)] if rows > 1 else None
    news = []
    for r in range(rows):
        value = _splat(builder, builder.load(at(builder.add(xs[r], shift), scalar), align=4), vector)
        value = _values(builder, value, paired)
        for v in range(vectors):
            weights = held[v] if held else weights_at(v)
            news.append(_multiply_add(builder, weights, value, sums[r * vectors + v]))
    following = builder.add(index, ir.Constant(_address, 1))
    next_weight, next_shift = builder.add(weight, w_step), builder.add(shift, ir.Constant(_address, 4))
    builder.cbranch(builder.icmp_signed("<", following, count), body, after)
    zero = ir.Constant(_address, 0)
    counters = [(index, zero, following), (weight, w, next_weight), (shift, zero, next_shift)]
    for phi, start, new in [*counters, *zip(sums, starts, news, strict=True)]:
        phi.add_incoming(start, before)
        phi.add_incoming(new, body)
    builder.position_at_end(after)
    for out, new in zip(outs, news, strict=True):
        builder.store(new, out, align=4)


def _kernel(rows, vectors):
    """Intrinsic of one tile; ``count`` is at least 1. Its first argument has the type of the words."""

    @intrinsic
    def tile(typing_context, kind, w, w_step, x, x_row, y, y_row, count):
        paired = not isinstance(kind, types.Float)

        def generate(context, builder, signature, arguments):
            _emit(builder, rows, vectors, paired, arguments[1:])
            return context.get_dummy_value()

        return types.void(kind, *[types.intp] * 7), generate

    return tile


@intrinsic
def _max_rows(typing_context, kind):
    """Rows of the largest tile that fits into the registers."""
    rows = 4 if LANES == 8 and not isinstance(kind, types.Float) else 6

    def generate(context, builder, signature, arguments):
        return ir.Constant(_address, rows)

    return types.intp(kind), generate


def _rows_by(tile6, tile4, tile2, tile1):
    """A function that computes all rows of some columns with the largest tiles that fit."""

    @numba.njit(**PART)
    def by_tiles(kind, w, w_step, x, x_row, y, y_row, count, rows):
        r = 0
        if _max_rows(kind) == 6:
            while r + 6 <= rows:
                tile6(kind, w, w_step, x + r * x_row, x_row, y + r * y_row, y_row, count)
                r += 6
        while r + 4 <= rows:
            tile4(kind, w, w_step, x + r * x_row, x_row, y + r * y_row, y_row, count)
            r += 4
        if r + 2 <= rows:
            tile2(kind, w, w_step, x + r * x_row, x_row, y + r * y_row, y_row, count)
            r += 2
        if r < rows:
            tile1(kind, w, w_step, x + r * x_row, x_row, y + r * y_row, y_row, count)

    return by_tiles


_wide = _kernel(1, 8)
_tiles = _rows_by(*(_kernel(rows, _TILE) for rows in (6, 4, 2, 1)))
_columns = _rows_by(*(_kernel(rows, 1) for rows in (6, 4, 2, 1)))
_BYTES = 4 * LANES


@numba.njit(**PART)
def product(kind, w, x, x_row, y, y_row, count, columns, rows):
    """``y += x @ w``.

    Args:
        kind: a number of the words' type, float32 or uint32.
        w, x, y: addresses.
        x_row, y_row: bytes from one row to the next.
        count: words in a row of x, at least 1.
        columns: of w, a multiple of LANES.
        rows: of x.
    """
    start = 0
    while start < columns:
        width = min(PANEL, columns - start)
        panel, step = w + 4 * count * start, 4 * width
        c = 0
        if rows == 1 and width == PANEL:
            _wide(kind, panel, step, x, x_row, y + 4 * start, y_row, count)
            c = 4 * width
        while c + _TILE * _BYTES <= 4 * width:
            _tiles(kind, panel + c, step, x, x_row, y + 4 * start + c, y_row, count, rows)
            c += _TILE * _BYTES
        while c < 4 * width:
            _columns(kind, panel + c, step, x, x_row, y + 4 * start + c, y_row, count, rows)
            c += _BYTES
        start += width
