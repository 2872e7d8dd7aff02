"""Packed data sets: the files of a folder in a few tar files (shards) with an index, read in place from disk or a URL.

SHARDS has ``index.safetensors`` and ``000000.tar``, ``000001.tar``, ...; :mod:`wavedil.packing` writes them. A packed
file ``a/001.wav`` has the path ``SHARDS/a/001.wav``, so lists, splits and patterns of paths treat it as a file. What
reads files asks :func:`find_packed` for it. Packed sound is stored as samples, so a crop is one read of its bytes.

Index and shards are numbers, names and bytes: reading them runs no code.
"""

from __future__ import annotations

import io
import os
import re
import time
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wavedil.errors import WavedilError, first_line, shortened
from wavedil.extras import install_extra

INDEX = "index.safetensors"
VERSION = 1
#: Arrays of the index, with one value for each file: ``shard``, ``offset`` and ``size`` in bytes, CRC-32; of a sound
#: its ``frames``, ``rate`` in Hz, ``channels``, and whether its samples are float32, not int16. 0 for other files.
COLUMNS = ("shard", "offset", "size", "crc", "frames", "rate", "channels", "floating")
SCHEMES = ("http", "https", "s3", "gs", "az", "hf", "memory")
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/+")
_ATTEMPTS, _PAUSE = 3, 0.5  # for reads from a URL; seconds before the second
_OPEN = 64  # shards that a process keeps open
_WHOLE = 2**22  # bytes; smaller files are read in one piece, and their checksum is compared
_BUFFER = 2**18  # bytes that are read at a time of a larger file
_AHEAD, _NEAR = 2**22, 2**20  # bytes that are fetched after a read that begins at most _NEAR after the one before

PathLike = str | os.PathLike[str]
_opened: dict[str, Shards] = {}


def shard_name(number: int) -> str:
    return f"{number:06d}.tar"


def is_url(path: PathLike) -> bool:
    """Whether a path is a URL; in a Path, ``s3://a/b`` has become ``s3:/a/b``."""
    return _URL.match(_text(path)) is not None


@dataclass(frozen=True)
class PackedFile:
    """A file in a shard. ``dtype`` is the type of the interleaved samples of a sound; None for other files."""

    shards: Shards
    path: str
    shard: int
    offset: int
    size: int
    crc: int
    frames: int
    rate: int
    channels: int
    dtype: str | None

    def read(self, start: int = 0, size: int | None = None) -> bytes:
        """Bytes ``start`` to ``start + size``; by default all, whose checksum is compared.

        Raises:
            WavedilError: the shard is missing, too short or damaged.
        """
        count = self.size - start if size is None else max(0, min(size, self.size - start))
        data = self.shards.read(self, start, count)
        if count == self.size:
            self.check(zlib.crc32(data))
        return data

    def check(self, crc: int) -> None:
        """Compares the CRC-32 of all bytes."""
        if crc != self.crc:
            raise WavedilError(f"{self.path}: its bytes in {shard_name(self.shard)} are damaged: copy the shard again")

    def open(self) -> BinaryIO:
        """A file object for reading; small files are read immediately."""
        return io.BytesIO(self.read()) if self.size <= _WHOLE else io.BufferedReader(_Range(self), _BUFFER)


def find_packed(path: PathLike) -> PackedFile | None:
    """The packed file with a path; None if the path is not in a packed data set."""
    found = None if os.path.isfile(path) else _find(path)
    return found and found[0].file(found[1])


def open_file(path: PathLike, buffering: int = -1) -> BinaryIO:
    """Opens a file, which may be packed, for reading; ``buffering`` as for ``open``, for files that are not packed."""
    packed = find_packed(path)
    return open(path, "rb", buffering) if packed is None else packed.open()


def is_folder(path: PathLike) -> bool:
    """Whether a path is a folder, or a folder in a packed data set."""
    return os.path.isdir(path) or _list(path) not in (None, [])


def packed_files(folder: PathLike) -> list[Path] | None:
    """The packed files below a folder; None if it is not (in) a packed data set.

    Raises:
        WavedilError: the index or a shard of a packed data set is missing or damaged.
    """
    text = _text(folder)
    if text in _opened:  # it may have been packed again
        del _opened[text]
    names = _list(folder)
    if names is None:
        with suppress(OSError, UnicodeDecodeError):  # the settings that wavedil pack saves first
            if '"work": "pack"' in Path(folder, "batches", "settings.json").read_text(encoding="utf-8"):
                raise WavedilError(f"{folder} has no {INDEX}: it is not completely packed; repeat wavedil pack")
    return None if names is None else [Path(folder, os.fsdecode(name)) for name in names]


def _list(folder: PathLike) -> Sequence[bytes] | None:
    found = _find(folder)
    return found and found[0].names_below(found[1])


def _text(path: PathLike) -> str:
    text = os.fspath(path).replace(os.sep, "/")
    return _URL.sub(r"\1://", text, count=1).rstrip("/") or "/"


def _find(path: PathLike) -> tuple[Shards, bytes] | None:
    """The packed data set that has a path, and the name in it."""
    text = _text(path)
    places = [text, *(text[: match.start()] for match in reversed(list(re.finditer("/", text))))]
    for place in places if _opened else ():
        if place in _opened:
            return _opened[place], os.fsencode(text[len(place) + 1 :])
    remote = _URL.match(text)
    if remote is None and os.path.exists(text):
        places = places[:1]
    for place in places:
        if remote and len(place) <= remote.end():
            raise WavedilError(
                f"{text}: no {INDEX} there or in a folder above: expected the URL of a folder that wavedil pack has "
                "written"
            )
        if remote or os.path.isfile(f"{place or '.'}/{INDEX}"):
            shards = Shards.load(place)
            if shards is not None:
                _opened[place] = shards
                return shards, os.fsencode(text[len(place) + 1 :])
    return None


class _Names(Sequence[bytes]):
    """Names in two arrays, which data workers share."""

    def __init__(self, ends: np.ndarray, text: np.ndarray):
        self.ends, self.text = ends, text

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        return self.text[self.ends[index - 1] if index else 0 : self.ends[index]].tobytes()


class Shards:
    """An open packed data set.

    Args:
        root: folder or URL.
        arrays: of the index.
    """

    def __init__(self, root: str, arrays: dict[str, np.ndarray]):
        self.root, self.names = root, _Names(arrays["name_ends"], arrays["names"])
        self.columns = {name: arrays[name] for name in COLUMNS}
        self._sizes = arrays["shard_sizes"]
        self._descriptors: dict[int, int] = {}
        self._fetched = (-1, 0, b"")  # shard, first byte, and bytes of the last read from a URL

    @classmethod
    def load(cls, root: str) -> Shards | None:
        """Reads the index; None if there is none.

        Raises:
            WavedilError: the index is damaged, or a shard in this folder is missing or has another size.
        """
        from safetensors.numpy import load

        try:
            if _URL.match(root):
                data = _fetch(f"{root}/{INDEX}")
            else:
                data = Path(root, INDEX).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise WavedilError(f"{root}/{INDEX} cannot be read: {error.strerror or error}") from None
        try:
            arrays = load(data)
            _check(arrays)
        except Exception as error:  # safetensors' own, KeyError, ValueError
            raise WavedilError(
                f"{root}/{INDEX} is not an index of packed data: {first_line(error)}; pack the data again"
            ) from None
        if not _URL.match(root):
            for number, size in enumerate(arrays["shard_sizes"].tolist()):
                path = Path(root, shard_name(number))
                found = path.stat().st_size if path.is_file() else None
                if found != size:
                    problem = "is missing" if found is None else f"has {found} bytes, not {size}"
                    raise WavedilError(f"{path} {problem}: copy it again, or repeat wavedil pack")
        return cls(root, arrays)

    def file(self, name: bytes) -> PackedFile | None:
        index = bisect_left(self.names, name)
        if index == len(self.names) or self.names[index] != name:
            return None
        values = {column: int(array[index]) for column, array in self.columns.items()}
        sample = ("<i2", "<f4")[values.pop("floating")]
        dtype = sample if values["channels"] else None
        return PackedFile(self, f"{self.root}/{os.fsdecode(name)}", **values, dtype=dtype)

    def names_below(self, folder: bytes) -> list[bytes]:
        """The names of the files below a folder, relative to it."""
        prefix = folder + b"/" if folder else b""
        first, names = bisect_left(self.names, prefix), []
        for index in range(first, len(self.names)):
            name = self.names[index]
            if not name.startswith(prefix):
                break
            names.append(name[len(prefix) :])
        return names

    def read(self, file: PackedFile, start: int, count: int) -> bytes:
        place, first = f"{self.root}/{shard_name(file.shard)}", file.offset + start
        try:
            if _URL.match(self.root):
                data = self._fetch(file.shard, first, count) if count else b""
            else:
                data = self._read(file.shard, first, count)
        except OSError as error:
            raise WavedilError(f"{file.path}: {place} cannot be read: {error.strerror or error}") from None
        if len(data) < count:
            raise WavedilError(f"{file.path}: {place} is too short: copy it again")
        return data

    def _fetch(self, number: int, first: int, count: int) -> bytes:
        """Bytes of a shard at a URL. Reads in order are served from large pieces, which are fetched ahead."""
        shard, begin, data = self._fetched
        end = begin + len(data)
        if shard != number or not begin <= first <= first + count <= end:
            in_order = shard == number and 0 <= first - end < _NEAR
            size = min(max(count, _AHEAD), int(self._sizes[number]) - first) if in_order else count
            begin, data = first, _fetch(f"{self.root}/{shard_name(number)}", first, first + size)
            if len(data) > size:
                raise WavedilError(f"{self.root}: the server sends complete files, not parts: use another server")
            self._fetched = number, begin, data
        return data[first - begin : first - begin + count]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_descriptors", {}).values():
            os.close(descriptor)

    def _read(self, number: int, first: int, count: int) -> bytes:
        if number not in self._descriptors:
            if len(self._descriptors) >= _OPEN:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
            self._descriptors[number] = os.open(f"{self.root}/{shard_name(number)}", flags)
        descriptor = self._descriptors[number]
        if hasattr(os, "pread"):  # forked processes share the position of a descriptor
            return os.pread(descriptor, count, first)
        os.lseek(descriptor, first, os.SEEK_SET)
        return os.read(descriptor, count)


def _check(arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError or KeyError for arrays that are not an index."""
    version, ends, sizes, text = (arrays[name] for name in ("version", "name_ends", "shard_sizes", "names"))
    if version.tolist() != [VERSION]:
        raise ValueError(f"version {version.tolist()}, this wavedil reads {VERSION}")
    columns = [arrays[name] for name in COLUMNS]
    if text.dtype != np.uint8 or any(
        array.dtype != np.int64 or array.ndim != 1 for array in (version, ends, sizes, *columns)
    ):
        raise ValueError("arrays of another type")
    if any(len(array) != len(ends) or (array < 0).any() for array in columns) or (np.diff(ends, prepend=0) < 1).any():
        raise ValueError("arrays do not fit together")
    shard, offset, size, _, frames, rate, channels, floating = columns
    # Each factor is limited first, so that the product does not overflow.
    sound = channels > 0
    if len(ends) and (
        ends[-1] != len(text)
        or shard.max() >= len(sizes)
        or (offset > sizes[shard] - size).any()
        or (channels > 1024).any()
        or (frames > 2**48).any()
        or (floating > 1).any()
        or (rate[sound] < 1).any()
        or (frames * channels * np.where(floating, 4, 2) != size)[sound].any()
    ):
        raise ValueError("values do not fit together")


def _fetch(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Bytes of a file at a URL.

    Raises:
        FileNotFoundError: there is no such file.
        WavedilError: other errors, after three attempts.
    """
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise WavedilError(f"{url}: reading from a URL needs fsspec: {install_extra('shards')}") from None
    for attempt in range(_ATTEMPTS):
        try:
            system, path = url_to_fs(url)
            return system.cat_file(path, start=start, end=stop)
        except FileNotFoundError:
            raise
        except ImportError as error:
            remedy = f"the extra shards has s3fs and http: {install_extra('shards')}"
            raise WavedilError(f"{url}: {first_line(error)}; {remedy}") from None
        except Exception as error:  # each storage has errors of its own
            if attempt == _ATTEMPTS - 1:
                raise WavedilError(f"{url} cannot be read: {shortened(first_line(error), 200)}") from None
            time.sleep(_PAUSE * 2**attempt)
    raise AssertionError


class _Range(io.RawIOBase):
    """A packed file as a file object."""

    def __init__(self, file: PackedFile):
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        data = self._file.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
