"""Small matrix products as LLVM vector code: ``y[rows, n] += x[rows, k] @ w[k, n]``. Imported when a loop will run.

LLVM does not find this form by itself: a tile of outputs stays in registers during the loop over k, so that each weight
is loaded once for up to six rows. **Every output is one chain** of additions over k, for any tile. So a stream's
numbers depend neither on the number of streams in the product nor on the width of the vectors.

Weights and inputs are stored in words of 4 bytes; see ``arithmetic``. ``packing`` stores the weights in panels of
columns, each (k, columns), so that a product reads memory from start to end.
"""

import numba
from llvmlite import ir
from numba.extending import intrinsic

from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS, Vectors, call, splat
from wavedil.audio.generation.engines.cpu.sparse import GROUP, RECORD
from wavedil.ops.vector import PART

_PREFETCH = 4096  # bytes ahead that a product of a single row, which is limited by memory, prefetches
_float, _int, _byte, _address = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(64)


def _emit(builder, arithmetic, rows, vectors, groups, arguments):
    """Writes the code of one tile: a loop over k.

    Args:
        groups: number of column groups of a sparse tile, each with its own input in each pass; 0 for a dense one.
    """
    w, w_step, x, x_row, scale, scale_row, y, y_row, count, record = arguments
    lanes, floats, words = arithmetic.lanes, arithmetic.floats, arithmetic.words
    bytes_each, width = 4 * lanes, vectors // max(groups, 1)

    def at(address, kind, offset=0):
        if offset:
            address = builder.add(address, ir.Constant(_address, offset))
        return builder.inttoptr(address, kind.as_pointer())

    def row(address, step, index):
        return builder.add(address, builder.mul(step, ir.Constant(_address, index))) if index else address

    def load(address, kind, offset=0):
        return builder.load(at(address, kind, offset), align=4)

    def load_shifts(address):
        """The numbers of bytes, one for each group."""
        return [builder.sext(load(address, _int, 4 * group), _address) for group in range(groups)]

    tile = [(r, v) for r in range(rows) for v in range(vectors)]
    places = [builder.add(y, shift) for shift in load_shifts(builder.add(record, ir.Constant(_address, 4)))] or [y]
    outs = [at(row(places[v // width], y_row, r), floats, bytes_each * (v % width)) for r, v in tile]
    body_start = row(w, w_step, arithmetic.header)
    if arithmetic.header:
        firsts = [load(row(w, w_step, 1), words, bytes_each * v) for v in range(vectors)]
        starts = [firsts[v] for _, v in tile]
    else:
        starts = [builder.load(out, align=4) for out in outs]
    xs = [row(x, x_row, r) for r in range(rows)]
    before = builder.block
    body = builder.append_basic_block("product")
    after = builder.append_basic_block("product.end")
    builder.branch(body)
    builder.position_at_end(body)
    index, weight, shift = (builder.phi(_address) for _ in range(3))
    sums = [builder.phi(arithmetic.sums) for _ in starts]

    def weights_at(v):
        return arithmetic.weights(builder, load(weight, words, bytes_each * v))

    if rows == 1 and vectors > 1:
        for line in range(0, bytes_each * vectors, 64):
            arguments = [at(weight, _byte, _PREFETCH + line), *(ir.Constant(_int, n) for n in (0, 3, 1))]
            call(builder, "llvm.prefetch.p0", ir.VoidType(), arguments)  # for reading, soon, data
    # Several rows share the weights in registers; for one row, each weight is loaded when it is used.
    held = [weights_at(v) for v in range(vectors)] if rows > 1 else None
    shifts = load_shifts(shift) or [shift]
    news = []
    for r in range(rows):
        for group, group_shift in enumerate(shifts):
            value = splat(builder, load(builder.add(xs[r], group_shift), arithmetic.word), lanes)
            value = arithmetic.inputs(builder, value)
            for v in range(group * width, (group + 1) * width):
                weights = held[v] if held else weights_at(v)
                news.append(arithmetic.add(builder, weights, value, sums[r * vectors + v]))
    zero, one = ir.Constant(_address, 0), ir.Constant(_address, 1)
    following = builder.add(index, one)
    next_weight = builder.add(weight, w_step)
    next_shift = builder.add(shift, ir.Constant(_address, 4 * max(groups, 1)))
    builder.cbranch(builder.icmp_signed("<", following, count), body, after)
    first_shift = zero
    if groups:
        with builder.goto_block(before):
            first_shift = builder.add(record, ir.Constant(_address, 4 * RECORD))
    counters = [(index, zero, following), (weight, body_start, next_weight), (shift, first_shift, next_shift)]
    for phi, start, new in [*counters, *zip(sums, starts, news, strict=True)]:
        phi.add_incoming(start, before)
        phi.add_incoming(new, body)
    builder.position_at_end(after)
    if arithmetic.header:
        column_scales = [load(w, floats, bytes_each * v) for v in range(vectors)]
        for place, ((r, v), out) in enumerate(zip(tile, outs, strict=True)):
            row_scale = splat(builder, load(row(scale, scale_row, r), _float), lanes)
            factor = builder.fmul(row_scale, column_scales[v])
            total = builder.sitofp(news[place], floats)
            news[place] = call(builder, f"llvm.fma.v{lanes}f32", floats, [total, factor, builder.load(out, align=4)])
    for out, new in zip(outs, news, strict=True):
        builder.store(new, out, align=4)


@intrinsic
def _load_int(typing_context, address):
    """The int32 at an address."""

    def generate(context, builder, signature, arguments):
        value = builder.load(builder.inttoptr(arguments[0], _int.as_pointer()), align=4)
        return builder.sext(value, _address)

    return numba.types.intp(address), generate


def make_product(machine: Vectors):
    """The function ``product`` for the vectors of a machine."""
    lanes, panel_columns = machine.lanes, machine.panel
    tile_vectors, vector_bytes = machine.tile, 4 * machine.lanes

    def constant(value):
        """An intrinsic that returns ``value(arithmetic)`` of the type of its argument."""

        @intrinsic
        def function(typing_context, kind):
            def generate(context, builder, signature, arguments):
                return ir.Constant(_address, value(machine.arithmetic(kind)))

            return numba.types.intp(kind), generate

        return function

    def kernel(rows, vectors, groups=0):
        """Intrinsic of one tile, of the rows from ``first`` on; ``count`` is at least 1.

        Its first argument has the type of the words, the last one is the address of the record of a sparse tile.
        """

        @intrinsic
        def tile(typing_context, kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, first, record):
            def generate(context, builder, signature, arguments):
                w, w_step, x, x_row, scale, scale_row, y, y_row, count, first, record = arguments[1:]
                x, scale, y = (
                    builder.add(address, builder.mul(first, step))
                    for address, step in ((x, x_row), (scale, scale_row), (y, y_row))
                )
                arithmetic = machine.arithmetic(kind)
                operands = w, w_step, x, x_row, scale, scale_row, y, y_row, count, record
                _emit(builder, arithmetic, rows, vectors, groups, operands)
                return context.get_dummy_value()

            return numba.types.void(kind, *[numba.types.intp] * 11), generate

        return tile

    header = constant(lambda arithmetic: arithmetic.header)
    max_rows = constant(lambda arithmetic: arithmetic.max_rows[lanes])
    wide, single4, single1 = kernel(1, 8), kernel(4, 1), kernel(1, 1)
    tile6, tile4, tile2, tile1 = (kernel(rows, tile_vectors) for rows in (6, 4, 2, 1))

    @numba.njit(**PART)
    def tiles(kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, rows):
        """Computes all rows of some columns with the largest tiles that fit."""
        r = 0
        if max_rows(kind) == 6:
            while r + 6 <= rows:
                tile6(kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, r, 0)
                r += 6
        while r + 4 <= rows:
            tile4(kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, r, 0)
            r += 4
        if r + 2 <= rows:
            tile2(kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, r, 0)
            r += 2
        if r < rows:
            tile1(kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, r, 0)

    @numba.njit(**PART)
    def singles(kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, rows):
        """Computes all rows of one vector of columns."""
        r = 0
        while r + 4 <= rows:
            single4(kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, r, 0)
            r += 4
        while r < rows:
            single1(kind, w, w_step, x, x_row, scale, scale_row, y, y_row, count, r, 0)
            r += 1

    groups, group_vectors = machine.groups, GROUP // lanes
    sparse4, sparse1 = (kernel(rows, groups * group_vectors, groups) for rows in (4, 1))
    sparse_columns = GROUP * groups

    @numba.njit(**PART)
    def sparse_product(kind, w, x, x_row, scale, scale_row, y, y_row, columns, rows):
        """``y += x @ w`` for a sparse w, whose layout :func:`sparse.pack` describes."""
        step = 4 * sparse_columns
        for _ in range(0, columns, sparse_columns):
            count = _load_int(w)
            panel, r = w + 4 * (RECORD + (groups * count + 15) // 16 * 16), 0
            while r + 4 <= rows:
                sparse4(kind, panel, step, x, x_row, scale, scale_row, y, y_row, count, r, w)
                r += 4
            while r < rows:
                sparse1(kind, panel, step, x, x_row, scale, scale_row, y, y_row, count, r, w)
                r += 1
            w = panel + step * (header(kind) + count)

    tile_bytes = tile_vectors * vector_bytes

    @numba.njit(**PART)
    def product(kind, w, x, x_row, scale, scale_row, y, y_row, count, columns, rows):
        """``y += x @ w``.

        Args:
            kind: a number of the words' type: float32, uint32 or int32.
            w, x, y: addresses.
            x_row, y_row: bytes from one row to the next.
            scale, scale_row: address of the scale of the first row of x, and bytes to the next; of int8 only.
            count: words in a row of x, at least 1.
            columns: of w, a multiple of the lanes.
            rows: of x.
        """
        start = 0
        while start < columns:
            width = min(panel_columns, columns - start)
            panel, step = w + 4 * (count + header(kind)) * start, 4 * width
            c = 0
            if rows == 1 and width == panel_columns:
                wide(kind, panel, step, x, x_row, scale, scale_row, y + 4 * start, y_row, count, 0, 0)
                c = 4 * width
            while c + tile_bytes <= 4 * width:
                tiles(kind, panel + c, step, x, x_row, scale, scale_row, y + 4 * start + c, y_row, count, rows)
                c += tile_bytes
            while c < 4 * width:
                singles(kind, panel + c, step, x, x_row, scale, scale_row, y + 4 * start + c, y_row, count, rows)
                c += vector_bytes
            start += width

    @numba.njit(**PART)
    def any_product(kind, words, start, x, x_row, scale, scale_row, y, y_row, count, columns, rows):
        """``y += x @ w`` for the dense matrix w at word ``start``, or if that is negative the sparse one at ``~start``.

        ``words`` is an address; see ``product`` for the other arguments.
        """
        if start < 0:
            sparse_product(kind, words + 4 * ~start, x, x_row, scale, scale_row, y, y_row, columns, rows)
        else:
            product(kind, words + 4 * start, x, x_row, scale, scale_row, y, y_row, count, columns, rows)

    return any_product


#: The product for this machine.
product = make_product(VECTORS)
