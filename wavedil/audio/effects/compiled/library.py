"""Compiles the C source of a program with the machine's compiler, and loads the result.

Compiled libraries are kept in ``wavedil/effects`` of the user's cache folder, under a name with the checksums of what
they were made from and of their contents. Loading a library runs its code. So it is read only from a folder that other
users cannot write to, and only if its checksum is right.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from wavedil.audio.effects.compiled.c_writer import Source, write_c
from wavedil.audio.effects.compiled.program import Program
from wavedil.errors import WavedilError, reason, warn_of_cache
from wavedil.extras import install_extra
from wavedil.files import cache_folder, make_cache_folder
from wavedil.writing import atomic_write

NAME = "effect"  # of the source, and prefix of its functions
FLAGS = ("-O3", "-std=gnu99", "-fno-math-errno", "-fno-trapping-math", "-shared")
SECONDS = 300  # that a compiler may take
KEPT = 100  # libraries in the cache; those that were not used for longest are removed
REMEDY = f"install one (gcc or clang as cc), set CC to its command, or {install_extra('compiler')}"

_loaded: dict[str, ctypes.CDLL] = {}


def find_compiler() -> list[str] | None:
    """The command of a C compiler: ``$CC``, ``cc``, ``gcc`` or ``clang``, or the package ziglang; None without any."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        try:
            words = shlex.split(name or "")
        except ValueError:  # a quotation without end
            continue
        if words and (path := shutil.which(words[0])):
            return [path, *words[1:]]
    return [sys.executable, "-m", "ziglang", "cc"] if find_spec("ziglang") else None


def load_program(program: Program) -> ctypes.CDLL:
    """The library with the functions of a program, ``effect_init`` and so on; compiled if it is not in the cache.

    Raises:
        WavedilError: there is no compiler, it failed, or its result cannot be used.
    """
    compiler = find_compiler()
    if compiler is None:
        raise WavedilError(f"there is no C compiler: {REMEDY}")
    key = _key(program, compiler)
    if key not in _loaded:
        try:
            _loaded[key] = _load(program, compiler, key)
        except OSError as error:  # a full disk, or a file system that runs no code
            raise WavedilError(f"compiled code cannot be written or loaded: {reason(error)}") from None
    return _loaded[key]


def _load(program: Program, compiler: list[str], key: str) -> ctypes.CDLL:
    folder = _cache_folder()
    if folder is not None:
        for path in sorted(folder.glob(f"{key}-*")):
            with _without_cache(folder):
                if _checksum(path.read_bytes()) == path.stem.rpartition("-")[2]:
                    os.utime(path)
                    return _bind(path)
                path.unlink()  # damaged
    with tempfile.TemporaryDirectory(prefix="wavedil-", ignore_cleanup_errors=True) as temporary:
        built = _compile(write_c(program, NAME), compiler, Path(temporary))
        content = built.read_bytes()
        if folder is not None:
            with _without_cache(folder):
                place = folder / f"{key}-{_checksum(content)}{built.suffix}"
                with atomic_write(place) as beside:
                    beside.write_bytes(content)
                _remove_old(folder)
                return _bind(place)
        return _bind(built)


def _remove_old(folder: Path) -> None:
    used: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process may remove it
            if not path.name.startswith("."):  # temporary
                used.append((path.stat().st_mtime, path))
    for _, path in sorted(used)[:-KEPT]:
        path.unlink(missing_ok=True)


def _bind(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.effect_state_size.restype = ctypes.c_size_t
    library.effect_init.argtypes = [ctypes.c_void_p]
    library.effect_set_knob.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_float]
    library.effect_process.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    library.effect_init.restype = library.effect_process.restype = None
    return library


def _compile(source: Source, compiler: list[str], folder: Path) -> Path:
    folder.joinpath(f"{NAME}.c").write_text(source.code)
    folder.joinpath(f"{NAME}.h").write_text(source.header)
    target = folder / f"{NAME}{'.dll' if os.name == 'nt' else '.so'}"
    pic = [] if os.name == "nt" else ["-fPIC"]
    done = None
    for native in (["-march=native"], []):  # not every compiler knows this machine
        command = [*compiler, *FLAGS, *pic, *native, "-o", str(target), f"{NAME}.c"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            raise WavedilError(f"{shlex.join(compiler)} took more than {SECONDS} seconds") from None
        except OSError as error:
            raise WavedilError(f"{shlex.join(compiler)} cannot be started: {reason(error)}; {REMEDY}") from None
        if done.returncode == 0 and target.is_file():
            return target
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
    raise WavedilError(f"{shlex.join(compiler)} failed: {lines[0][:200]}")


def _key(program: Program, compiler: list[str]) -> str:
    """Checksum of what the library depends on: the source is written only to compile it, which takes long."""
    path = os.path.realpath(compiler[0])
    status = os.stat(path)
    command = [*compiler, path, str(status.st_size), str(status.st_mtime_ns), *FLAGS]
    parts = ["\0".join(command).encode(), _cpu().encode(), _writer(), *_contents(program)]
    return _checksum(b"".join(len(part).to_bytes(8, "little") + part for part in parts))


def _contents(value: Any) -> Iterator[bytes]:
    """Everything in a program, in an order from which it could be built again."""
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.contiguous().numpy().tobytes()
    elif is_dataclass(value):
        yield type(value).__name__.encode()
        for each in fields(value):
            yield from _contents(getattr(value, each.name))
    elif isinstance(value, list | tuple | Mapping):
        values = list(value.items()) if isinstance(value, Mapping) else value
        yield f"{len(values)} values".encode()
        for each in values:
            yield from _contents(each)
    else:
        yield repr(value).encode()


@functools.cache
def _writer() -> bytes:
    """The code that writes the source."""
    return b"\0".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py*")))


@functools.cache
def _cpu() -> str:
    """What the code for this machine depends on."""
    text = " ".join((platform.system(), platform.machine(), platform.processor()))
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return text
    keys = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
    return "\n".join([text, *(line for line in lines if line.split(":")[0].strip() in keys)])


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


def cache_place() -> Path:
    """The folder of the cache, which may be missing or not usable."""
    return cache_folder("effects")


def _cache_folder() -> Path | None:
    """The folder of the cache; None, with one message, if it cannot be used."""
    folder = cache_place()
    with _without_cache(folder):
        make_cache_folder(folder)
        if hasattr(os, "getuid"):
            for place in (folder.resolve(), *folder.resolve().parents):
                status = place.stat()
                writers = stat.S_IWOTH if _is_private(status.st_gid) else stat.S_IWOTH | stat.S_IWGRP
                others = status.st_mode & writers and not status.st_mode & stat.S_ISVTX
                if status.st_uid not in (0, os.getuid()) or others:
                    raise PermissionError(f"other users can write to {place}")
            if folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to another user")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writable")
        return folder
    return None


def _is_private(group: int) -> bool:
    """Whether a group has the name of this user and nobody else, as on systems that make one for each user."""
    import grp
    import pwd

    try:
        found, user = grp.getgrgid(group), pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return False
    return found.gr_name == user and set(found.gr_mem) <= {user}


class _without_cache:  # noqa: N801
    """Context in which an error of the system is logged, once, and not raised."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, OSError | WavedilError):
            return False
        without = "each process compiles again; set XDG_CACHE_HOME to a folder of yours"
        warn_of_cache("compiled effects", self.folder, error, without)
        return True
