"""Files that are whole or not there; and which of many."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from wavedil.errors import WavedilError


@contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` to write to; renamed to it at the end, removed if that is not reached.

    So a reader, or a run that is interrupted, never leaves or sees half a file. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def matching(paths: Sequence[Path], pattern: str, name: str) -> set[Path]:
    """The paths whose part below their common folder, without suffix, holds the regular expression of option ``name``.

    Raises:
        WavedilError: no regular expression.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise WavedilError(f"{name}={pattern!r} is not a regular expression: {error}") from None
    places = {path: Path(os.path.abspath(path)) for path in paths}  # a table may have both kinds
    root = os.path.commonpath([place.parent for place in places.values()])
    names = {path: place.relative_to(root).with_suffix("").as_posix() for path, place in places.items()}
    return {path for path, name in names.items() if expression.search(name)}


def by_name(paths: Iterable[tuple[str, Path]], kind: str) -> dict[str, Path]:
    """``(name, path)`` as a dictionary.

    Raises:
        WavedilError: two of one name, of which ``kind`` says what they are.
    """
    named: dict[str, Path] = {}
    for name, path in paths:
        if name in named:
            raise WavedilError(f"{named[name]} and {path.name}: two {kind}s of one name, keep one of them")
        named[name] = path
    return named


def matched(
    first: Mapping[str, Path], second: Mapping[str, Path], kinds: tuple[str, str], remedy: str
) -> list[tuple[Path, Path]]:
    """The paths of each name, sorted.

    Raises:
        WavedilError: naming the first path that stands alone; ``kinds`` says what the two are.
    """
    for paths, others, what in ((first, second, kinds[1]), (second, first, kinds[0])):
        alone = sorted(paths.keys() - others.keys())
        if alone:
            raise WavedilError(
                f"{paths[alone[0]]} has no {what} of its name ({len(alone)} of {len(paths)} such): {remedy}"
            )
    return [(first[name], second[name]) for name in sorted(first)]
