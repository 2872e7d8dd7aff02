"""Primitives of the compiled loop besides products: storing rows as words, and a barrier between two threads."""

import sys

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, overload

from wavedil.ops.vector import PART, address, bits, float_of, inner, round_bits_inner

_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}
_address = ir.IntType(64)


@inner
def _round_to_bfloat16(x):
    """Rounds float32 to bfloat16, to nearest, ties to even; the result is in the upper half of the bits."""
    return round_bits_inner(bits(x)) & np.uint32(0xFFFF0000)


def store(values, out, rounded):
    """Stores a row of float32 as words: float32, rounded to bfloat16 if ``rounded``, or pairs of bfloat16."""
    raise NotImplementedError


@overload(store, jit_options=_OPTIONS)
def _(values, out, rounded):
    if isinstance(out.dtype, types.Float):

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
            out[i] = _round_to_bfloat16(values[2 * i]) | (_round_to_bfloat16(values[2 * i + 1]) >> np.uint32(16))

    return paired


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
