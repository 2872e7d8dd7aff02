"""Building blocks of numba kernels that LLVM vectorizes. Imported only when a kernel is used.

They use arithmetic without branches or calls, slices instead of computed indices, and no check for division by zero.
bfloat16 numbers are uint16, the upper half of a float32; rounding is to nearest, ties to even.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
from numba.core import caching, event, types
from numba.extending import intrinsic, overload

from wavedil.errors import warn_of_cache

_f = np.float32
_LOG2_E = _f(1.4426950408889634)
_TO_INTEGER = _f(1.5 * 2**23)  # adding it rounds to an integer, which is then in the low bits
_LN2_HIGH = _f(0.693359375)  # ln 2 as a sum of two numbers, so that n * _LN2_HIGH is exact
_LN2_LOW = _f(0.6931471805599453 - 0.693359375)
_F2, _F3, _F4, _F5, _F6, _F7 = (_f(1 / n) for n in (2, 6, 24, 120, 720, 5040))

#: Decorator of functions that are inlined into kernels.
inner = numba.njit(inline="always", error_model="numpy")
#: Options of functions that are called by kernels only. They have no reference counting and no wrapper for Python,
#: which would take longer to compile than most of the functions. Calling one from Python crashes the process.
PART = {"error_model": "numpy", "_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# "contract" allows a fused multiply-add for a*b+c; NaN and infinity are handled as usual.
_OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}


class _CompilationLog(event.Listener):
    """Logs when a kernel is compiled, not when it is loaded from the cache."""

    def __init__(self):
        self.messages = {}  # by dispatcher

    def on_start(self, event: event.Event) -> None:
        message = self.messages.get(event.data["dispatcher"])
        if message is not None:
            logging.getLogger("wavedil").warning(message)

    def on_end(self, event: event.Event) -> None:
        pass


_log = _CompilationLog()
event.register("numba:compile", _log)


class _CheckedResults(caching.CompileResultCacheImpl):
    """Stores compiled code with its checksum: running damaged code could crash, or compute wrong results."""

    def reduce(self, result: Any) -> tuple[bytes, bytes]:
        code = pickle.dumps(super().reduce(result))
        return hashlib.sha256(code).digest(), code

    def rebuild(self, target_context: Any, stored: tuple[bytes, bytes]) -> Any:
        checksum, code = stored
        if hashlib.sha256(code).digest() != checksum:
            raise ValueError("a file is damaged")
        return super().rebuild(target_context, pickle.loads(code))


class _Cache(caching.FunctionCache):
    """A kernel's cache on disk. If it is damaged or cannot be written, one warning is logged and it is not used."""

    _impl_class = _CheckedResults

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        return self._try(super().load_overload, signature, target_context)

    def save_overload(self, signature: Any, result: Any) -> None:
        self._try(super().save_overload, signature, result)

    def _try(self, function: Callable, *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:  # of the disk, of pickle, or of LLVM
            warn_of_cache("compiled code", self.cache_path, error, "compiling again")
            try:
                self.flush()  # an empty index replaces a damaged one
            except Exception:
                self.disable()
            return None


def loop(
    function: Callable | None = None, *, parts: Sequence[ModuleType] = (), announce: str | None = None, **options
) -> Callable:
    """Decorator that compiles a kernel and caches it on disk, if a cache directory is writable.

    Args:
        function: the kernel.
        parts: other modules whose functions the kernel uses.
        announce: description of a kernel that takes long to compile; the logger "wavedil" then announces it.
        options: options of ``numba.njit``, in addition to those of all kernels.
    """
    if function is None:
        return lambda function: loop(function, parts=parts, announce=announce, **options)
    # numba's cache checks a kernel's name and the time and size of its file, but not other files, and installers may
    # set the same time for all files. So the hash of all files becomes part of the name.
    files = [__file__, function.__code__.co_filename, *(part.__file__ for part in parts)]
    text = b"".join(Path(file).read_bytes() for file in files)
    function.__qualname__ += "_" + hashlib.sha256(text).hexdigest()[:12]
    compiled = numba.njit(nogil=True, **(_OPTIONS | options))(function)
    try:
        compiled._cache = _Cache(function)
        cache = "the result is cached for later runs"
    except (RuntimeError, OSError):
        cache = "set NUMBA_CACHE_DIR to a writable folder to cache it"
    if announce is not None:
        _log.messages[compiled] = f"compiling {announce}; {cache}"
    return compiled


def cache_folder(kernel: Any) -> Path | None:
    """The folder of a kernel's compiled code on disk; None if none can be written."""
    path = kernel._cache.cache_path
    return None if path is None else Path(path)


@intrinsic
def address(typing_context, array):
    """Address of the first element as an int64; ``array.ctypes.data`` takes longer to compile."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.intp))

    return types.intp(array), generate


@intrinsic
def bits(typing_context, value):
    """The bits of a float32 as uint32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), generate


@intrinsic
def float_of(typing_context, value):
    """The float32 with the bits of a uint32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


def round_bits(b):
    """Bits of a float32 (uint32, or a NumPy array of them), so that the upper half is the nearest bfloat16.

    Ties are rounded to even. The lower half is not cleared, and some NaNs become infinite.
    """
    odd = (b >> np.uint32(16)) & np.uint32(1)
    return b + np.uint32(0x7FFF) + odd


round_bits_inner = inner(round_bits)


def widen(value):
    """A stored number (float32, or bfloat16 as uint16) as float32."""
    raise NotImplementedError


def narrow(x, stored):
    """A float32 ``x`` in the type of ``stored`` (float32, or bfloat16 as uint16)."""
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
        upper = round_bits_inner(bits(x)) >> np.uint32(16)
        return np.uint16(np.uint32(0x7FC0) if x != x else upper)

    return rounded


def split_exp(x, stored):
    """``scale`` and ``rest`` of ``exp(x) = scale * (1 + rest)``, for |x| <= 80.

    ``scale`` is a power of two and |rest| < 0.42. The result is exact to the last digit of float32, or to 5e-5 if
    ``stored`` is bfloat16, which has a precision of 4e-3.
    """
    raise NotImplementedError


@inner
def _reduce(x):
    """exp(x) as a power of two and a remaining exponent of at most ln(2) / 2 in magnitude."""
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
