"""Reads .npy files: runs no code, and checks what the header says against the size of the file."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import check_regular_file
from wavedil.shards import open_file

# numpy's own reader evaluates the header as Python, and fails for damaged ones with errors of many kinds.
_HEADER = re.compile(
    r"(?=.*'descr': ?'(?P<type>[<>|=]?\w{1,8})')"
    r"(?=.*'fortran_order': ?(?P<fortran>True|False)\b)"
    r"(?=.*'shape': ?\((?P<shape>[\d, ]*)\))\{.*\}\s*",
    re.DOTALL,
)
_TYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_MAX_HEADER = 2**12


@dataclass(frozen=True)
class ArrayFile:
    """An open .npy file of numbers ``(rows, columns)``; see :func:`open_array`."""

    path: Path
    file: BinaryIO
    offset: int
    dtype: np.dtype
    shape: tuple[int, int]
    is_fortran: bool

    def read(self) -> np.ndarray:
        """All values."""
        return self.columns(0, self.shape[1])

    def columns(self, start: int, stop: int) -> np.ndarray:
        """The values ``[:, start:stop]``."""
        # Not mapped to memory: if a mapped file is truncated meanwhile, the system ends the process.
        rows, columns = self.shape
        if self.is_fortran:
            return self._values(start * rows, (stop - start) * rows).reshape(stop - start, rows).T
        if stop - start == columns:
            return self._values(0, rows * columns).reshape(rows, columns)
        return np.stack([self._values(row * columns + start, stop - start) for row in range(rows)])

    def _values(self, first: int, count: int) -> np.ndarray:
        self.file.seek(self.offset + first * self.dtype.itemsize)
        values = np.empty(count, self.dtype)
        buffer = memoryview(values.view(np.uint8))
        while len(buffer):
            read = self.file.readinto(buffer)
            if not read:
                raise WavedilError(f"{self.path} cannot be read: it was truncated meanwhile")
            buffer = buffer[read:]
        return values.astype(self.dtype.newbyteorder("="), copy=False)


@contextmanager
def open_array(path: str | os.PathLike[str], noun: str, axes: tuple[str, str]) -> Iterator[ArrayFile]:
    """Opens a .npy file with numbers of two axes, without reading its values.

    Args:
        path: of the file.
        noun: of the contents, e.g. ``"features"``, and ``axes``: their names, both for error messages.

    Raises:
        WavedilError: naming the file, if it is missing or damaged or has other contents.
    """
    path = Path(path)
    check_regular_file(path, noun)
    try:
        with open_file(path, buffering=0) as file:
            yield _parse(path, file, noun, axes)
    except FileNotFoundError:
        raise WavedilError(f"{path}: no such file; expected {noun} in a .npy file") from None
    except OSError as error:
        raise WavedilError(f"{path} cannot be read as {noun}: {error.strerror or error}") from None
    except MemoryError:
        raise WavedilError(f"{path} cannot be read as {noun}: there is not enough memory for its values") from None


def _parse(path: Path, file: BinaryIO, noun: str, axes: tuple[str, str]) -> ArrayFile:
    start = file.read(12)
    width = 2 if start[6:7] == b"\1" else 4
    length = int.from_bytes(start[8 : 8 + width], "little")
    file.seek(8 + width)
    text = file.read(min(length, _MAX_HEADER))
    if not start.startswith(b"\x93NUMPY") or len(text) < length:
        raise WavedilError(f"{path} cannot be read as {noun}: expected a complete .npy file with one array")
    header = _HEADER.fullmatch(text.decode("latin-1"))
    sides = re.findall(r"\d+", header["shape"]) if header else []
    kind = header and _TYPE.fullmatch(header["type"])
    if not kind or len(sides) != 2:
        found = (
            f"{np.dtype(kind[1]) if kind else header['type']} of shape ({', '.join(sides)[:100]})"
            if header
            else "another header"
        )
        raise WavedilError(f"{path} cannot be read as {noun}: it has {found}: expected numbers ({', '.join(axes)})")
    dtype, shape = np.dtype(header["type"]), tuple(int(side[:20]) for side in sides)
    offset, size = 8 + width + length, file.seek(0, os.SEEK_END)
    if offset + math.prod(shape) * dtype.itemsize != size:
        raise WavedilError(
            f"{path} cannot be read as {noun}: its header says {dtype} of shape {shape}, but its size is {size} bytes"
        )
    return ArrayFile(path, file, offset, dtype, shape, header["fortran"] == "True")
