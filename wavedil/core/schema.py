"""Types and ranges of arguments: they are the annotations of the function, and are checked when it is called.

``int``, ``float``, ``bool``, ``str``, classes, unions, ``Literal``, ``Sequence[int]``, ``Mapping[str, float]`` and
``Callable`` mean what they mean to a type checker; ``Annotated[int, Range(1, 8)]`` adds a range. An integer is also a
``float``, a boolean is neither, and tuples and lists are equal, since JSON has only lists. NumPy scalars and arrays
become plain numbers and lists. An argument without an annotation, or with another one, may be anything.
"""

import functools
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

from wavedil.errors import WavedilError, shown, similar

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``, without the ends that are excluded; NaN is not in any range."""

    low: float
    high: float
    exclude_low: bool = False
    exclude_high: bool = False

    def allows(self, value: float) -> bool:
        above = self.low < value if self.exclude_low else self.low <= value
        return above and (value < self.high if self.exclude_high else value <= self.high)

    def describe(self, kind: Any, plural: bool = False) -> str:
        low, high = f"{self.low:.15g}", f"{self.high:.15g}"
        if kind is int and self.high - self.low == 2 and not plural:
            return f"{low}, {self.low + 1} or {high}"
        if kind is int and self.low == 1:
            return ("positive integers" if plural else "a positive integer") + f" up to {high}" * (self.high < 2**62)
        name = describe(kind, plural)
        if kind is int and self.high >= 2**62:
            return f"{name} of at least {low}"
        if not self.exclude_low and not self.exclude_high:
            return f"{name} from {low} to {high}"
        ends = ("above " if self.exclude_low else "of at least ") + low
        return f"{name} {ends} and {'below' if self.exclude_high else 'at most'} {high}"

    def __repr__(self) -> str:  # in the help of recipes
        return f"{'>' if self.exclude_low else ''}{self.low:.15g}..{'<' if self.exclude_high else ''}{self.high:.15g}"


# Limits are far above those of published networks: they bound what a config from somebody else can ask for.
Dimensions = Annotated[int, Range(1, 3)]
Channels = Annotated[int, Range(1, 2**16)]
OptionalChannels = Annotated[int, Range(0, 2**16)]  # 0 for none
Width = Annotated[int, Range(1, 2**24)]  # of a layer, whose channels may be those of several joined ones
Classes = Annotated[int, Range(1, 2**16)]
Taps = Annotated[int, Range(1, 2**20)]
Dilation = Annotated[int, Range(1, 2**24)]
Stride = Annotated[int, Range(1, 2**16)]
Layers = Annotated[int, Range(1, 1000)]
LayersPerSegment = Annotated[int, Range(0, 1000)]  # 0 for no segments
SampleRate = Annotated[int, Range(1, 10**7)]
Seconds = Annotated[float, Range(1e-9, 1e6)]
Scale = Annotated[float, Range(-1e6, 1e6)]
Positive = Annotated[float, Range(0, 1e9, exclude_low=True)]
Dropout = Annotated[float, Range(0, 1, exclude_high=True)]


def checked(function: Function) -> Function:
    """Decorator: checks the arguments of each call, see :mod:`wavedil.core.schema`.

    Calls that are compiled, exported or traced are not checked: sizes may be symbols there, and a check would end the
    graph.

    Raises:
        WavedilError: in the call, if an argument is not what its annotation says.
    """
    arguments = Arguments(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        torch = sys.modules.get("torch")  # not imported here: schedules are inspected without it
        if torch is not None and (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            return function(*args, **kwargs)
        bound = arguments.bind(args, kwargs)
        return function(*args, **kwargs) if bound is None else function(*bound.args, **bound.kwargs)

    return call


class Arguments:
    """The arguments that a function takes."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.signature = function, inspect.signature(function)

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """The annotation of each argument, Any where there is none. Read late: it may name a class below."""
        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
        except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
            hints = {}
        return {name: hints.get(name, Any) for name in self.signature.parameters}

    def bind(self, args: tuple, kwargs: Mapping[str, Any]) -> inspect.BoundArguments | None:
        """The arguments of a call; None if they do not fit the signature, which the call itself reports.

        Raises:
            WavedilError: an argument is not what its annotation says, or its name is misspelt.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:
            self._check_names(kwargs)
            return None
        for name, value in bound.arguments.items():
            parameter, hint = self.signature.parameters[name], self.hints[name]
            if parameter.kind is parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: check(key, item, hint) for key, item in value.items()}
            elif parameter.kind is parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(check(name, item, hint) for item in value)
            elif value is not parameter.default:
                bound.arguments[name] = check(name, value, hint)
        return bound

    def _check_names(self, names: Mapping[str, Any]) -> None:
        """Raises WavedilError for an unknown name that resembles an argument; the call reports the others.

        A function with ``**options`` would report only the argument that is missing.
        """
        known = [name for name, one in self.signature.parameters.items() if one.kind in _NAMED and name != "self"]
        absent = [name for name in known if name not in names]
        for name in names:
            if name not in known and (meant := similar(name, absent)) is not None:
                function = self.function.__qualname__.removesuffix(".__init__")
                raise WavedilError(f"{name} is not an argument of {function}: did you mean {meant}?")


def check(name: str, value: Any, hint: Any) -> Any:
    """``value``, with plain numbers for those of NumPy.

    Raises:
        WavedilError: the annotation ``hint`` of the argument ``name`` does not allow it.
    """
    try:
        return _fitted(hint, value)
    except _MisfitError:
        found = "empty" if isinstance(value, str) and not value else shown(value)
        raise WavedilError(f"{name} is {found}: expected {describe(hint)}") from None


class _MisfitError(Exception):
    """The value is not what the annotation says."""


_PLAIN: dict[Any, tuple[type | tuple[type, ...], str, str]] = {
    bool: (bool, "true or false", "booleans"),
    int: (int, "an integer", "integers"),
    float: ((int, float), "a number", "numbers"),
    str: (str, "a text", "texts"),
    type(None): (type(None), "None", "None"),
}


def _fitted(hint: Any, value: Any) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    kind = origin or hint
    if origin is Annotated:
        value = _fitted(options[0], value)
        return _require(value, all(rule.allows(value) for rule in options[1:] if hasattr(rule, "allows")))
    if kind in (Union, types.UnionType):
        for option in options:
            try:
                return _fitted(option, value)
            except _MisfitError:
                continue
        raise _MisfitError
    if kind is Literal:
        return _require(value, any(type(value) is type(option) and value == option for option in options))
    if kind in _PLAIN:
        value = plain(value) if getattr(value, "ndim", None) == 0 else value  # a NumPy scalar, or a tensor of one
        return _require(value, isinstance(value, _PLAIN[kind][0]) and (kind is bool or not isinstance(value, bool)))
    if kind is Callable:
        return _require(value, callable(value))
    if not isinstance(kind, type) or kind is object:
        return value
    if issubclass(kind, Mapping):
        return _fitted_mapping(options, _require(value, isinstance(value, Mapping)))
    if kind in (list, tuple, Sequence, Iterable):
        return _fitted_sequence(kind, options, value)
    try:
        return _require(value, isinstance(value, kind))
    except TypeError:  # a protocol that is not for run time
        return value


def _fitted_mapping(options: tuple, value: Mapping) -> Mapping:
    if len(options) != 2:
        return value
    _require(value, options[0] is not str or all(isinstance(key, str) for key in value))
    return {key: _fitted(options[1], item) for key, item in value.items()}


def _fitted_sequence(kind: type, options: tuple, value: Any) -> Any:
    if getattr(value, "ndim", None) == 1:  # an array or a tensor
        value = plain(value)
    if kind is Iterable and not isinstance(value, Sequence):  # it may be read only once
        return _require(value, isinstance(value, Iterable) and _is_row(value))
    _require(value, isinstance(value, Sequence) and not isinstance(value, str | bytes))
    if not options:
        return value
    if kind is tuple and Ellipsis not in options:
        _require(value, len(value) == len(options))
    else:
        options = options[:1] * len(value)
    fitted = [_fitted(option, item) for option, item in zip(options, value, strict=True)]
    changed = any(one is not other for one, other in zip(fitted, value, strict=True))
    return type(value)(fitted) if changed and type(value) in (list, tuple) else fitted if changed else value


def _is_row(value: Any) -> bool:
    """False for tensors that cannot be iterated over: those without axes, sparse ones."""
    try:
        return not hasattr(value, "ndim") or (iter(value) is not None and not getattr(value, "is_sparse", False))
    except (RuntimeError, TypeError):
        return False


def plain(value: Any) -> Any:
    """Numbers or lists of a NumPy scalar, array or tensor; other values, and tensors without numbers, unchanged."""
    try:
        return value.tolist() if hasattr(value, "tolist") else value
    except (RuntimeError, TypeError):  # of the device meta, sparse; the class of an array
        return value


class _PathRule:
    """Paths that every common file system can have."""

    def __repr__(self) -> str:  # in the help of recipes
        return "path"

    def allows(self, value: Any) -> bool:
        text = os.fspath(value)
        if not text or isinstance(text, bytes) or "\0" in text:
            return False
        return all(len(part.encode(errors="surrogateescape")) <= 255 for part in text.replace("\\", "/").split("/"))

    def describe(self, kind: Any, plural: bool = False) -> str:
        return "paths" if plural else "a path, with names of at most 255 bytes and without null characters"


AnyPath = Annotated[str | os.PathLike, _PathRule()]
PathText = Annotated[str, _PathRule()]  # of recipes; Path("") would be the working folder


def _require(value: Any, condition: bool) -> Any:
    if not condition:
        raise _MisfitError
    return value


def describe(hint: Any, plural: bool = False) -> str:
    """An annotation in words."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    kind = origin or hint
    if origin is Annotated:
        rules = [rule for rule in options[1:] if hasattr(rule, "describe")]
        return rules[0].describe(options[0], plural) if rules else describe(options[0], plural)
    if kind in (Union, types.UnionType):
        return " or ".join(describe(option, plural) for option in options)
    if kind is Literal:
        return f"{'one of ' * (len(options) > 1)}{', '.join(map(str, options))}"
    if kind in _PLAIN:
        return _PLAIN[kind][1 + plural]
    if kind is Callable:
        return "functions" if plural else "a function"
    if kind in (list, tuple, Sequence, Iterable):
        what = "lists" if plural else "a list"
        if kind is tuple and options and Ellipsis not in options:
            return f"{what} of {len(options)} {describe(options[0], plural=True)}"
        return f"{what} of {describe(options[0], plural=True)}" if options else what
    if isinstance(kind, type) and issubclass(kind, Mapping):
        what = "dictionaries" if plural else "a dictionary"
        is_plain = len(options) != 2 or options[1] in (Any, object)
        return what if is_plain else f"{what} of {describe(options[1], plural=True)}"
    name = getattr(kind, "__name__", str(kind))
    return f"objects of {name}" if plural else f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
