"""Atomic writing of files and folders, and the locks of this process."""

import ctypes
import errno
import glob
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wavedil.errors import WavedilError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


_cleaned: set[Path] = set()  # folders in which this process has removed leftovers of atomic_write
_locks: set[int] = set()  # descriptors of the locks of this process
_claimed: dict[int, tuple[Path, tuple[int, int]]] = {}  # folder, and its device and inode, by descriptor of lock_file


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path in the folder of ``path``; renames it to ``path`` at the end, or removes it on an error.

    Readers therefore never see a half-written file, even if the process is interrupted. Creates missing folders.

    Raises:
        OSError: it names ``path``, not the temporary file.
        WavedilError: see :func:`make_folder`.
    """
    path = Path(path)
    make_folder(path.parent)
    if path.parent not in _cleaned:
        _cleaned.add(path.parent)
        for leftover in leftovers(path.parent, r".*", r"(\.\w+)?"):
            if leftover.is_file():
                leftover.unlink(missing_ok=True)
    if path.is_dir():  # "." has no name, so no temporary one
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    with errors_name(path), temporary_beside(path) as temporary:
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Errors of the system in the block name ``path``, not a temporary file in its folder or no file at all."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if error.errno is None or not (name is None or Path(os.fsdecode(name)).is_relative_to(path.parent)):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def make_folder(folder: Path) -> None:
    """Creates a folder and those above it.

    Raises:
        WavedilError: a folder in which this process has a :func:`lock_file` was removed or renamed.
    """
    check_in_place(folder)
    folder.mkdir(parents=True, exist_ok=True)


def check_in_place(path: Path) -> None:
    """Raises WavedilError if ``path`` is in a folder in which this process has a lock, and which is no longer there."""
    path = Path(os.path.abspath(path))
    for folder, identity in list(_claimed.values()):
        if path.is_relative_to(folder):
            try:
                found = os.stat(folder)
            except OSError:
                found = None
            if found is None or (found.st_dev, found.st_ino) != identity:
                raise WavedilError(
                    f"{folder} was removed or renamed while it was in use: nothing more is written; put it back, or "
                    "choose another"
                )


@contextmanager
def temporary_beside(path: Path, is_folder: bool = False) -> Iterator[Path]:
    """Creates an empty file or folder ``.NAME.saving-XXXXXXXX.SUFFIX`` beside ``path`` and locks it for this process.

    The caller moves or removes it. If the process ends before, :func:`leftovers` finds it.
    """
    suffix = "" if is_folder else path.suffix
    while True:
        temporary = path.with_name(f".{_short(path, suffix)}.saving-{secrets.token_hex(4)}{suffix}")
        if is_folder:
            temporary.mkdir()
        else:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        lock = _lock(temporary)
        if temporary.exists():  # else another process took it for a leftover before it was locked
            break
        unlock(lock)
    try:
        yield temporary
    finally:
        unlock(lock)


def leftovers(folder: Path, name: str, suffix: str = "") -> Iterator[Path]:
    """Yields files of :func:`temporary_beside` in a folder that no running process uses, each locked until the next.

    Args:
        folder: to search, without subfolders.
        name, suffix: regular expressions for the two parts of the name.
    """
    for path in folder.iterdir():
        if re.fullmatch(rf"\.{name}\.saving-[0-9a-f]{{8}}{suffix}", path.name) and not path.is_symlink():
            lock = _lock(path, wait=False)
            if lock is not None:
                yield path
                unlock(lock)


def folder_leftovers(place: Path) -> Iterator[Path]:
    """The :func:`leftovers` of folders that were to be moved to ``place``, or away from it."""
    return leftovers(place.parent, re.escape(_short(place, "")), r"(\.old)?")


def is_being_replaced(place: Path) -> bool:
    """Whether a process, running or not, has a temporary folder for ``place``."""
    return any(place.parent.glob(f".{glob.escape(_short(place, ''))}.saving-*"))


def _short(path: Path, suffix: str) -> str:
    """The beginning of a name, short enough for the additions of a temporary name."""
    return path.name.removesuffix(suffix)[:50]


def _lock(path: Path, wait: bool = True) -> int | None:
    """Descriptor of a file or folder with a lock that ends with the process; None if it cannot be locked."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        _locks.add(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # in use, or a file system without locks
        unlock(descriptor)
        return None
    return descriptor


def unlock(descriptor: int | None) -> None:
    """Releases a lock; does nothing in a forked process, which does not hold it."""
    if descriptor in _locks:
        _locks.remove(descriptor)
        _claimed.pop(descriptor, None)
        os.close(descriptor)


def _unlock_all() -> None:
    for descriptor in list(_locks):
        unlock(descriptor)


# Forked processes, such as data workers, inherit the descriptors of locks and would keep the locks of a killed parent.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_all)


def lock_file(path: Path) -> int | None:
    """Creates a file and locks it until :func:`unlock`; None if another process has locked it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _locks.add(handle)
        if not _lock_handle(handle):
            unlock(handle)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                folder = os.stat(path.parent)
                _claimed[handle] = Path(os.path.abspath(path.parent)), (folder.st_dev, folder.st_ino)
                return handle
        unlock(handle)  # the other process removed the file just before it released the lock


def is_locked(path: Path) -> bool:
    """Whether a file is locked by :func:`lock_file`. Several processes may ask at a time."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return not _lock_handle(handle, shared=True)
    finally:
        os.close(handle)


def _lock_handle(handle: int, shared: bool = False) -> bool:
    """Locks an open file; returns False if another process has locked it, except if both locks are shared."""
    if fcntl is None:
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


def replace_folder(place: Path, new: Path) -> None:
    """Moves the folder ``new`` to ``place``; an old folder there is then at ``new``.

    On Linux that is one step. Elsewhere there is a moment without a folder at ``place``.
    """
    try:
        new.rename(place)  # if there is none, or an empty one
        return
    except OSError:
        if not place.is_dir():
            raise
    if not _exchange(new, place):
        old = new.with_name(new.name + ".old")
        place.rename(old)
        try:
            new.rename(place)
        except BaseException:
            old.rename(place)
            raise
        old.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two paths by Linux' renameat2; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or the list of a folder's files, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
