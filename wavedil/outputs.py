"""Checks and locks of the files that a command will write."""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path, PurePath
from typing import Any

from wavedil.errors import WavedilError, printable, reason
from wavedil.files import normalized
from wavedil.writing import lock_file, unlock

PathLike = str | os.PathLike[str]
MAX_NAME = 255  # bytes of a file name, in most file systems
_FILE_SUFFIX = re.compile(r"[^/\\]\.([A-Za-z]{2,11}\d?|h5|m4a)\Z")  # not runs/amp.v2, runs/lr0.001
_log = logging.getLogger("wavedil")


class BestEffort:
    """Context of writes that a program can do without: the first that the system refuses is logged, none is raised.

    Args:
        name: what is written, for errors that name no file.
    """

    def __init__(self, name: PathLike):
        self.name, self.failed = name, False

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):  # Lightning's TensorBoardLogger
            error = error.__cause__
        if not isinstance(error, OSError):
            return False
        if not self.failed:
            _log.warning(printable(f"{error.filename or self.name} is not written, going on without: {reason(error)}"))
        self.failed = True
        return True


@contextmanager
def claim_file(
    path: PathLike, inputs: Iterable[PathLike] = (), beside: Sequence[PathLike] = (), is_folder: bool = False
) -> Iterator[None]:
    """Checks and locks a file that the ``with`` block writes, or a model folder if ``is_folder``.

    The folder for it is created; if the block writes nothing, it is removed again.

    Args:
        inputs: as for :func:`check_outputs`.
        beside: further files that the block writes.

    Raises:
        WavedilError: as :func:`check_outputs`, or another process is writing this file.
    """
    check_outputs([path, *beside], inputs)
    folders = [] if is_folder else [each for each in (path, *beside) if os.path.isdir(each)]
    if folders:
        raise WavedilError(f"{folders[0]} is a folder: expected a file")
    place = Path(os.path.realpath(path))
    if not place.name:
        raise WavedilError(f"{path} is the root folder: expected a file in a folder")
    with _locked(place.with_name(f".{place.name[:50]}.lock"), path):
        yield


@contextmanager
def claim_files(paths: Iterable[PathLike | None], inputs: Iterable[PathLike] = ()) -> Iterator[None]:
    """As :func:`claim_file`, for the files among ``paths`` that are not None; before long work, not after it."""
    named, inputs = [path for path in paths if path is not None], list(inputs)
    check_outputs(named, inputs)
    with ExitStack() as stack:
        for path in named:
            stack.enter_context(claim_file(path, inputs))
        yield


@contextmanager
def claim_folder(
    folder: PathLike, names: Sequence[str], inputs: Iterable[PathLike] = (), shared: bool = False
) -> Iterator[None]:
    """As :func:`claim_file`, for the files ``names`` in a folder; not locked if ``shared``."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise WavedilError(f"out {folder} is a file: expected a folder")
    check_outputs([Path(folder, name) for name in names], inputs)
    with nullcontext() if shared else _locked(Path(folder, ".lock"), folder):
        yield


def check_folder_name(name: str, folder: PathLike, others: str = "") -> None:
    """Raises WavedilError for a new folder that is named like a file, ``clip.xyz``, unless it ends with a slash.

    Args:
        name: of the argument or option.
        others: what is expected besides a folder, e.g. ``", or a file that ends in .wav"``.
    """
    text = os.fspath(folder)
    if _FILE_SUFFIX.search(text) and not os.path.exists(folder):
        raise WavedilError(
            f"{name} {text} looks like a file: expected a folder{others}; for a folder of this name, write {text}/"
        )


def name_outputs(
    sources: Iterable[PathLike],
    out: PathLike,
    list_folder: Callable[[Path], Iterable[Path]],
    names: Callable[[PurePath], Sequence[str]],
) -> dict[str, Path]:
    """Chooses names in a folder for the results of files and folders; the subfolders of a folder are kept.

    If ``out`` is in one of the folders, its files, which are results of an earlier command, are not read.

    Args:
        sources: files and folders.
        out: folder for the results.
        list_folder: lists the files of a folder to read.
        names: the names of the results of a file, from its path relative to its folder.

    Returns:
        The files to read, by their paths relative to their folders.

    Raises:
        WavedilError: two results have one name, or a name is too long.
    """
    found: dict[str, Path] = {}
    written: dict[str, Path] = {}
    results = Path(os.path.realpath(out))
    for source in map(Path, sources):
        is_folder = source.is_dir()
        paths = list(list_folder(source)) if is_folder else [source]
        if is_folder and Path(os.path.realpath(source)) in results.parents:
            paths = [path for path in paths if results not in Path(os.path.realpath(path)).parents]
        for path in paths:
            relative = path.relative_to(source) if is_folder else Path(path.name)
            for name in names(relative):
                if name in written:
                    raise WavedilError(
                        f"{written[name]} and {path} would both be written as {name}: write one elsewhere"
                    )
                if len(os.fsencode(os.path.basename(name))) > MAX_NAME:
                    raise WavedilError(
                        f"{path} would be written as {name}, a name of more than {MAX_NAME} bytes: rename it"
                    )
                written[name] = path
            found[relative.as_posix()] = path
    return found


def check_outputs(outputs: Sequence[PathLike], inputs: Iterable[PathLike] = ()) -> None:
    """Checks the files that a command will write, before it writes any of them.

    Links are followed. Outputs are also compared with each other without regard to case and Unicode form, since some
    file systems take such names for the same.

    Args:
        outputs: files, or folders that are replaced; their folders may be missing.
        inputs: files or folders that the command reads; missing ones are ignored.

    Raises:
        WavedilError: an output is an input, is in an input folder or contains an input, or two outputs have one name.
    """
    real = [(output, os.path.realpath(output)) for output in outputs]
    named: dict[str, PathLike] = {}
    for output, place in real:
        key = normalized(place).casefold()
        if key in named:
            raise WavedilError(f"{named[key]} and {output} have the same name on some systems: write one elsewhere")
        named[key] = output
    files, folders, around = {}, {}, {}
    for path in inputs:
        place = os.path.realpath(path)
        if os.path.isdir(place):
            folders[place] = path
        with suppress(OSError):
            files[_identity(place)] = path
        around |= dict.fromkeys(map(str, Path(place).parents), path)
    parents = {parent for _, place in real for parent in map(str, Path(place).parents)}
    for output, place in real:
        found = None
        with suppress(OSError):
            found = files.get(_identity(place))
        if found is not None:
            raise WavedilError(f"{output} is the input {found}: choose another name for the output")
        if place in around:
            raise WavedilError(f"{output} contains the input {around[place]}: choose another name for the output")
        inside = next((folders[str(parent)] for parent in Path(place).parents if str(parent) in folders), None)
        if inside is not None:
            raise WavedilError(f"{output} is in the input folder {inside}: choose another folder for the output")
        if place in parents:
            raise WavedilError(f"{output} would be both a file and a folder: write one of them elsewhere")


def _identity(place: str) -> tuple[int, int]:
    status = os.stat(place)
    return status.st_dev, status.st_ino


@contextmanager
def _locked(lock: Path, path: PathLike) -> Iterator[None]:
    """Creates the folder of ``lock`` and locks it; removes at the end the folders that it created and are empty."""
    missing = [folder for folder in lock.parents if not folder.exists()]
    exists = next(folder for folder in lock.parents if folder.exists())
    if not exists.is_dir():
        raise WavedilError(f"{path} cannot be written: {exists} is a file, expected a folder")
    try:
        handle = _lock(lock, path)
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                lock.unlink()
            unlock(handle)
    finally:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()


def _lock(lock: Path, path: PathLike) -> int:
    """The handle of :func:`lock_file`, in a folder that is created; errors name ``path``."""
    for tries_left in reversed(range(100)):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = lock_file(lock)
            break
        except OSError as error:
            # Another process may have removed the folder, which was empty.
            if not (tries_left and isinstance(error, FileNotFoundError | FileExistsError)):
                raise WavedilError(f"{path} cannot be written: {reason(error)}; choose another folder") from error
    if handle is None:
        raise WavedilError(f"{path} is being written by another process: wait for its end, or choose another name")
    return handle
