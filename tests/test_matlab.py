"""Cell arrays of MATLAB files: what scipy writes, big-endian files, and damaged ones in bounded time and memory."""

import os
import struct
import zlib

import numpy as np
import pytest

from wavedil.errors import WavedilError
from wavedil.matlab import read_cells


def read(path, names=("a", "b")):
    return [(name, matrix.tolist()) for name, matrix in read_cells(path, names)]


def element(kind, data, order="<"):
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(array_class, name, sides, contents, order="<"):
    flags = element(6, struct.pack(order + "II", array_class, 0), order)
    dims = element(5, struct.pack(f"{order}{len(sides)}i", *sides), order)
    return element(14, flags + dims + element(1, name, order) + contents, order)


def mat_file(*elements, order="<"):
    return bytes(124) + struct.pack(order + "H", 0x100) + (b"IM" if order == "<" else b"MI") + b"".join(elements)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("compressed", [False, True])
def test_cells_that_scipy_writes(tmp_path, dtype, compressed):
    scipy_io = pytest.importorskip("scipy.io")
    cells = np.empty((1, 3), object)
    for index in range(3):
        cells[0, index] = np.arange(6).reshape(2, 3).astype(dtype) + index
    content = {"z": np.eye(3), "a": cells, "text": "abc"}
    scipy_io.savemat(tmp_path / "x.mat", content, do_compression=compressed)
    assert read(tmp_path / "x.mat") == [("a", cells[0, index].tolist()) for index in range(3)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_numbers_stored_as_bytes(tmp_path, order):
    inner = matrix(6, b"", (2, 2), element(2, bytes([1, 2, 3, 4]), order), order)
    (tmp_path / "x.mat").write_bytes(mat_file(matrix(1, b"a", (1, 1), inner, order), order=order))
    assert read(tmp_path / "x.mat") == [("a", [[1, 3], [2, 4]])]


NUMBERS = element(9, bytes(32))
BAD = {
    "numbers": (matrix(6, b"a", (2, 2), NUMBERS), "a is not a cell array"),
    "sparse": (matrix(1, b"a", (1, 1), matrix(5, b"", (2, 2), NUMBERS)), "not a matrix of numbers"),
    "nested": (matrix(1, b"a", (1, 1), matrix(1, b"", (1, 1), matrix(6, b"", (2, 2), NUMBERS))), "not a matrix"),
    "empty cell": (matrix(1, b"a", (1, 1), element(14, b"")), "not a matrix"),
    "shape": (matrix(1, b"a", (1, 1), matrix(6, b"", (2**30, 2**30), NUMBERS)), "32 bytes"),
    "negative shape": (matrix(1, b"a", (1, 1), matrix(6, b"", (-2, -2), NUMBERS)), "32 bytes"),
    "type": (matrix(1, b"a", (1, 1), matrix(6, b"", (2, 2), element(99, bytes(32)))), "type 99"),
    "many cells": (matrix(1, b"a", (2**30, 2**30), b""), "incomplete"),
    "long": (matrix(1, b"a", (1, 1), matrix(6, b"", (2, 2), struct.pack("<II", 9, 2**31))), "at most"),
    "not compressed": (element(15, b"not compressed"), "incorrect header"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_contents_are_refused(tmp_path, kind):
    (tmp_path / "x.mat").write_bytes(mat_file(BAD[kind][0]))
    with pytest.raises(WavedilError, match=f"x.mat cannot be read as a MATLAB file: .*{BAD[kind][1]}"):
        read(tmp_path / "x.mat")


def test_contents_that_expand_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("wavedil.matlab.MAX_BYTES", 2**20)
    cell = matrix(6, b"", (2**8, 2**8), element(2, bytes(2**16)))
    packed = zlib.compress(matrix(1, b"a", (1, 99), cell * 99))
    (tmp_path / "x.mat").write_bytes(mat_file(element(15, packed)))
    with pytest.raises(WavedilError, match="larger than 1,048,576 bytes"):
        read(tmp_path / "x.mat")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(WavedilError, match=r"y.mat does not exist"):
        read(tmp_path / "y.mat")
    (tmp_path / "x.mat").write_bytes(bytes(124) + b"\0\2IM" + bytes(512))  # MATLAB 7.3
    with pytest.raises(WavedilError, match="save with -v7"):
        read(tmp_path / "x.mat")
    os.mkfifo(tmp_path / "pipe.mat")
    with pytest.raises(WavedilError, match=r"pipe.mat is not a regular file"):
        read(tmp_path / "pipe.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, compressed):
    variable = matrix(1, b"a", (1, 2), matrix(6, b"", (2, 2), NUMBERS) * 2)
    content = np.frombuffer(mat_file(element(15, zlib.compress(variable)) if compressed else variable), np.uint8)
    generator = np.random.default_rng(0)
    for _ in range(500):
        damaged = content[: generator.integers(128, 2 * len(content))].copy()
        damaged[generator.integers(100, len(damaged), 3)] = generator.integers(0, 256, 3)
        (tmp_path / "x.mat").write_bytes(damaged.tobytes())
        try:
            read(tmp_path / "x.mat")
        except WavedilError as error:
            assert "\n" not in str(error)
