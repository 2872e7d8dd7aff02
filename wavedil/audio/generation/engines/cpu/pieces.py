"""What the loop does between products: rounding rows to units, and two threads that wait for each other."""

import sys

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from wavedil.ops.vector import PART, address, bits, float_of, inner, round_bits_inner

_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}
_address = ir.IntType(64)


@inner
def _short(x):
    """float32 to bfloat16, in the upper half of its bits, to the nearest, ties to even."""
    return round_bits_inner(bits(x)) & np.uint32(0xFFFF0000)


def store(values, out, rounded):
    """A row of float32 as units: as it is, rounded to bfloat16, or as pairs, the first in the upper half."""
    raise NotImplementedError


@overload(store, jit_options=_OPTIONS)
def _(values, out, rounded):
    if isinstance(out.dtype, types.Float):

        def single(values, out, rounded):
            if rounded:
                for i in range(len(out)):
                    out[i] = float_of(_short(values[i]))
            else:
                for i in range(len(out)):
                    out[i] = values[i]

        return single

    def paired(values, out, rounded):
        for i in range(len(out)):
            out[i] = _short(values[2 * i]) | (_short(values[2 * i + 1]) >> np.uint32(16))

    return paired


def _pointer(builder, address):
    return builder.inttoptr(address, _address.as_pointer())


@intrinsic
def _release(typing_context, address, value):
    """Writes an int64 after all that was written before it."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


@intrinsic
def _acquire(typing_context, address):
    """Reads an int64 before all that is read after it."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 8)

    return types.int64(types.intp), generate


@intrinsic
def _pause(typing_context):
    """Tells the core that it waits in a loop."""
    x86 = llvm.get_process_triple().startswith(("x86_64", "i386", "i686"))

    def generate(context, builder, signature, arguments):
        if x86:
            name = "llvm.x86.sse2.pause"
            function = builder.module.globals.get(name)
            function = function or ir.Function(builder.module, ir.FunctionType(ir.VoidType(), []), name)
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), generate


_SPINS = 4000  # looks before the core is offered to somebody else: some 0.1 ms
_POSIX = sys.platform != "win32"
_yield = types.ExternalFunction("sched_yield", types.int32())


@numba.njit(**PART)
def meet(flags, me, count):
    """Waits until the other of two threads has come as far: its flag, a cache line from mine, is at least ``count``."""
    mine = address(flags)
    _release(mine + 64 * me, count)
    spins = 0
    while _acquire(mine + 64 * (1 - me)) < count:
        _pause()
        spins += 1
        if spins > _SPINS:
            spins = 0
            if _POSIX:
                _yield()
