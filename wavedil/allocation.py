"""A limit on the memory that building a model may allocate."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from wavedil.errors import WavedilError


class AllocationLimitError(WavedilError):
    """More numbers or operations were requested than the limit allows."""


class AllocationLimit(TorchFunctionMode):
    """Context manager that lets torch create 8 times as many numbers as ``tensors`` hold, plus ``SLACK``.

    The check runs before memory is allocated. (Building on the meta device would find the shapes too, but it imports
    sympy and torch._dynamo, which takes seconds.) The number of operations is limited as well, since layers without
    many numbers take time.

    Raises:
        AllocationLimitError: in the call that exceeds the limit.
    """

    SLACK = 2**25  # numbers, for buffers that are not saved
    CALLS, CALLS_PER_TENSOR = 50_000, 100  # a tensor takes 4 to 12

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        self.left = self.SLACK + 8 * sum(value.numel() for value in tensors.values())
        self.calls_left: float = self.CALLS + self.CALLS_PER_TENSOR * len(tensors)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        count = _count(getattr(func, "__name__", ""), args, kwargs)
        self.left -= count
        self.calls_left -= 1
        if self.left < 0 or self.calls_left < 0:
            raise self.error(count)
        return func(*args, **kwargs)

    def error(self, count: int) -> AllocationLimitError:
        return AllocationLimitError(f"{count} numbers are far more than the weights have")


class ModelLimit(AllocationLimit):
    """A limit that no published model reaches, for an argument with a digit too many."""

    NUMBERS = 2**32
    _is_active = ContextVar("is_active", default=False)

    def __init__(self, name: str):
        super().__init__({})
        self.name, self.left, self.calls_left = name, self.NUMBERS, math.inf

    def error(self, count: int) -> AllocationLimitError:
        return AllocationLimitError(
            f"{self.name} would have more than {self.NUMBERS} numbers, of which a layer asks for {count}: expected "
            "smaller channels or kernel sizes"
        )


@contextmanager
def model_limit(name: str) -> Iterator[None]:
    """A :class:`ModelLimit` around the outermost of constructors that call each other."""
    if ModelLimit._is_active.get():
        yield
        return
    token = ModelLimit._is_active.set(True)
    try:
        with ModelLimit(name):
            yield
    finally:
        ModelLimit._is_active.reset(token)


_BY_SIZE = {"empty", "empty_strided", "zeros", "ones", "full", "rand", "randn", "randint", "randperm"}
_BY_SIZE |= {"new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full"}
_BY_SIZE |= {"hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window"}


def _count(name: str, args: tuple, kwargs: dict) -> int:
    """Numbers in the tensor that a torch function creates; 0 for functions that are not limited."""
    if name in _BY_SIZE:
        size = next((arg for arg in (*args, kwargs.get("size")) if isinstance(arg, list | tuple)), args)
        return math.prod(length for length in size if isinstance(length, int))
    if name == "eye":
        rows = args[0] if args else kwargs["n"]
        return rows * (args[1] if len(args) > 1 else kwargs.get("m") or rows)
    if name in ("linspace", "logspace"):
        return args[2] if len(args) > 2 else kwargs["steps"]
    if name in ("arange", "range"):
        start, end = (0, args[0]) if len(args) == 1 else args[:2] if args else (kwargs.get("start", 0), kwargs["end"])
        step = args[2] if len(args) > 2 else kwargs.get("step", 1)
        return max(0, math.ceil((end - start) / step)) if step else 0
    return 0
