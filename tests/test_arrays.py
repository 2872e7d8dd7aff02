"""Reading of .npy files: the values that numpy wrote, and one line for all else."""

import pickle

import numpy as np
import pytest

from wavedil.arrays import open_array
from wavedil.errors import WavedilError


def read(path, start=None, stop=None):
    with open_array(path, "features", ("channels", "frames")) as array:
        return array.read() if start is None else array.columns(start, stop)


@pytest.mark.parametrize("dtype", ["?", "i1", ">i2", "<i4", "i8", "u1", ">u2", "u4", "u8", "f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_are_those_that_numpy_wrote(tmp_path, dtype, order):
    values = np.arange(15).reshape(3, 5).astype(dtype, order=order)
    np.save(tmp_path / "x.npy", values)
    found = read(tmp_path / "x.npy")
    assert (found == values).all() and found.dtype == values.dtype.newbyteorder("=")
    assert (read(tmp_path / "x.npy", 1, 4) == values[:, 1:4]).all()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_versions_of_the_format_are_read(tmp_path, version):
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array(file, np.eye(3), version)
    assert (read(tmp_path / "x.npy") == np.eye(3)).all()


def with_header(path, text, size=0):
    path.write_bytes(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + bytes(size))


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 99999999999999999999999999)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 5}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 1)}",
        "{'descr': '<f4', 'fortran_order': __import__('os').abort(), 'shape': (1, 1)}",
        "{'descr': '<f4', 'shape': (1, 1)}",
        "(" * 4000,
        "-" * 4000 + "1",
        "{" * 300 + "'shape': (" * 300,
        "",
    ],
)
def test_headers_that_lie_or_are_damaged_are_refused(tmp_path, text):
    with_header(tmp_path / "x.npy", text, 8)
    with pytest.raises(WavedilError, match=r"x.npy cannot be read as features: .*") as error:
        read(tmp_path / "x.npy")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((3, 4)))
    complete = path.read_bytes()
    for content in (b"", complete[:5], complete[:11], complete[:60], complete[:-1], complete + b"\0", b"PK\3\4" * 30):
        path.write_bytes(content)
        with pytest.raises(WavedilError, match="x.npy cannot be read as features"):
            read(path)
    path.write_bytes(pickle.dumps(np.ones((3, 4))))
    with pytest.raises(WavedilError, match=r"expected a complete .npy file"):
        read(path)


def test_a_file_that_is_truncated_while_it_is_open_is_an_error(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 4000)))
    with open_array(tmp_path / "x.npy", "features", ("channels", "frames")) as array:
        with open(tmp_path / "x.npy", "r+b") as file:
            file.truncate(1000)
        with pytest.raises(WavedilError, match="x.npy cannot be read: it was truncated"):
            array.columns(10, 3000)
