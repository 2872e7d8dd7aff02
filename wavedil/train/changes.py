"""Differences between the options of a run and those of its resumption."""

from collections.abc import Iterator
from typing import Any

from wavedil.errors import shortened, shown

_MISSING = object()


def changes(before: Any, after: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the key, old value and new value of each difference between nested dictionaries; None if it is missing."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            name = place if key in ("init_args", "arguments") else f"{place}.{key}" if place else str(key)
            yield from changes(before.get(key, _MISSING), after.get(key, _MISSING), name)
    elif _plain(before) != _plain(after):
        yield place, *(None if each is _MISSING else each for each in (before, after))


def describe(found: list[tuple[str, Any, Any]]) -> str:
    """The changes in a line, e.g. ``trainer.max_steps (700, now 900)``."""
    return shortened(", ".join(f"{key} ({shown(old)}, now {shown(new)})" for key, old, new in found), 500)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
