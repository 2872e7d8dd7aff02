"""Dilation schedules: which dilation each layer of a stack has.

A schedule is a list of positive integers, one per layer, or a short text for such a list::

    "1..512"            doubling: 1, 2, 4, ..., 512
    "1..512 x3"         that, three times over (a sawtooth; WaveNet's schedule)
    "1,2,5 x4"          any list, repeated
    "1..512 x2 + 1,2,5" one after another

Every public function that takes a schedule passes it through `parse_schedule`.
"""

import operator
import re
from collections.abc import Sequence

from wavedil.errors import WavedilError

Schedule = Sequence[int] | str | int

MAX_DILATION = 2**24
MAX_LAYERS = 10_000
# The longest repeated group that `format_schedule` looks for, besides the schedule's own period.
_LONGEST_GROUP = 64

_NOTATION = 'write for example "1..512 x3", "1,2,5 x4", [1, 2, 5] or 4'


def doubling(maximum: int = 512, repeats: int = 1) -> tuple[int, ...]:
    """Dilations 1, 2, 4, ..., `maximum`, the whole `repeats` times (WaveNet, arXiv 1609.03499, 2.1).

    >>> doubling(8, repeats=2)
    (1, 2, 4, 8, 1, 2, 4, 8)

    Raises:
        WavedilError: `maximum` is not a power of two, or either argument is not positive.
    """
    maximum = _checked(maximum, "maximum")
    return sawtooth(_doubled(1, maximum, "maximum"), repeats)


def sawtooth(dilations: Schedule, repeats: int) -> tuple[int, ...]:
    """The schedule `dilations`, `repeats` times over.

    Raises:
        WavedilError: `dilations` is no schedule, or `repeats` is not a positive integer.
    """
    group = parse_schedule(dilations)
    return _repeated(group, _checked(repeats, "repeats", limit=MAX_LAYERS))


def hybrid(layers: int, field: int, kernel_size: int = 3) -> tuple[int, ...]:
    """Hybrid dilated convolution (HDC): rising rates from 1 that leave no hole.

    Wang et al. (arXiv 1702.08502, 3.2) choose a group's rates so that the largest distance between
    two inputs that the group uses stays within the kernel, e.g. 1, 2, 5 for a kernel of 3. Here the
    rates grow nearly geometrically and no rate exceeds the field of the layers before it (so the
    coverage has no gap), nor three times the rate before it (so the paper's M_2 stays at r_2).

    Args:
        layers: number of layers in the group.
        field: wanted receptive field in input positions; the nearest reachable one is taken.
        kernel_size: kernel along one axis, at least 2.

    >>> hybrid(3, field=17)
    (1, 2, 5)

    Raises:
        WavedilError: that many layers cannot have such a field without holes; says what they can.
    """
    layers = _checked(layers, "layers", limit=MAX_LAYERS)
    field = _checked(field, "field", limit=MAX_DILATION * MAX_LAYERS)
    kernel_size = _checked(kernel_size, "kernel_size")
    if kernel_size < 2:
        raise WavedilError("kernel_size 1 never widens the field; hybrid rates need at least 2")
    total = round((field - 1) / (kernel_size - 1))
    highest = sum(_geometric(3.0, layers, kernel_size))
    if not layers <= total <= highest:
        narrow, wide = 1 + (kernel_size - 1) * layers, 1 + (kernel_size - 1) * highest
        raise WavedilError(
            f"{layers} layers of kernel {kernel_size} have a field of {narrow} to {wide} positions "
            f"without holes, not {field}; change layers, field or kernel_size"
        )
    low, high = 1.0, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(_geometric(middle, layers, kernel_size)) <= total:
            low = middle
        else:
            high = middle
    rates = _geometric(low, layers, kernel_size)
    # Rounding leaves a small rest: give it to the last layers, each as far as its bound allows.
    # An earlier rate that rises only loosens the bounds behind it, so the rest always finds room.
    while rest := total - sum(rates):
        for i in range(layers - 1, 0, -1):
            step = min(rest, _bound(rates[:i], kernel_size) - rates[i])
            if step > 0:
                rates[i] += step
                break
    return tuple(rates)


def parse_schedule(schedule: Schedule) -> tuple[int, ...]:
    """The dilations of `schedule`, checked, as a tuple of ints.

    Args:
        schedule: a sequence of positive integers, one integer (one layer), or text: items separated
            by commas or spaces, each an integer or a doubling range `a..b`; `xN` (or `×N`) behind
            them repeats them; `+` joins such groups.

    Raises:
        WavedilError: empty, not integers, not positive, a dilation above 2**24, more than 10,000
            layers, or a range whose end is not its start times a power of two.
    """
    if isinstance(schedule, str):
        dilations: list[int] = []
        for group in _without_brackets(schedule).split("+"):
            dilations += _parse_group(group, schedule)
            _check_length(len(dilations))
        return tuple(dilations)
    items = schedule.tolist() if hasattr(schedule, "tolist") else schedule  # arrays and tensors
    if not isinstance(items, Sequence) or isinstance(items, bytes):
        return (_checked(items, "dilation"),)
    if not items:
        raise WavedilError(f"the schedule is empty; {_NOTATION}")
    _check_length(len(items))
    return tuple(_checked(item, f"dilation of layer {i}") for i, item in enumerate(items, 1))


def format_schedule(dilations: Schedule) -> str:
    """A short text for a schedule; `parse_schedule` gives the same dilations back.

    >>> format_schedule([1, 2, 4, 8, 1, 2, 4, 8])
    '1..8 x2'

    Raises:
        WavedilError: `dilations` is no schedule.
    """
    rates = parse_schedule(dilations)
    n = len(rates)
    repeats = _repeated_groups(rates)
    # Shortest text for rates[i:], found from the end. `listed[i]` begins with an item of a plain
    # list, so a list may run on into it by a comma; `best[i]` may begin with a repeated group.
    listed: list[str] = [""] * (n + 1)
    best: list[str] = [""] * (n + 1)
    for i in range(n - 1, -1, -1):
        options = []
        for j in _item_ends(rates, i):
            item = _item(rates, i, j)
            options += [item] if j == n else [f"{item},{listed[j]}", f"{item} + {best[j]}"]
        listed[i] = min(options, key=len)
        for period, count in repeats[i]:
            j = i + period * count
            text = f"{_list_text(rates[i : i + period])} x{count}"
            options.append(text if j == n else f"{text} + {best[j]}")
        best[i] = min(options, key=len)
    return best[0]


def _geometric(ratio: float, layers: int, kernel_size: int) -> list[int]:
    """Rates near 1, ratio, ratio**2, ..., each within the bound that its predecessors set."""
    rates = [1]
    while len(rates) < layers:
        wanted = round(min(ratio ** len(rates), MAX_DILATION))
        rates.append(min(max(wanted, rates[-1]), _bound(rates, kernel_size)))
    return rates


def _bound(before: list[int], kernel_size: int) -> int:
    """The largest rate behind `before` that leaves no gap and keeps M_i = r_i in the HDC rule."""
    return min(1 + (kernel_size - 1) * sum(before), 3 * before[-1], MAX_DILATION)


def _repeated(group: Sequence[int], repeats: int) -> tuple[int, ...]:
    _check_length(len(group) * repeats)
    return tuple(group) * repeats


def _check_length(layers: int) -> None:
    if layers > MAX_LAYERS:
        raise WavedilError(f"the schedule has {layers} layers; at most {MAX_LAYERS} are allowed")


def _checked(value: object, name: str, limit: int = MAX_DILATION) -> int:
    """`value` as a positive int up to `limit`; numpy integers pass, booleans and floats do not."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise WavedilError(f"{name} must be an integer, got {value!r}; {_NOTATION}")
    if number < 1:
        raise WavedilError(f"{name} must be at least 1, got {number}")
    if number > limit:
        raise WavedilError(f"{name} must be at most {limit}, got {number}")
    return number


def _without_brackets(text: str) -> str:
    text = text.strip()
    return text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text


def _parse_group(group: str, text: str) -> tuple[int, ...]:
    """One group of the text form: items, then an optional `xN`."""
    match = re.fullmatch(r"(?P<items>.*?)(?:[x×]\s*(?P<repeats>\S+))?", group.strip(), re.DOTALL)
    items = [item for item in re.split(r"[,\s]+", match["items"].strip()) if item] if match else []
    if not match or not items:
        raise WavedilError(f"schedule {text!r} has an empty group; {_NOTATION}")
    dilations: list[int] = []
    for item in items:
        first, dots, last = item.partition("..")
        start = _number(first, text)
        dilations += _doubled(start, _number(last, text), repr(item)) if dots else [start]
    repeats = 1 if match["repeats"] is None else _number(match["repeats"], text, MAX_LAYERS)
    return _repeated(dilations, repeats)


def _number(digits: str, text: str, limit: int = MAX_DILATION) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", digits):
        raise WavedilError(f"schedule {text!r}: {digits!r} is not an integer; {_NOTATION}")
    if len(digits) > 12:  # int() itself refuses some thousand digits, with a message about itself
        raise WavedilError(f"schedule {text!r}: {digits[:12]}... is above the largest, {limit}")
    return _checked(int(digits), f"schedule {text!r}: each number", limit)


def _doubled(start: int, end: int, name: str) -> list[int]:
    """start, 2 start, 4 start, ..., end."""
    rates = [start]
    while rates[-1] < end:
        rates.append(2 * rates[-1])
    if end < start:
        raise WavedilError(
            f"{name}: a range doubles upwards, and {end} is below {start}; write falling dilations one by one"
        )
    if rates[-1] != end:
        nearest = [f"{start}..{rate}" for rate in rates[-2:]]
        raise WavedilError(
            f"{name}: a range doubles, and {end} is not {start} times a power of two; use {' or '.join(nearest)}"
        )
    return rates


def _repeated_groups(rates: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """For each position, the (period, count) of groups that start there and repeat, count > 1."""
    n = len(rates)
    found: list[list[tuple[int, int]]] = [[] for _ in rates]
    for period in range(1, n // 2 + 1):
        if period > _LONGEST_GROUP and (n % period or rates[period:] != rates[:-period]):
            continue
        same = 0
        for i in range(n - period - 1, -1, -1):
            same = same + 1 if rates[i] == rates[i + period] else 0
            count = 1 + same // period
            # A group that only strings together a shorter group found before adds nothing.
            if count > 1 and not any(
                period % shorter == 0 and shorter * times >= period * count for shorter, times in found[i]
            ):
                found[i].append((period, count))
    return found


def _item_ends(rates: tuple[int, ...], start: int) -> list[int]:
    """Where an item of the text form that starts at `start` may end: one rate, or a doubling run."""
    ends = [start + 1]
    while ends[-1] < len(rates) and rates[ends[-1]] == 2 * rates[ends[-1] - 1]:
        ends.append(ends[-1] + 1)
    return ends


def _item(rates: tuple[int, ...], start: int, end: int) -> str:
    return str(rates[start]) if end == start + 1 else f"{rates[start]}..{rates[end - 1]}"


def _list_text(rates: tuple[int, ...]) -> str:
    """Items by commas, doubling runs of three or more as ranges (a pair is shorter as it is)."""
    items, i = [], 0
    while i < len(rates):
        end = _item_ends(rates, i)[-1]
        end = end if end - i > 2 else i + 1
        items.append(_item(rates, i, end))
        i = end
    return ",".join(items)
