"""Primitives of the compiled loop besides products: storing rows as words, and a barrier between two threads."""

import sys

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, overload

from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS, call, splat
from wavedil.ops.gate.kernels import gate_value
from wavedil.ops.vector import PART, address, bits, float_of, inner, round_bits_inner

_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}
_address = ir.IntType(64)


@inner
def _round_to_bfloat16(x):
    """Rounds float32 to bfloat16, to nearest, ties to even; the result is in the upper half of the bits."""
    return round_bits_inner(bits(x)) & np.uint32(0xFFFF0000)


@intrinsic
def _round_16(typing_context, values, out):
    """Rounds 16 float32 to bfloat16 and stores them, by an instruction of AVX512_BF16."""
    floats, ints = ir.VectorType(ir.FloatType(), 16), ir.VectorType(ir.IntType(32), 8)

    def generate(context, builder, signature, arguments):
        source, target = (builder.inttoptr(a, k.as_pointer()) for a, k in zip(arguments, (floats, ints), strict=True))
        value = builder.load(source, align=4)
        kind = ir.FunctionType(ints, [floats])
        builder.store(builder.asm(kind, "vcvtneps2bf16 $1, $0", "=v,v", [value], False), target, align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


_SMALLEST, _127 = np.uint32(0x0DA24260), np.float32(127)  # the bits of 1e-30
_TO_INTEGER = np.float32(1.5 * 2**23)  # adding it rounds to an integer, which is then in the low bits
_LANES = VECTORS.lanes


@intrinsic
def _round_to_int8(typing_context, values, out, inverse):
    """Stores a vector of float32 times ``inverse`` as int8, with the sign bit flipped if the products need that."""
    lanes = VECTORS.lanes
    floats, ints, bytes_ = (ir.VectorType(kind, lanes) for kind in (ir.FloatType(), ir.IntType(32), ir.IntType(8)))

    def generate(context, builder, signature, arguments):
        source = builder.load(builder.inttoptr(arguments[0], floats.as_pointer()), align=4)
        shifted = ir.Constant(floats, [float(_TO_INTEGER)] * lanes)
        value = call(builder, f"llvm.fma.v{lanes}f32", floats, [source, splat(builder, arguments[2], lanes), shifted])
        value = builder.trunc(builder.bitcast(value, ints), bytes_)
        value = builder.xor(value, ir.Constant(bytes_, [VECTORS.offset] * lanes))
        builder.store(value, builder.inttoptr(arguments[1], bytes_.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.float32), generate


@inner
def _store_int8(values, out, count, inverse):
    """Stores ``4 * count`` numbers times ``inverse`` as int8, as ``formats.Int8Format`` does."""
    for i in range(0, 4 * count, _LANES):
        _round_to_int8(address(values) + 4 * i, address(out) + i, inverse)


@inner
def largest_bits(values):
    """The bits of the largest magnitude: as integers, those of NaN and infinity are the largest."""
    largest = np.uint32(0)
    for i in range(len(values)):
        largest = max(largest, bits(values[i]) & np.uint32(0x7FFFFFFF))
    return largest


INFINITE = np.uint32(0x7F800000)  # the bits of infinity


def store(values, out, rounded):
    """Stores a row of float32 as words: float32, rounded to bfloat16 if ``rounded``; pairs of bfloat16; or int8."""
    raise NotImplementedError


@overload(store, jit_options=_OPTIONS)
def _(values, out, rounded):
    if out.dtype == types.float32:

        def single(values, out, rounded):
            if rounded:
                for i in range(len(out)):
                    out[i] = float_of(_round_to_bfloat16(values[i]))
            else:
                for i in range(len(out)):
                    out[i] = values[i]

        return single

    def paired(values, out, rounded):
        for i in range(len(out)):
            out[i] = (_round_to_bfloat16(values[2 * i]) >> np.uint32(16)) | _round_to_bfloat16(values[2 * i + 1])

    def paired_by_16(values, out, rounded):
        for i in range(len(out) // 8):
            _round_16(address(values) + 64 * i, address(out) + 32 * i)

    def scaled(values, out, rounded):
        count = len(out) - 1
        largest = max(largest_bits(values[: 4 * count]), _SMALLEST)
        scale = (bits(float_of(largest) / _127) + np.uint32(0x80)) & np.uint32(0xFFFFFF00)
        _store_int8(values, out, count, np.float32(1) / float_of(scale))
        out[count] = np.int32(scale)

    if out.dtype == types.int32:
        return scaled
    return paired_by_16 if VECTORS.has_dot else paired


def store_gates(values, out, rounded):
    """:func:`store` for numbers in [-1, 1], without a scale."""
    raise NotImplementedError


@overload(store_gates, jit_options=_OPTIONS)
def _(values, out, rounded):
    if out.dtype == types.int32:
        return lambda values, out, rounded: _store_int8(values, out, len(out), _127)
    return lambda values, out, rounded: store(values, out, rounded)


def num_scales(kind):
    """Words after those of a row of inputs, by the type of words."""
    raise NotImplementedError


@overload(num_scales, jit_options=_OPTIONS)
def _(kind):
    scales = int(kind == types.int32)
    return lambda kind: scales


_F1, _F2, _F3, _F4 = (np.float32(np.log(2) ** n / factorial) for n, factorial in ((1, 1), (2, 2), (3, 6), (4, 24)))
_1, _30 = np.float32(1), np.float32(30)
_TANH, _SIGMOID = np.float32(-2 / np.log(2)), np.float32(-1 / np.log(2))


@inner
def _power(x):
    """2**x to 5e-5 (and to the last digit near x = 0), for x from -30 to 30, which also bound it."""
    x = _30 if x > _30 else x
    x = -_30 if x < -_30 else x
    shifted = x + _TO_INTEGER
    r = x - (shifted - _TO_INTEGER)
    fraction = _1 + r * (_F1 + r * (_F2 + r * (_F3 + r * _F4)))
    return float_of(bits(fraction) + (bits(shifted) << np.uint32(23)))


def gate(a, b, kind):
    """tanh(a) * sigmoid(b), as exact as the format of words of this kind needs."""
    raise NotImplementedError


@overload(gate, jit_options=_OPTIONS, inline="always")
def _(a, b, kind):
    if kind == types.float32 or (kind == types.uint32 and not VECTORS.has_dot):  # else batches would differ
        return lambda a, b, kind: gate_value(a, b, a)

    def rough(a, b, kind):
        u = _power(a * _TANH)
        return (_1 - u) / ((_1 + u) * (_1 + _power(b * _SIGMOID)))

    return rough


def _pointer(builder, address):
    return builder.inttoptr(address, _address.as_pointer())


@intrinsic
def _release(typing_context, address, value):
    """Writes an int64 that other threads see only after all earlier writes (release)."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


@intrinsic
def _acquire(typing_context, address):
    """Reads an int64 before all later reads (acquire)."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 8)

    return types.int64(types.intp), generate


@intrinsic
def _pause(typing_context):
    """Hints to the core that this is a spin loop."""
    x86 = llvm.get_process_triple().startswith(("x86_64", "i386", "i686"))

    def generate(context, builder, signature, arguments):
        if x86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


_SPINS = 4000  # reads of the flag before the thread yields its core: some 0.1 ms
_POSIX = sys.platform != "win32"
_yield = types.ExternalFunction("sched_yield", types.int32())


@numba.njit(**PART)
def barrier(flags, thread, count):
    """Sets the flag of this thread (0 or 1) to ``count`` and waits until the other thread's flag is at least that."""
    first = address(flags)  # the flags are 64 bytes apart, on separate cache lines
    _release(first + 64 * thread, count)
    spins = 0
    while _acquire(first + 64 * (1 - thread)) < count:
        _pause()
        spins += 1
        if spins > _SPINS:
            spins = 0
            if _POSIX:
                _yield()
