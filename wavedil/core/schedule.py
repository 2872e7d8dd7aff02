"""Dilation schedules: the dilation of each layer of a stack.

A schedule is a sequence of positive integers, one per layer, or text::

    "1..512"                doubling: 1, 2, 4, ..., 512
    "1..512 x3"             the same, repeated three times (WaveNet)
    "1,2,5 x4"              a list, repeated
    "1..512 x2 + 1,2,5"     groups in sequence
    "hybrid(6, field=63)"   a registered schedule function; see ``register_schedule``

Public functions and modules that take a schedule accept all of these; ``parse_schedule`` converts them to a tuple.
"""

import inspect
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from wavedil.core.schema import plain
from wavedil.errors import WavedilError, one_of, shown

MAX_DILATION = 2**24
MAX_LAYERS = 10_000


@dataclass(frozen=True)
class LayerLimit:
    """The schedules of a module: each layer of it is built, which takes a millisecond."""

    limit: int

    def allows(self, schedule: Any) -> bool:
        if (layers := len(parse_schedule(schedule))) > self.limit:
            raise WavedilError(f"the schedule has {layers} layers: expected at most {self.limit} in a network")
        return True

    def describe(self, kind: Any, plural: bool = False) -> str:
        return f"dilations; {_NOTATION}"

    def __repr__(self) -> str:  # in the help of recipes
        return f"1..{self.limit} layers"


Schedule = Annotated[Sequence[int] | str | int, LayerLimit(1000)]

_MAX_NESTING = 8

_NOTATION = 'write for example "1..512 x3", "1,2,5 x4", "hybrid(3, 17)", [1, 2, 5] or 4'

_FUNCTIONS: dict[str, Callable[..., Schedule]] = {}


def register_schedule(name: str, function: Callable[..., Schedule]) -> None:
    """Makes a schedule function available in schedule texts, e.g. in recipes: ``"name(arguments)"``.

    Register it before loading a model too: a saved model can contain the text.

    Args:
        name: letters, digits and underscores.
        function: returns a schedule. Its arguments in a text are integers or schedules, passed as ints and tuples; each
            may be preceded by ``keyword=``.

    Example::

        def fibonacci(layers):
            rates = [1, 2]
            while len(rates) < layers:
                rates.append(rates[-1] + rates[-2])
            return rates[:layers]

        register_schedule("fibonacci", fibonacci)
        stack = DilatedStack(1, 64, "fibonacci(9) x2")

    Raises:
        WavedilError: an invalid name, or one that is registered for another function.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise WavedilError(f"name is {name!r}: expected letters, digits and underscores")
    # A notebook cell that runs twice defines the same function twice: the second replaces the first.
    if name in _FUNCTIONS and _definition(_FUNCTIONS[name]) != _definition(function):
        raise WavedilError(f"name is {name!r}: another schedule has this name; choose a different one")
    _FUNCTIONS[name] = function


def _definition(function: Callable) -> tuple[str | None, str | None]:
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def doubling(maximum: int = 512, repeats: int = 1) -> tuple[int, ...]:
    """Dilations 1, 2, 4, ..., ``maximum``, repeated ``repeats`` times (WaveNet, arXiv 1609.03499, section 2.1).

    >>> doubling(8, repeats=2)
    (1, 2, 4, 8, 1, 2, 4, 8)

    Raises:
        WavedilError: ``maximum`` is not a power of two, or either argument is not positive.
    """
    maximum = _check_integer("maximum", maximum)
    return sawtooth(_doubled(1, maximum, "maximum"), repeats)


def sawtooth(dilations: Schedule, repeats: int) -> tuple[int, ...]:
    """The schedule ``dilations``, repeated ``repeats`` times.

    Raises:
        WavedilError: ``dilations`` is not a schedule, or ``repeats`` is not a positive integer.
    """
    return _repeated(parse_schedule(dilations), _check_integer("repeats", repeats, MAX_LAYERS))


def hybrid(layers: int, field: int, kernel_size: int = 3) -> tuple[int, ...]:
    """Hybrid dilated convolution (HDC): dilations that rise from 1 and leave no holes in the receptive field.

    Wang et al. (arXiv 1702.08502, section 3.2) choose the dilations of a group so that the largest distance between two
    inputs that the group uses is at most the kernel size, e.g. 1, 2, 5 for a kernel of 3. Here the dilations grow
    nearly geometrically. None exceeds the receptive field of the layers before it, which would leave a hole, nor three
    times the previous dilation, which would increase the paper's distance (see ``gridding.hdc_distances``).

    Args:
        layers: number of layers in the group.
        field: receptive field in input positions; rounded to the nearest possible value.
        kernel_size: kernel along one axis, at least 2.

    >>> hybrid(3, field=17)
    (1, 2, 5)

    Raises:
        WavedilError: this number of layers cannot have this field without holes; the message has the possible range.
    """
    layers = _check_integer("layers", layers, MAX_LAYERS)
    field = _check_integer("field", field, MAX_DILATION * MAX_LAYERS)
    kernel_size = _check_integer("kernel_size", kernel_size)
    if kernel_size < 2:
        raise WavedilError("kernel_size is 1: expected at least 2, since a kernel of 1 does not widen the field")
    total = round((field - 1) / (kernel_size - 1))
    highest = sum(_geometric(3.0, layers, kernel_size))
    if not layers <= total <= highest:
        narrow, wide = 1 + (kernel_size - 1) * layers, 1 + (kernel_size - 1) * highest
        raise WavedilError(
            f"field is {field}: {layers} layers of kernel {kernel_size} reach {narrow} to {wide} positions without "
            "holes; change field, layers or kernel_size"
        )
    low, high = 1.0, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(_geometric(middle, layers, kernel_size)) <= total:
            low = middle
        else:
            high = middle
    dilations = _geometric(low, layers, kernel_size)
    # Rounding leaves a small remainder: add it to the last layers, each up to its bound. A larger dilation only raises
    # the bounds of the layers after it, so the loop ends.
    while remainder := total - sum(dilations):
        before = total - remainder
        for i in range(layers - 1, 0, -1):
            before -= dilations[i]
            step = min(remainder, _bound(before, dilations[i - 1], kernel_size) - dilations[i])
            if step > 0:
                dilations[i] += step
                break
    return tuple(dilations)


for _function in (doubling, sawtooth, hybrid):
    register_schedule(_function.__name__, _function)


def parse_schedule(schedule: Schedule) -> tuple[int, ...]:
    """The dilations of ``schedule`` as a validated tuple of ints.

    Args:
        schedule: a sequence of positive integers, one integer (one layer), or text: items separated by commas or
            spaces, each an integer, a doubling range ``a..b``, a call ``name(...)`` of a registered function, or a
            schedule in brackets; ``xN`` (or ``×N``) after the items repeats them; ``+`` joins such groups.

    Raises:
        WavedilError: an empty schedule, values that are not positive integers, a dilation above 2**24, more than
            10,000 layers, a range whose end is not its start times a power of two, or an unknown function.
    """
    if isinstance(schedule, str):
        dilations: list[int] = []
        for group in _split(schedule, "+", schedule):
            dilations += _parse_group(group, schedule)
            _check_length(len(dilations))
        return tuple(dilations)
    items = plain(schedule)
    if not isinstance(items, Sequence) or isinstance(items, bytes):
        if not hasattr(items, "__index__"):
            raise WavedilError(f"schedule is {shown(items)}: expected integers or text; {_NOTATION}")
        return (_check_integer("dilation", items),)
    if not items:
        raise WavedilError(f"the schedule is empty; {_NOTATION}")
    _check_length(len(items))
    return tuple(_check_integer(f"dilation of layer {i}", item) for i, item in enumerate(items, 1))


def parse_layers(schedule: Any, ndim: int) -> tuple[int | tuple[int, ...], ...]:
    """As :func:`parse_schedule`; the dilation of a layer may also be a sequence with one integer per axis."""
    items = list(schedule) if isinstance(schedule, list | tuple) else []
    if not any(isinstance(item, list | tuple) for item in items):
        return parse_schedule(schedule)
    layers: list[int | tuple[int, ...]] = []
    for number, item in enumerate(items, 1):
        if isinstance(item, list | tuple) and len(item) != ndim:
            raise WavedilError(
                f"dilation of layer {number} is {shown(item)}: expected an integer, or one for each of {ndim} axes"
            )
        layers += [parse_schedule(item)] if isinstance(item, list | tuple) else parse_schedule([item])
    _check_length(len(layers))
    return tuple(layers)


def format_schedule(dilations: Schedule) -> str:
    """A short text of a schedule; ``parse_schedule`` returns the same dilations from it.

    >>> format_schedule([1, 2, 4, 8, 1, 2, 4, 8])
    '1..8 x2'

    Raises:
        WavedilError: ``dilations`` is not a schedule.
    """
    dilations = parse_schedule(dilations)
    layers = len(dilations)
    period = next(n for n in range(1, layers + 1) if layers % n == 0 and dilations[n:] == dilations[:-n])
    return min(_list_text(dilations), f"{_list_text(dilations[:period])} x{layers // period}", key=len)


def _list_text(dilations: tuple[int, ...]) -> str:
    """Comma-separated dilations, with doubling runs of three or more as ranges."""
    items, start = [], 0
    while start < len(dilations):
        end = start + 1
        while end < len(dilations) and dilations[end] == 2 * dilations[end - 1]:
            end += 1
        if end - start < 3:
            end = start + 1
            items.append(str(dilations[start]))
        else:
            items.append(f"{dilations[start]}..{dilations[end - 1]}")
        start = end
    return ",".join(items)


def _geometric(ratio: float, layers: int, kernel_size: int) -> list[int]:
    """Dilations near 1, ratio, ratio**2, ..., each limited to the bound from the layers before it."""
    dilations, total, power = [1], 1, 1.0
    while len(dilations) < layers:
        power = ratio ** len(dilations) if power < MAX_DILATION else power  # without overflow
        bound = _bound(total, dilations[-1], kernel_size)
        dilations.append(min(max(round(min(power, MAX_DILATION)), dilations[-1]), bound))
        total += dilations[-1]
    return dilations


def _bound(total: int, last: int, kernel_size: int) -> int:
    """The largest dilation after layers of this sum without holes and without a larger distance in the HDC rule."""
    return min(1 + (kernel_size - 1) * total, 3 * last, MAX_DILATION)


def _repeated(group: Sequence[int], repeats: int) -> tuple[int, ...]:
    _check_length(len(group) * repeats)
    return tuple(group) * repeats


def _check_length(layers: int) -> None:
    if layers > MAX_LAYERS:
        raise WavedilError(f"the schedule has {layers} layers: expected at most {MAX_LAYERS}")


def _check_integer(name: str, value: object, limit: int = MAX_DILATION) -> int:
    """``value`` as an int from 1 to ``limit``; accepts NumPy integers, rejects booleans and floats."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if not 1 <= number <= limit:
        raise WavedilError(f"{name} is {shown(value)}: expected an integer from 1 to {limit}")
    return number


def _parse_group(group: str, text: str) -> tuple[int, ...]:
    """One group of the text form: items, then an optional ``xN``."""
    repeats = re.search(r"(?<![A-Za-z_])[x×]\s*([^\s,()\[\]]+)$", group.rstrip())
    items = [item for item in _split(group[: repeats.start()] if repeats else group, ", \t\r\n", text) if item]
    _check_length(len(items))
    if not items:
        raise WavedilError(f"schedule {shown(text)} has an empty group; {_NOTATION}")
    dilations: list[int] = []
    for item in items:
        dilations += _parse_item(item, text)
    return _repeated(dilations, _number(repeats[1], text, "repeats", MAX_LAYERS) if repeats else 1)


def _parse_item(item: str, text: str) -> Sequence[int]:
    if item[0] + item[-1] in ("[]", "()"):
        return parse_schedule(item[1:-1])
    if call := re.fullmatch(r"(\w+)\((.*)\)", item, re.DOTALL):
        return _call(call[1], call[2], text)
    first, dots, last = item.partition("..")
    start = _number(first, text)
    return _doubled(start, _number(last, text), repr(item)) if dots else [start]


def _call(name: str, arguments: str, text: str) -> tuple[int, ...]:
    """The dilations that a registered function returns for the arguments in a schedule text."""
    if name not in _FUNCTIONS:
        raise WavedilError(
            f"schedule {shown(text)}: {shown(name)} is not a known schedule; expected "
            f"{one_of(name, sorted(_FUNCTIONS))}; add others with wavedil.core.register_schedule"
        )
    function = _FUNCTIONS[name]
    positional, keywords = [], {}
    for argument in _split(arguments, ",", text) if arguments.strip() else []:
        keyword, equals, value = argument.rpartition("=")
        value = value.strip()
        value = int(value) if re.fullmatch(r"[+-]?[0-9]{1,12}", value) else parse_schedule(value)
        if equals:
            keywords[keyword.strip()] = value
        else:
            positional.append(value)
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*positional, **keywords)
    except TypeError as error:
        raise WavedilError(f"schedule {shown(text)}: {error}; the schedule is {name}{signature}") from None
    try:
        return parse_schedule(function(*bound.args, **bound.kwargs))
    except ValueError as error:
        raise WavedilError(f"schedule {shown(text)}: {name}: {error}") from None


def _split(part: str, separators: str, text: str) -> list[str]:
    """``part`` of the schedule ``text``, split at the separators outside of brackets."""
    pieces, depth, start = [], 0, 0
    for i, character in enumerate(part):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif not depth and character in separators:
            pieces.append(part[start:i])
            start = i + 1
        if not 0 <= depth <= _MAX_NESTING:
            break
    if depth:
        raise WavedilError(f"schedule {shown(text)}: brackets are not balanced, or nested deeper than {_MAX_NESTING}")
    return [*pieces, part[start:]]


def _number(digits: str, text: str, name: str = "dilation", limit: int = MAX_DILATION) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", digits):
        raise WavedilError(f"schedule {shown(text)}: {shown(digits)} is not an integer; {_NOTATION}")
    if len(digits) > 12:  # int() rejects very long numbers with an unrelated message
        raise WavedilError(f"schedule {shown(text)}: {name} is {digits[:12]}...: expected an integer from 1 to {limit}")
    return _check_integer(f"schedule {shown(text)}: {name}", int(digits), limit)


def _doubled(start: int, end: int, name: str) -> list[int]:
    """start, 2 start, 4 start, ..., end."""
    if end < start:
        raise WavedilError(
            f"{name}: a range doubles from its start, but {end} is below {start}; list falling dilations"
        )
    dilations = [start]
    while dilations[-1] < end:
        dilations.append(2 * dilations[-1])
    if dilations[-1] != end:
        nearest = [f"{start}..{last}" for last in dilations[-2:]]
        raise WavedilError(
            f"{name}: a range doubles from its start, but {end} is not {start} times a power of two; use "
            f"{' or '.join(nearest)}"
        )
    return dilations
