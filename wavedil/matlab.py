"""Reads cell arrays of matrices, and matrices in structures, from MATLAB 5 files (MATLAB 6 and 7, with compression).

scipy's reader is not used: with damaged files it may crash, or fill the memory. Source: MathWorks, MAT-File Format,
chapter 1.
"""

import math
import os
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import check_regular_file

MAX_BYTES = 2**30  # of a file's uncompressed contents
MAX_MATRIX_BYTES = 2**26
_MATRIX, _COMPRESSED = 14, 15  # data types of elements
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CELL, _STRUCTURE, _NUMERIC, _IS_COMPLEX = 1, 2, range(6, 16), 0x800  # classes of arrays, and a flag


class _DamagedError(Exception):
    pass


def read_cells(path: str | os.PathLike[str], names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name of a cell array and a matrix of it, for each matrix of the arrays in ``names``.

    Raises:
        WavedilError: naming the file, if it is missing or damaged, is not a MATLAB 5 file, is larger than
            ``MAX_BYTES``, or has other contents under one of the names.
    """
    return _read(path, lambda elements: _cells(elements, names))


def read_field(path: str | os.PathLike[str], name: str, field: str) -> np.ndarray:
    """The matrix in the field of a structure, the variable ``name``.

    Raises:
        WavedilError: as :func:`read_cells`, or the file has no such variable or field.
    """
    found = next(_read(path, lambda elements: _field(elements, name, field)), None)
    if found is None:
        raise WavedilError(f"{path} has no {name}.{field}: expected a structure with this field")
    return found


def _read(path: str | os.PathLike[str], parse: Callable[["_Elements"], Iterator[Any]]) -> Iterator[Any]:
    """What ``parse`` yields for each variable of a file."""
    path = Path(path)
    check_regular_file(path, "a MATLAB file")
    try:
        with open(path, "rb") as file:
            head = file.read(128)
            order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
            if order is None or struct.unpack(order + "H", head[124:126])[0] >> 8 != 1:
                raise _DamagedError("expected the version 5 of the format; in MATLAB save with -v7 or -v6")
            end, budget = os.fstat(file.fileno()).st_size, [MAX_BYTES]
            while (start := file.tell()) < end:
                kind, size = struct.unpack(order + "II", _Elements(file.read, order, budget).take(8))
                if kind == _COMPRESSED:
                    yield from parse(_Elements(_inflate(file.read, size), order, budget))
                elif kind == _MATRIX:
                    file.seek(start)
                    yield from parse(_Elements(file.read, order, budget))
                file.seek(start + 8 + size)
    except FileNotFoundError:
        raise WavedilError(f"{path} does not exist: expected a MATLAB file") from None
    except OSError as error:
        raise WavedilError(f"{path} cannot be read: {error.strerror or error}") from None
    except (_DamagedError, zlib.error) as error:
        raise WavedilError(f"{path} cannot be read as a MATLAB file: {error}") from None


class _Elements:
    """Data elements from a file, or from a part of it that is decompressed."""

    def __init__(self, read: Callable[[int], bytes], order: str, budget: list[int]):
        self.read, self.order, self.budget, self.position = read, order, budget, 0

    def take(self, count: int) -> bytes:
        self.budget[0] -= count
        if self.budget[0] < 0:
            raise _DamagedError(f"its contents are larger than {MAX_BYTES:,} bytes")
        data = self.read(count)
        if len(data) < count:
            raise _DamagedError("it is incomplete")
        self.position += count
        return data

    def skip(self, count: int) -> None:
        while count > 0:
            count -= len(self.take(min(count, 2**16)))

    def tag(self) -> tuple[int, int]:
        """Type and size of an element that is not small."""
        return struct.unpack(self.order + "II", self.take(8))

    def element(self, limit: int) -> tuple[int, bytes]:
        """Type and data of an element of at most ``limit`` bytes."""
        tag = self.take(8)
        kind, size = struct.unpack(self.order + "II", tag)
        if kind >> 16:  # small: size, type and up to 4 bytes of data
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise _DamagedError(f"an element of {size} bytes is marked as small")
            return kind, tag[4 : 4 + size]
        if size > limit:
            raise _DamagedError(f"it has {size:,} bytes where at most {limit:,} are expected")
        data = self.take(size)
        self.take(-size % 8)
        return kind, data

    def matrix_head(self) -> tuple[int, list[int], str]:
        """Class, dimensions and name of an array; its contents follow."""
        _, flags = self.element(8)
        _, sides = self.element(128)
        _, name = self.element(1024)
        if len(flags) != 8 or len(sides) % 4:
            raise _DamagedError("an array has no flags or dimensions")
        flags = struct.unpack(self.order + "I", flags[:4])[0]
        if flags & _IS_COMPLEX:
            raise _DamagedError("it has complex numbers")
        dimensions = struct.unpack(f"{self.order}{len(sides) // 4}i", sides)
        return flags & 0xFF, [max(0, side) for side in dimensions], name.decode("latin-1")


def _cells(elements: _Elements, names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The matrices of a variable, if it has one of the names."""
    if elements.tag()[0] != _MATRIX:
        return
    array_class, sides, name = elements.matrix_head()
    if name not in names:
        return
    if array_class != _CELL:
        raise _DamagedError(f"{name} is not a cell array")
    for _ in range(math.prod(sides)):
        yield name, _matrix(elements, name)


def _field(elements: _Elements, name: str, field: str) -> Iterator[np.ndarray]:
    """The matrix in a field of a variable, if it is a structure ``name`` with it."""
    if elements.tag()[0] != _MATRIX:
        return
    array_class, sides, found = elements.matrix_head()
    if found != name:
        return
    if array_class != _STRUCTURE or math.prod(sides) != 1:
        raise _DamagedError(f"{name} is not a single structure")
    length, names = elements.element(4)[1], elements.element(2**16)[1]
    step = struct.unpack(elements.order + "i", length)[0] if len(length) == 4 else 0
    if step < 1 or len(names) % step:
        raise _DamagedError(f"{name} has no names of fields")
    for start in range(0, len(names), step):
        if names[start : start + step].split(b"\0")[0] == field.encode():
            yield _matrix(elements, f"{name}.{field}")
            return
        _, size = elements.tag()
        elements.skip(size + -size % 8)


def _matrix(elements: _Elements, name: str) -> np.ndarray:
    kind, size = elements.tag()
    start = elements.position
    array_class, sides, _ = elements.matrix_head() if kind == _MATRIX and size else (0, [], "")
    if array_class not in _NUMERIC:
        raise _DamagedError(f"a part of {name} is not a matrix of numbers")
    kind, data = elements.element(MAX_MATRIX_BYTES)
    dtype = np.dtype(_NUMBERS.get(kind, "V1")).newbyteorder(elements.order)
    if kind not in _NUMBERS or len(data) != math.prod(sides) * dtype.itemsize or elements.position != start + size:
        raise _DamagedError(f"a matrix of {name} has {len(data)} bytes of type {kind} for the shape {tuple(sides)}")
    return np.frombuffer(data, dtype).reshape(sides, order="F")


def _inflate(read: Callable[[int], bytes], size: int) -> Callable[[int], bytes]:
    """A function that reads the next bytes of ``size`` compressed ones."""
    decompressor, left = zlib.decompressobj(), size

    def take(count: int) -> bytes:
        nonlocal left
        parts, missing = [], count
        while missing and not decompressor.eof:
            packed = decompressor.unconsumed_tail
            if not packed:
                packed = read(min(left, 2**16))
                left -= len(packed)
                if not packed:
                    break
            parts.append(decompressor.decompress(packed, missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    return take
