"""Volumes in NIfTI files."""

import gzip
import struct

import numpy as np
import pytest

from wavedil.errors import WavedilError
from wavedil.vision import read_label_volume, read_volume, write_label_volume
from wavedil.vision.data.volumes import check_same_grid

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[0, 0, 3.0, -20], [-1.5, 0, 0, 9], [0, 1.25, 0, 4], [0, 0, 0, 1]])


def write(path, data, affine=AFFINE, kind=nibabel.Nifti1Image, **header):
    image = kind(data, affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_values_and_place_are_those_of_nibabel(tmp_path, data, kind, suffix):
    volume = read_volume(write(tmp_path / f"a.{suffix}", data, kind=kind))
    assert volume.values.shape == (1, 6, 5, 4) and volume.values.dtype == np.float32
    np.testing.assert_array_equal(volume.values[0], data.transpose())
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.voxel_size == pytest.approx((3.0, 1.25, 1.5))


@pytest.mark.parametrize("type", ["u1", "<i2", ">i4", "<u4", ">f8"])
def test_types_byte_orders_and_intensity_scales(tmp_path, data, type):
    values = (abs(data) * 40).astype(type)
    image = nibabel.Nifti1Image(values, AFFINE, nibabel.Nifti1Header(endianness=">" if type[0] == ">" else "<"))
    image.header.set_data_dtype(type)
    image.header.set_slope_inter(0.5, -3)
    content = image.header.copy()
    (tmp_path / "a.nii").write_bytes(content.binaryblock + b"\0" * 4 + values.tobytes("F"))
    with open(tmp_path / "a.nii", "r+b") as file:  # nibabel leaves the scale to its writer
        order = ">" if type[0] == ">" else "<"
        file.seek(108)
        file.write(struct.pack(order + "fff", 352, 0.5, -3))
    np.testing.assert_allclose(
        read_volume(tmp_path / "a.nii").values[0], values.transpose().astype(np.float64) * 0.5 - 3, rtol=1e-6
    )
    np.testing.assert_allclose(
        nibabel.load(tmp_path / "a.nii").get_fdata().transpose(), read_volume(tmp_path / "a.nii").values[0], rtol=1e-6
    )


def test_channels_units_and_extensions(tmp_path, data):
    four = np.stack([data, -data], 3)
    write(tmp_path / "a.nii", four)
    volume = read_volume(tmp_path / "a.nii", 2)
    np.testing.assert_array_equal(volume.values, four.transpose())
    image = nibabel.Nifti1Image(data[..., None], AFFINE)
    image.header.set_xyzt_units("micron")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 100))
    nibabel.save(image, tmp_path / "b.nii.gz")
    volume = read_volume(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(volume.values[0], data.transpose())
    assert volume.voxel_size == pytest.approx((3e-3, 1.25e-3, 1.5e-3))


@pytest.mark.parametrize(("high", "suffix"), [(3, "nii.gz"), (255, "nii"), (300, "nii.gz"), (2**31 - 1, "nii")])
def test_labels_are_read_as_they_were_written(tmp_path, high, suffix):
    labels = np.random.default_rng(1).integers(0, high + 1, (6, 5, 4))
    labels[0, 0, 0] = high
    path = tmp_path / "new" / f"a.{suffix}"
    write_label_volume(path, labels, AFFINE)
    found = read_label_volume(path)
    assert found.values.dtype == np.int64 and found.values.shape == labels.shape
    np.testing.assert_array_equal(found.values, labels)
    np.testing.assert_allclose(found.affine, AFFINE)
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(), labels)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def corrupt(position, *values, base=None):
    """Writes a file whose header has other values: int16 or float32 from a position."""

    def make(path, data):
        content = bytearray(gzip.decompress(write(path, data).read_bytes()))
        for number, value in enumerate(values):
            form, size = ("<h", 2) if isinstance(value, int) else ("<f", 4)
            struct.pack_into(form, content, position + number * size, value)
        path.write_bytes(gzip.compress(content))

    return make


DAMAGED = {
    "no affine": (corrupt(252, 0, 0), "has no affine"),
    "zero affine": (corrupt(280, *[0.0] * 12), "voxels of 0 x 0 x 0 mm"),
    "affine not finite": (corrupt(280, float("nan")), "affine has values that are not finite"),
    "infinite affine": (corrupt(292, float("inf")), "affine has values that are not finite"),
    "singular affine": (corrupt(280, *[1.0, 1.0, 0.0, 0.0] * 2, 0.0, 0.0, 1.0, 0.0), "affine is singular"),
    "huge": (corrupt(40, 3, 30000, 30000, 30000), "27,000,000,000,000 values by its header"),
    "long": (corrupt(40, 3, 700, 700, 700), "it is truncated"),
    "negative axis": (corrupt(40, 3, 4, -5, 6), "expected at least one voxel"),
    "no voxel": (corrupt(40, 3, 4, 0, 6), "expected at least one voxel"),
    "four axes": (corrupt(40, 4, 4, 5, 3, 2), "has 4 axes, 4 x 5 x 3 x 2: expected 3 axes"),
    "two axes": (corrupt(40, 2, 4, 5), "has 2 axes, 4 x 5: expected 3 axes"),
    "complex": (corrupt(70, 32), "values of type complex64"),
    "unknown type": (corrupt(70, 999), "header is damaged"),
    "offset": (corrupt(108, 1e18), "vox_offset is 1e\\+18"),
    "offset nan": (corrupt(108, float("nan")), "vox_offset is nan"),
    "far offset": (corrupt(108, 1e6), "it is truncated"),
    "pair": (corrupt(344, 0x696E, 0x31), "header of a pair"),
    "not finite": (
        lambda path, data: write(path, np.where(data > 0, np.nan, data)),
        "NaN, or too large for float32, at",
    ),
    "truncated": (lambda path, data: path.write_bytes(write(path, data).read_bytes()[:-40]), "it is truncated"),
    "damaged": (
        lambda path, data: path.write_bytes((content := write(path, data).read_bytes())[:-6] + b"xx" + content[-4:]),
        "is damaged: CRC",
    ),
    "text": (lambda path, data: path.write_text("not a volume" * 100), "is not a NIfTI file"),
    "gzip of text": (lambda path, data: path.write_bytes(gzip.compress(b"text" * 500)), "is not a NIfTI file"),
    "short": (lambda path, data: path.write_bytes(b"\x5c\x01\0\0"), "is not a NIfTI file"),
    "empty": (lambda path, data: path.write_bytes(b""), "is not a NIfTI file"),
    "missing": (lambda path, data: None, "does not exist"),
    "folder": (lambda path, data: path.mkdir(), "is not a regular file"),
}


@pytest.mark.filterwarnings("ignore")  # of nibabel
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_in_a_line(tmp_path, data, name):
    make, message = DAMAGED[name]
    make(tmp_path / "a.nii.gz", data)
    with pytest.raises(WavedilError, match=message) as error:
        read_volume(tmp_path / "a.nii.gz")
    assert "\n" not in str(error.value) and str(tmp_path / "a.nii.gz") in str(error.value)


def test_labels_that_are_not_classes_are_refused(tmp_path, data):
    labels = np.arange(120).reshape(4, 5, 6) % 3
    cases = [
        (labels + 0.5, None, "value 0.5 is not an integer"),
        (np.where(data > 2, np.inf, labels), None, "value inf is not an integer"),
        (labels - 1, None, "values from -1 to 1"),
        (labels, 2, "value 2 is not a class: expected 0 to 1"),
        (labels - 1, 3, "value -1 is not a class"),
    ]
    for values, classes, message in cases:
        kind = values.astype(np.float32 if values.dtype.kind == "f" else np.int16)
        with pytest.raises(WavedilError, match=message):
            read_label_volume(write(tmp_path / "a.nii", kind), classes)
    known = np.where(labels == 2, 255, labels).astype(np.float32)
    assert set(np.unique(read_label_volume(write(tmp_path / "a.nii", known), 2).values)) == {0, 1, 255}


def test_labels_on_another_grid_are_refused(tmp_path, data):
    image = read_volume(write(tmp_path / "a.nii", data))
    labels = (data > 0).astype(np.uint8)
    check_same_grid(image, read_label_volume(write(tmp_path / "b.nii", labels, AFFINE + 1e-6 * np.eye(4))), "a", "b")
    moved, turned = AFFINE.copy(), AFFINE.copy()
    moved[0, 3] += 0.5
    turned[:3, 0] *= -1
    for affine, shape, message in [
        (moved, labels, "corners are up to 0.5 mm elsewhere"),
        (turned, labels, "b has another affine than its image a"),
        (AFFINE, labels[:-1], "b has shape"),
    ]:
        with pytest.raises(WavedilError, match=message):
            check_same_grid(image, read_label_volume(write(tmp_path / "b.nii", shape, affine)), "a", "b")


def test_labels_that_cannot_be_written_leave_no_file(tmp_path):
    labels = np.zeros((2, 3, 4), np.int64)
    cases = [
        ("a.png", labels, AFFINE, "ends in .nii or .nii.gz"),
        ("a.nii", labels[0], AFFINE, "expected integers of shape"),
        ("a.nii", labels + 0.5, AFFINE, "expected integers of shape"),
        ("a.nii", labels - 1, AFFINE, "expected 0 to"),
        ("a.nii", labels, np.zeros((4, 4)), "voxels of 0 x 0 x 0 mm"),
        ("a.nii", labels, np.eye(3), "of shape"),
        ("a.nii", labels, AFFINE * np.nan, "not finite"),
    ]
    for name, values, affine, message in cases:
        with pytest.raises(WavedilError, match=message):
            write_label_volume(tmp_path / name, values, affine)
    assert not list(tmp_path.iterdir())


def test_without_nibabel_the_command_to_install_it_is_named(tmp_path, data, monkeypatch):
    path = write(tmp_path / "a.nii", data)
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(WavedilError, match=r"nibabel is not installed: .*pip install .*\[medical\]"):
        read_volume(path)
