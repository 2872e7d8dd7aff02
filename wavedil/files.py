"""Atomic writing of files, checks before reading and writing, and finding files that belong together by name."""

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


def check_regular_file(path: str | os.PathLike[str], expected: str) -> None:
    """Raises WavedilError for a folder, named pipe or device, of which reading could wait forever.

    Args:
        path: of the file; links are followed, and it may be missing.
        expected: noun for the message, e.g. ``"an image"``.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise WavedilError(f"{path} is not a regular file: expected {expected}")


def check_replaceable(folder: Path, pattern: str, index: str | None = None, subfolders: Iterable[str] = ()) -> None:
    """Raises WavedilError if writing built-in data to a folder could replace files of the user.

    Args:
        folder: of the data; it may be missing, and may be a link.
        pattern: regular expression for the names of the data's files, relative to the folder.
        index: name of a file that only folders with this data have; other files may then be in the folder, too.
        subfolders: to write to; they must not be links.
    """
    for name in subfolders:
        if (folder / name).is_symlink():
            raise WavedilError(f"{folder / name} is a link: built-in data is not written through links; remove it")
    if index is not None and (folder / index).is_file():
        return
    for path in folder.rglob("*"):
        hidden = path.name.startswith(".")  # temporary files of an interrupted run
        if not (hidden or path.is_dir() or re.fullmatch(pattern, path.relative_to(folder).as_posix())):
            raise WavedilError(f"{path} is not a file of the built-in data: choose another folder, or move the file")


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
