"""Atomic writing of files, and finding files that belong together by name."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from wavedil.errors import WavedilError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path``; renames it to ``path`` at the end, or removes it on an error.

    Readers therefore never see a half-written file, even if the process is interrupted. Creates missing folders.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


written_beside = atomic_write


def matching_paths(paths: Sequence[Path], pattern: str, option: str) -> set[Path]:
    """Finds the paths that match a regular expression.

    Args:
        paths: may be absolute, relative, or both.
        pattern: searched in each path below the common folder of all paths, without the suffix.
        option: name of the option that holds ``pattern``, for the error message.

    Raises:
        WavedilError: ``pattern`` is not a regular expression.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise WavedilError(f"{option}={pattern!r} is not a regular expression: {error}") from None
    absolute = {path: Path(os.path.abspath(path)) for path in paths}
    root = os.path.commonpath([path.parent for path in absolute.values()])
    names = {path: full.relative_to(root).with_suffix("").as_posix() for path, full in absolute.items()}
    return {path for path, name in names.items() if expression.search(name)}


def unique_names(paths: Iterable[tuple[str, Path]], kind: str) -> dict[str, Path]:
    """Dictionary of ``(name, path)`` pairs.

    Raises:
        WavedilError: two paths have the same name; ``kind`` is the noun for them in the message.
    """
    named: dict[str, Path] = {}
    for name, path in paths:
        if name in named:
            raise WavedilError(f"{named[name]} and {path.name}: two {kind}s have the same name, keep one of them")
        named[name] = path
    return named


def pair_by_name(
    first: Mapping[str, Path], second: Mapping[str, Path], kinds: tuple[str, str], remedy: str
) -> list[tuple[Path, Path]]:
    """Pairs the paths that have the same name, sorted by name.

    Args:
        first, second: paths by name.
        kinds: nouns for the two, for the error message.
        remedy: what to do about a path without a partner, for the error message.

    Raises:
        WavedilError: a path has no partner.
    """
    for paths, others, kind in ((first, second, kinds[1]), (second, first, kinds[0])):
        unpaired = sorted(paths.keys() - others.keys())
        if unpaired:
            raise WavedilError(
                f"{paths[unpaired[0]]} has no {kind} of the same name ({len(unpaired)} of {len(paths)} files have "
                f"none): {remedy}"
            )
    return [(first[name], second[name]) for name in sorted(first)]
