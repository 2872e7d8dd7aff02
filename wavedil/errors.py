"""The error that wavedil raises for bad input, and checks that many modules share."""

import logging
import os
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any


class WavedilError(ValueError):
    """Invalid input, in one line: what is wrong, where, and what to do. Commands print it and exit with status 2."""

    def __init__(self, message: object = ""):
        text = str(message).rstrip()
        if (
            text.startswith("Caught ") and "\nOriginal Traceback" in text
        ):  # a DataLoader raises its worker's error again
            text = text.rpartition("\n")[2].partition(": ")[2]
        super().__init__(printable(text))


class Interrupted(WavedilError):
    """A signal ended a command that has no result yet; ``status`` is the exit status of the shell."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple:  # exceptions are pickled with the message alone
        return type(self), (str(self), self.status)


class Diverged(WavedilError):
    """The weights of a training are not finite, or its loss has exploded."""


def printable(text: object) -> str:
    r"""The text with escapes (``\\n``, ``\\x1b``, ``\\udcff``) for characters that no terminal or log should get.

    File names may hold any of them: control characters, and bytes that are not UTF-8.
    """
    return "".join(
        char if char.isprintable() or char == " " else char.encode("unicode_escape").decode() for char in str(text)
    )


def similar(name: object, known: Iterable[object]) -> str | None:
    """The name in ``known`` that is most similar to ``name``; None if none is similar."""
    import difflib  # takes time, and only errors need it

    names = {str(each).lower(): str(each) for each in known}
    found = difflib.get_close_matches(str(name).lower(), names, 1, 0.7)
    return names[found[0]] if found else None


def one_of(name: object, known: Iterable[object], some: bool = False) -> str:
    """The end of a message about an unknown name: ``"one of a, b, c; did you mean b?"``."""
    known = list(known)
    found = similar(name, known)
    names = f"{'some' if some else 'one'} of {', '.join(map(str, known))}" if known else "none"
    return names + (f"; did you mean {found}?" if found else "")


def count_text(count: int, noun: str) -> str:
    """A number and its noun, e.g. "1 file", "2 classes" or "3 entries"."""
    if count == 1:
        return f"{count} {noun}"
    plural = {"axis": "axes", "entry": "entries", "class": "classes"}.get(noun, f"{noun}s")
    return f"{count} {plural}"


def with_article(value: object) -> str:
    """The name of a class, or of an object's class, in a sentence: "an Effect", "a WaveNet"."""
    cls = value if isinstance(value, type) else type(value)
    return f"{'an' if cls.__name__[0] in 'AEIOaeio' else 'a'} {cls.__name__}"


def check_positive(**values: object) -> None:
    """Raises WavedilError unless each value is a positive integer; the keywords are the arguments' names."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise WavedilError(f"{name} is {value!r}: expected a positive integer")


_ITEMS = 20  # of a list in a message


def shown(value: object, limit: int = 80) -> str:
    """``value`` for a message: one line of at most ``limit`` characters, with objects by their class."""
    return shortened(_shown(value, limit, 0), limit)


def shortened(text: str, limit: int = 1000) -> str:
    """The first ``limit`` characters, with an ellipsis at the end if there are more."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _shown(value: object, limit: int, depth: int) -> str:
    if isinstance(value, list | tuple | dict) and depth < 3:
        if isinstance(value, dict):
            text = ", ".join(f"{key!r}: {_shown(value[key], limit, depth + 1)}" for key in list(value)[:_ITEMS])
            return f"{{{text}}}"
        text = ", ".join(_shown(item, limit, depth + 1) for item in value[:_ITEMS])
        return f"[{text}]" if isinstance(value, list) else f"({text}{',' * (len(value) == 1)})"
    if isinstance(value, int) and abs(value) >= 10**limit:
        return f"an integer of more than {limit} digits"
    if value is None or isinstance(value, str | int | float):
        return repr(value[:limit] if isinstance(value, str) else value)
    return f"the class {value.__name__}" if isinstance(value, type) else with_article(value)


def matched(**columns: Iterable[Any] | None) -> Iterator[tuple]:
    """Yields the entries of iterables that belong together, like ``zip``; None stands for None in each row.

    Raises:
        WavedilError: one of them ends before the others.
    """
    ends = object()
    given = {name: column for name, column in columns.items() if column is not None}
    for row in zip_longest(*given.values(), fillvalue=ends):
        entries = dict(zip(given, row, strict=True))
        for name, entry in entries.items():
            if entry is ends:
                longer = next(other for other, value in entries.items() if value is not ends)
                raise WavedilError(f"{name} has fewer entries than {longer}: expected the same number")
        yield tuple(entries.get(name) for name in columns)


def first_line(error: BaseException) -> str:
    """First line of the message of another library's error, or the error's class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def warn_of_cache(name: str, place: str | os.PathLike[str], error: BaseException, without: str) -> None:
    """Logs, once in a process, that a cache on disk cannot be used; ``without``: what happens then, and the remedy."""
    if name not in _unusable:
        why = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        message = f"the cache of {name} in {place} cannot be used ({why or type(error).__name__}): {without}"
        logging.getLogger("wavedil").warning("%s", printable(message))
    _unusable.add(name)


_unusable: set[str] = set()  # caches that the user was warned of


def reason(error: OSError) -> str:
    """Why the system refused something, without number and file name."""
    return error.strerror or first_line(error)
