"""Pictures from elsewhere: no other program is started, nothing waits forever, and mask values do not change."""

import os
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from wavedil.audio.conditioning.speakers import speaker_source
from wavedil.audio.data.feature_files import read_features
from wavedil.audio.piano_rolls import read_rolls
from wavedil.errors import WavedilError
from wavedil.interop.tensors import read_tensors
from wavedil.vision.data.dataset import SegmentationDataset
from wavedil.vision.data.images import image_size, list_images, read_image, read_mask, read_target
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.pairs import find_pairs
from wavedil.vision.models.front_end import vgg16_front_end

READERS = {
    "image": read_image,
    "mask": lambda path: read_mask(path, colors=False),
    "color mask": lambda path: read_mask(path, colors=True),
    "target": lambda path: read_target(path, 0.1),
    "size": image_size,
}
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n%%EOF\n"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["x.png", "x.eps", "x.jpg", "x"])
def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch, reader, name):
    def started(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "check_call", started)
    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(WavedilError, match="is not an image"):
        READERS[reader](tmp_path / name)


@pytest.mark.parametrize("suffix", ["tga", "pcx", "ico", "jp2", "sgi", "dds", "pdf"])
def test_only_listed_formats_are_opened(tmp_path, suffix):
    format = {"jp2": "JPEG2000"}.get(suffix, suffix.upper())
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", format=format)
    with pytest.raises(WavedilError, match=r"x.png is not an image.*PNG"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to pipe"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    def make(name):
        path = tmp_path / name
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            os.symlink("/dev/zero", path)
        else:
            os.mkfifo(tmp_path / f"pipe of {name}")
            os.symlink(tmp_path / f"pipe of {name}", path)
        return path

    readers = [
        *((read, "a.png") for read in READERS.values()),
        (lambda path: read_features(path, 3), "a.npy"),
        (image_size, "a.npy"),
    ]
    readers.append((lambda path: read_target(path, 1.0), "a.npy"))
    paths = {name: make(name) for name in ("a.png", "a.npy")}
    for read, name in readers:
        with pytest.raises(WavedilError, match=f"{name} is not a regular file: expected") as error:
            read(paths[name])
        assert "\n" not in str(error.value)


def test_a_folder_with_a_picture_name_is_a_folder(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind / "b.png").mkdir(parents=True)
        for name in ("a.png", "b.png/c.png"):
            Image.new("L", (8, 8)).save(tmp_path / kind / name)
    assert [pair.image for pair in find_pairs(tmp_path)] == list_images(tmp_path / "images")
    assert len(list_images(tmp_path / "images")) == 2
    for read in READERS.values():
        with pytest.raises(WavedilError, match=r"b.png is not a regular file"):
            read(tmp_path / "images" / "b.png")


def test_an_archive_of_arrays_is_refused_as_a_target(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((2, 2)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(WavedilError, match=r"a.npy cannot be read.*expected a complete .npy file with one array"):
        image_size(tmp_path / "a.npy")


# Values of masks


def pnm(path, magic, maxval, values):
    """A PBM, PGM or PPM file with values ``(height, width)`` or ``(height, width, 3)``, as the format defines it."""
    header = f"{magic}\n# comment\n{values.shape[1]} {values.shape[0]}\n" + (f"{maxval}\n" if maxval else "")
    if magic in ("P1", "P2", "P3"):
        body = " ".join(map(str, values.reshape(-1).tolist())).encode() + b"\n"
    elif magic == "P4":
        body = np.packbits(values.astype(np.uint8), axis=1).tobytes()
    else:
        body = values.astype(">u2" if maxval > 255 else np.uint8).tobytes()
    path.write_bytes(header.encode() + body)
    return path


def values_up_to(maxval, *shape):
    values = np.random.default_rng(maxval).integers(0, maxval + 1, shape)
    values.flat[:2] = maxval, 0
    return values


@pytest.mark.parametrize("maxval", [1, 2, 3, 15, 100, 127, 128, 254, 255, 256, 1000, 4095, 65534, 65535])
@pytest.mark.parametrize("magic", ["P2", "P5"])
def test_gray_pnm_values_are_those_stored(tmp_path, magic, maxval):
    values = values_up_to(maxval, 9, 13)
    path = pnm(tmp_path / "x.pgm", magic, maxval, values)
    assert (read_mask(path, colors=False) == values).all()
    target = np.where(values == 0, np.nan, values * np.float32(0.5))
    np.testing.assert_array_equal(read_target(path, 0.5), target.astype(np.float32))


@pytest.mark.parametrize("magic", ["P1", "P4"])
def test_bits_of_pbm_are_those_stored(tmp_path, magic):
    values = values_up_to(1, 9, 13)
    assert (read_mask(pnm(tmp_path / "x.pbm", magic, None, values), colors=False) == values).all()
    assert list_images(tmp_path)


@pytest.mark.parametrize("maxval", [1, 2, 15, 100, 255])
@pytest.mark.parametrize("magic", ["P3", "P6"])
def test_colors_of_ppm_are_those_stored(tmp_path, magic, maxval):
    values = values_up_to(maxval, 5, 7, 3)
    path = pnm(tmp_path / "x.ppm", magic, maxval, values)
    assert (read_mask(path, colors=True) == values).all()
    gray = np.repeat(values[..., :1], 3, axis=-1)
    assert (read_mask(pnm(tmp_path / "g.ppm", magic, maxval, gray), colors=False) == gray[..., 0]).all()
    # Pictures are shown: their values are scaled to 0 to 255.
    np.testing.assert_allclose(read_image(path), values * 255 / maxval, atol=0.51)


@pytest.mark.parametrize("maxval", [256, 1000, 65535])
@pytest.mark.parametrize("magic", ["P3", "P6"])
def test_deep_colors_of_ppm_are_refused(tmp_path, magic, maxval):
    path = pnm(tmp_path / "x.ppm", magic, maxval, values_up_to(maxval, 5, 7, 3))
    for reader in ("image", "mask", "color mask"):
        with pytest.raises(WavedilError, match="more than 8 bits"):
            READERS[reader](path)


@pytest.mark.parametrize(("magic", "maxval", "value"), [("P5", 1, 2), ("P2", 1, 2), ("P5", 300, 301), ("P6", 7, 8)])
def test_values_above_the_maximum_of_the_file_are_refused(tmp_path, magic, maxval, value):
    values = np.zeros((3, 4) + (3,) * (magic == "P6"), int)
    values[1, 2] = value
    path = pnm(tmp_path / "x.pgm", magic, maxval, values)
    with pytest.raises(WavedilError, match="cannot be read"):
        read_mask(path, colors=magic == "P6")


def png(path, bits, values, color_type=0):
    rows = []
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, color_type, 0, 0, 0))]
    if color_type == 3:
        chunks.append((b"PLTE", bytes(3 * 2**bits)))
    chunks += [(b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize(
    ("bits", "color_type"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)]
)
def test_png_values_are_those_stored(tmp_path, bits, color_type):
    values = values_up_to(2**bits - 1, 9, 13)
    assert (read_mask(png(tmp_path / "x.png", bits, values, color_type), colors=False) == values).all()


def tiff(path, bits, values):
    rows = b"".join(
        int("".join(f"{value:0{bits}b}" for value in row).ljust(-(-len(row) * bits // 8) * 8, "0"), 2).to_bytes(
            -(-len(row) * bits // 8), "big"
        )
        for row in values
    )
    tags = [
        (256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1),
        (278, values.shape[0]), (279, len(rows)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + directory + b"\0" * 4)
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_tiff_values_are_those_stored(tmp_path, bits):
    values = values_up_to(2**bits - 1, 9, 13)
    assert (read_mask(tiff(tmp_path / "x.tif", bits, values), colors=False) == values).all()


def test_masks_with_lossy_compression_are_refused(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 5, (32, 32), dtype=np.uint8))
    picture.convert("RGB").save(tmp_path / "lossy.webp", quality=80)
    picture.save(tmp_path / "lossy.tif", compression="jpeg")
    for name in ("lossy.webp", "lossy.tif"):
        assert read_image(tmp_path / name).shape == (32, 32, 3)
        with pytest.raises(WavedilError, match=f"{name} has lossy compression: expected lossless"):
            read_mask(tmp_path / name, colors=False)
    picture.convert("RGB").save(tmp_path / "x.webp", lossless=True)
    assert (read_mask(tmp_path / "x.webp", colors=False) == np.array(picture)).all()


def test_no_pixel_of_a_dataset_is_ignored_by_rescaling(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (4, 2)).save(tmp_path / "images" / "a.png")
    labels = np.array([[0, 1, 1, 0], [1, 0, 0, 1]])
    pnm(tmp_path / "masks" / "a.pgm", "P5", 1, labels)
    dataset = SegmentationDataset(find_pairs(tmp_path), LabelScheme(["no", "yes"]))
    assert (dataset[0]["labels"].numpy() == labels).all()


@pytest.mark.parametrize("name", ["names.csv", "weights.pth", "weights.safetensors", "pieces.mat"])
def test_tables_and_weights_are_regular_files(tmp_path, name):
    os.mkfifo(tmp_path / name)
    readers = {".csv": [speaker_source], ".mat": [read_rolls], ".pth": [read_tensors, vgg16_front_end]}
    for read in readers.get(os.path.splitext(name)[1], [read_tensors]):
        with pytest.raises(WavedilError, match=f"{name} is not a regular file: expected"):
            read(str(tmp_path / name))
