"""Pieces of numba loops that LLVM turns into vector code. Imported only when a loop is to run.

Plain arithmetic without branches or calls, slices instead of computed indices, and no check for
division by zero. bfloat16 comes as uint16 and is the upper half of a float32; the way back rounds
to the nearest, ties to even.
"""

import hashlib
import logging
from pathlib import Path

import numba
import numpy as np
from numba.core import event, types
from numba.extending import intrinsic, overload

_f = np.float32
_LOG2_E = _f(1.4426950408889634)
_TO_INTEGER = _f(1.5 * 2**23)  # adding it rounds to an integer and leaves that in the low bits
_LN2_HIGH = _f(0.693359375)  # ln 2 in two parts: n * high is exact
_LN2_LOW = _f(0.6931471805599453 - 0.693359375)
_F2, _F3, _F4, _F5, _F6, _F7 = (_f(1 / n) for n in (2, 6, 24, 120, 720, 5040))

inner = numba.njit(inline="always", error_model="numpy")
#: Options of functions that loops call, and Python does not: they allocate nothing, and have no door for Python, which
#: takes longer to compile than most of them. (So Python must not call them: the process would die.)
PART = {"error_model": "numpy", "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# "contract" lets a*b+c become one instruction; NaN and infinity keep their meaning.
_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}


class _Announcer(event.Listener):
    """Logs, so that it is seen, that a loop is being compiled: not that one is loaded."""

    def __init__(self):
        self.texts = {}  # dispatcher -> text

    def on_start(self, event):
        text = self.texts.get(event.data["dispatcher"])
        if text is not None:
            logging.getLogger("wavedil").warning(text)

    def on_end(self, event):
        pass


_announcer = _Announcer()
event.register("numba:compile", _announcer)


def loop(function=None, *, parts=(), announce=None, **options):
    """Compiles an outer loop; kept on disk for the next process where a place can be written.

    parts: other modules whose functions become part of it. announce: what takes so long, where it does; the logger
    "wavedil" then says so. options: of numba, besides those of all loops.
    """
    if function is None:
        return lambda function: loop(function, parts=parts, announce=announce, **options)
    # numba knows a kept loop by its name and by the age and size of its file, not of others, and
    # installers may give all files one age. So the text of all becomes part of the name.
    files = [__file__, function.__code__.co_filename, *(part.__file__ for part in parts)]
    text = b"".join(Path(file).read_bytes() for file in files)
    function.__qualname__ += "_" + hashlib.sha256(text).hexdigest()[:12]
    options = {"nogil": True, **_OPTIONS, **options}
    try:
        compiled, kept = numba.njit(cache=True, **options)(function), "the result is kept for the next time"
    except RuntimeError:
        compiled, kept = numba.njit(**options)(function), "set NUMBA_CACHE_DIR to a writable folder to keep the result"
    if announce is not None:
        _announcer.texts[compiled] = f"compiling {announce}; {kept}"
    return compiled


@intrinsic
def address(typing_context, array):
    """Of the first element, as an int64; ``array.ctypes.data`` is many more instructions to compile."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.intp))

    return types.intp(array), generate


@intrinsic
def bits(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@intrinsic
def float_of(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


def widen(value):
    """float32 from a stored number."""
    raise NotImplementedError


def narrow(x, stored):
    """float32 as a number of the stored kind."""
    raise NotImplementedError


@overload(widen, jit_options=_OPTIONS)
def _(value):
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: float_of(np.uint32(value) << np.uint32(16))


@overload(narrow, jit_options=_OPTIONS)
def _(x, stored):
    if isinstance(stored, types.Float):
        return lambda x, stored: x

    def rounded(x, stored):
        b = bits(x)
        odd = (b >> np.uint32(16)) & np.uint32(1)
        upper = (b + np.uint32(0x7FFF) + odd) >> np.uint32(16)
        return np.uint16(np.uint32(0x7FC0) if x != x else upper)

    return rounded


def split_exp(x, stored):
    """`exp(x) = scale * (1 + rest)`, scale a power of two and |rest| < 0.42, for |x| <= 80.

    To the last digit of float32, or to 5e-5 where the stored kind is bfloat16, which keeps 4e-3.
    """
    raise NotImplementedError


@inner
def _reduce(x):
    """The power of two and what remains of the exponent, at most ln(2) / 2 either way."""
    shifted = x * _LOG2_E + _TO_INTEGER
    n = shifted - _TO_INTEGER
    scale = float_of((bits(shifted) + np.uint32(127)) << np.uint32(23))
    return scale, (x - n * _LN2_HIGH) - n * _LN2_LOW


@overload(split_exp, jit_options=_OPTIONS)
def _(x, stored):
    def fine(x, stored):
        scale, r = _reduce(x)
        high = _F4 + r * (_F5 + r * (_F6 + r * _F7))
        return scale, r + r * r * (_F2 + r * (_F3 + r * high))

    def coarse(x, stored):
        scale, r = _reduce(x)
        return scale, r + r * r * (_F2 + r * (_F3 + r * _F4))

    return fine if isinstance(stored, types.Float) else coarse
