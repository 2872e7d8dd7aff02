"""Finds files: in a folder, by an expression, and pairs by their names."""

import os
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from wavedil.errors import WavedilError, printable
from wavedil.shards import packed_files


def check_regular_file(path: str | os.PathLike[str], expected: str) -> None:
    """Raises WavedilError for a folder, named pipe or device, of which reading could wait forever.

    Args:
        path: of the file; links are followed, and it may be missing.
        expected: noun for the message, e.g. ``"an image"``.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise WavedilError(f"{path} is not a regular file: expected {expected}")


def cache_folder(*names: str) -> Path:
    """A folder below the user's cache folder of this package; it may be missing."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/.cache")
    return Path(base, "wavedil", *names).absolute()


def make_cache_folder(folder: Path) -> None:
    """Creates a folder of :func:`cache_folder`; raises OSError if it cannot, or the user has no home folder."""
    if "~" in folder.parts:  # os.path.expanduser has found no home
        raise PermissionError("this user has no home folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def walk_files(root: str | os.PathLike[str], suffixes: Collection[str]) -> list[Path]:
    """Lists the files with one of the suffixes in a folder and its subfolders, sorted by their path below it.

    Hidden files and folders (a leading dot) are skipped. Links to folders are followed, but each folder is listed once:
    under its own path if it is in ``root``, else under the first link to it. Broken links, and named pipes and devices
    with one of the suffixes, are skipped with one warning. The folder may be (in) a packed data set.

    Args:
        suffixes: in lower case, with the dot; those of files may be in upper case.

    Raises:
        WavedilError: a folder cannot be listed.
    """
    root = Path(root)
    packed = packed_files(root)
    if packed is not None:
        found = [path for path in packed if path.suffix.lower() in suffixes]
        return sorted(found, key=lambda path: path.relative_to(root).as_posix())
    found, skipped, seen = [], [], set()
    folders, links = [root], []  # links wait until all real folders are listed
    while folders or links:
        folder = Path(folders.pop() if folders else links.pop(0))
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise WavedilError(f"{folder}: the folder cannot be listed: {error.strerror}") from None
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            suits, link = os.path.splitext(entry.name)[1].lower() in suffixes, entry.is_symlink()
            if os.path.isdir(entry.path) if link else entry.is_dir():
                (links if link else folders).append(entry.path)
            elif suits and os.path.isfile(entry.path):
                found.append(Path(entry.path))
            elif suits or (link and not os.path.exists(entry.path)):
                skipped.append(entry.path)
    if skipped:
        warnings.warn(
            printable(
                f"{root}: {len(skipped)} broken links, pipes or devices are skipped, the first is {min(skipped)}: "
                "repair or remove them"
            ),
            stacklevel=2,
        )
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def normalized(name: str) -> str:
    """A file name in the form in which names are compared: "é" may be one character or two (macOS writes two)."""
    return unicodedata.normalize("NFC", name)


def matching_paths(paths: Sequence[Path], pattern: str, option: str) -> set[Path]:
    """Finds the paths that match a regular expression.

    Args:
        paths: may be absolute, relative, or both.
        pattern: searched in each path below the common folder of all paths, without the suffix.
        option: name of the option that holds ``pattern``, for the error message.

    Raises:
        WavedilError: ``pattern`` is not a regular expression.
    """
    if not pattern:
        raise WavedilError(f"{option} is empty: expected a regular expression; leave it out for none")
    try:
        expression = re.compile(normalized(pattern))
    except re.error as error:
        raise WavedilError(f"{option}={pattern!r} is not a regular expression: {error}") from None
    absolute = {path: Path(os.path.abspath(path)) for path in paths}
    root = os.path.commonpath([path.parent for path in absolute.values()])
    names = {path: normalized(full.relative_to(root).with_suffix("").as_posix()) for path, full in absolute.items()}
    return {path for path, name in names.items() if expression.search(name)}


def excluded_paths(paths: Sequence[Path], exclude: str) -> set[Path]:
    """Finds the paths that the option ``exclude`` leaves out.

    Args:
        paths: may be absolute, relative, or both.
        exclude: a regular expression as for :func:`matching_paths`; or ``"@FILE"``, a list with one path per line, each
            absolute or relative to the folder of the list, as ``wavedil check --list`` writes it.

    Raises:
        WavedilError: the list cannot be read, or the regular expression is not valid.
    """
    if not exclude.startswith("@"):
        return matching_paths(paths, exclude, "exclude")
    if exclude == "@":
        raise WavedilError("exclude is '@': expected the name of a file after @, a list of files")
    source = Path(exclude[1:])
    check_regular_file(source, "a list of files")
    try:
        lines = os.fsdecode(source.read_bytes()).splitlines()
    except OSError as error:
        raise WavedilError(f"exclude={exclude!r}: the list cannot be read: {error.strerror}") from None
    if any("\0" in line for line in lines):
        raise WavedilError(f"exclude={exclude!r}: expected one path per line, but the file has null characters")
    listed = {os.path.realpath(source.parent / line) for line in lines if line.strip()}
    return {path for path in paths if os.path.realpath(path) in listed}


def unique_names(paths: Iterable[tuple[str, Path]], kind: str) -> dict[str, Path]:
    """Dictionary of ``(name, path)`` pairs; names are :func:`normalized`.

    Raises:
        WavedilError: two paths have the same name; ``kind`` is the noun for them in the message.
    """
    named: dict[str, Path] = {}
    for name, path in ((normalized(name), path) for name, path in paths):
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
