"""Images, masks and targets are decoded alike: orientation, color modes, limits, damaged files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from wavedil.errors import WavedilError
from wavedil.vision.data.images import image_size, read_image, read_mask, read_target
from wavedil.vision.data.pairs import find_pairs

GRAY = np.arange(6, dtype=np.uint8).reshape(2, 3)
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: np.rot90(x),
}
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def turned(path, array, orientation, kind):
    """Writes a picture with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(array)
    if kind == "late":  # after the pixels
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        body = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
        path.write_bytes(buffer.getvalue()[:-12] + chunk + buffer.getvalue()[-12:])
    elif kind == "webp":
        picture.convert("RGB").save(path, "WEBP", lossless=True, exif=exif)
    elif kind == "xmp":
        picture.convert("RGB").save(path, "WEBP", lossless=True, xmp=XMP.format(orientation).encode())
    elif kind in ("tiff_lzw", "raw"):
        picture.save(path, "TIFF", compression=kind, tiffinfo={274: orientation})
    else:
        picture.save(path, "PNG", exif=exif)
    return path


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["png", "late", "webp", "xmp", "raw", "tiff_lzw"])
def test_orientation_is_applied_to_images_masks_and_targets(tmp_path, orientation, kind):
    path = turned(tmp_path / "x", GRAY, orientation, kind)
    shown = TURNS[orientation](GRAY)
    assert (read_image(path) == shown[..., None]).all()
    assert (read_mask(path, colors=False) == shown).all()
    assert (read_mask(path, colors=True) == shown[..., None]).all()
    np.testing.assert_array_equal(read_target(path, 1.0), np.where(shown, shown, np.nan).astype(np.float32))
    assert image_size(path) == shown.shape
    with open(path, "rb") as file, Image.open(file) as picture:
        assert (np.array(ImageOps.exif_transpose(picture).convert("L")) == shown).all()


def test_deep_masks_are_turned_as_well(tmp_path):
    deep = GRAY.astype(np.uint16) * 5000
    for kind in ("png", "raw"):
        path = turned(tmp_path / kind, deep, 6, kind)
        assert (read_mask(path, colors=False) == np.rot90(deep, -1)).all()
        assert image_size(path) == (3, 2)


def test_a_turned_image_belongs_to_an_upright_mask(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    turned(tmp_path / "images" / "a.tif", GRAY, 8, "raw")
    turned(tmp_path / "masks" / "a.png", np.rot90(GRAY), 1, "png")
    assert len(find_pairs(tmp_path)) == 1


def test_turned_pictures_of_one_column_are_contiguous(tmp_path):
    for array in (GRAY[:1], GRAY[:, :1]):
        for orientation in TURNS:
            image = read_image(turned(tmp_path / "x", array, orientation, "png"))
            assert min(image.strides) > 0 and (image[..., 0] == TURNS[orientation](array)).all()


@pytest.mark.parametrize("value", [0, 9, 255])
def test_unknown_orientations_are_ignored(tmp_path, value):
    path = turned(tmp_path / "x", GRAY, value, "png")
    assert (read_mask(path, colors=False) == GRAY).all() and image_size(path) == GRAY.shape


def test_damaged_metadata_does_not_hide_a_picture(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "x.png", exif=b"Exif\0\0nothing")
    assert (read_image(tmp_path / "x.png")[..., 0] == GRAY).all() and image_size(tmp_path / "x.png") == GRAY.shape


def test_large_pictures_are_read_in_bands(tmp_path, monkeypatch):
    monkeypatch.setattr("wavedil.vision.data.pictures._BAND", 7)
    image = np.random.default_rng(0).integers(0, 256, (13, 5, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png") == image).all()
    Image.fromarray(image[..., 0]).save(tmp_path / "y.png")
    assert (read_mask(tmp_path / "y.png", colors=False) == image[..., 0]).all()
    hidden = np.dstack([image, np.full((13, 5), 255, np.uint8)])
    hidden[12, 4, 3] = 254  # in the last band
    Image.fromarray(hidden).save(tmp_path / "z.png")
    with pytest.raises(WavedilError, match=r"z.png has transparent pixels"):
        read_image(tmp_path / "z.png")


# Sizes


def bomb(path, width, height):
    """A PNG whose header has a size that its few bytes do not have."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99))))
    body = b"".join(struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\0IEND\xaeB`\x82")
    return path


@pytest.mark.parametrize("size", [(13_100, 13_100), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_too_large_pictures_are_refused_before_decoding(tmp_path, monkeypatch, size):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("was decoded"))
    path = bomb(tmp_path / "x.png", *size)
    for read in (read_image, image_size, lambda path: read_mask(path, colors=False)):
        with pytest.raises(WavedilError, match=r"x.png has .*pixels"):
            read(path)


def test_the_size_of_a_png_is_read_without_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("was decoded"))
    Image.fromarray(GRAY).save(tmp_path / "x.png")
    assert image_size(tmp_path / "x.png") == GRAY.shape


def test_the_largest_size_can_be_set(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.fromarray(GRAY).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", GRAY)
    monkeypatch.setenv("WAVEDIL_MAX_PIXELS", "5")
    for name in ("x.png", "x.npy"):
        message = f"{name} has 3 x 2 pixels, more than 5: .*WAVEDIL_MAX_PIXELS=6"
        with pytest.raises(WavedilError, match=message):
            read_mask(tmp_path / name, colors=False)
    monkeypatch.setenv("WAVEDIL_MAX_PIXELS", "6")
    assert (read_mask(tmp_path / "x.png", colors=False) == GRAY).all()
    monkeypatch.setenv("WAVEDIL_MAX_PIXELS", "many")
    with pytest.raises(WavedilError, match="WAVEDIL_MAX_PIXELS is 'many': expected a number"):
        read_mask(tmp_path / "x.png", colors=False)
    monkeypatch.setenv("WAVEDIL_MAX_PIXELS", "900000000")  # more than Pillow's own limit
    assert image_size(bomb(tmp_path / "y.png", 20_000, 20_000)) == (20_000, 20_000)


# Color modes


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_opaque_alpha_is_dropped_in_images_and_masks(tmp_path, mode):
    picture = Image.fromarray(GRAY)
    picture = picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)
    picture.save(tmp_path / "x.tif")
    assert (read_image(tmp_path / "x.tif") == GRAY[..., None]).all()
    assert (read_mask(tmp_path / "x.tif", colors=False) == GRAY).all()


def test_a_transparent_index_of_a_palette_is_a_class(tmp_path):
    Image.fromarray(GRAY).convert("P").save(tmp_path / "x.png", transparency=0)
    assert (read_mask(tmp_path / "x.png", colors=False) == GRAY).all()
    for read in (read_image, lambda path: read_mask(path, colors=True)):
        with pytest.raises(WavedilError, match="transparent"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("mode", ["1", "L"])
def test_values_of_a_tiff_in_which_0_is_white_are_those_stored(tmp_path, compression, mode):
    values = GRAY % 2 if mode == "1" else GRAY
    white = 1 if mode == "1" else 255
    picture = Image.fromarray((white - values).astype(bool) if mode == "1" else white - values)
    picture.save(tmp_path / "x.tif", compression=compression, tiffinfo={262: 0})
    with Image.open(tmp_path / "x.tif") as stored:
        assert stored.tag_v2[262] == 0
    assert (read_mask(tmp_path / "x.tif", colors=False) == values).all()


def test_bmp_with_16_bits_for_each_pixel_is_an_image(tmp_path):
    header = struct.pack("<2sIHHI", b"BM", 66 + 4, 0, 0, 66) + struct.pack(
        "<IiiHHIIIIII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0
    )
    path = tmp_path / "x.bmp"
    path.write_bytes(header + struct.pack("<III", 0xF800, 0x7E0, 0x1F) + struct.pack("<HH", 0xF800, 0x1F))
    assert read_image(path).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_integer_arrays_are_masks(tmp_path):
    for dtype in (bool, np.uint8, ">i2", np.int64):
        np.save(tmp_path / "x.npy", (GRAY % 2).astype(dtype))
        assert (read_mask(tmp_path / "x.npy", colors=False) == GRAY % 2).all()
    with pytest.raises(WavedilError, match=r"x.npy is an array: expected a picture"):
        read_mask(tmp_path / "x.npy", colors=True)
    np.save(tmp_path / "x.npy", GRAY.astype(float))
    with pytest.raises(WavedilError, match=r"x.npy has float64 values: expected integers"):
        read_mask(tmp_path / "x.npy", colors=False)


@pytest.mark.parametrize("mode", ["F", "CMYK", "YCbCr"])
def test_other_color_modes_are_no_masks(tmp_path, mode):
    Image.fromarray(GRAY).convert("RGB" if mode != "F" else "L").convert(mode).save(tmp_path / "x.tif")
    with pytest.raises(WavedilError, match=f"x.tif has the color mode {mode}.*expected a gray"):
        read_mask(tmp_path / "x.tif", colors=False)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "GIF", "BMP", "WEBP", "PPM"])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, format):
    path, generator = tmp_path / "x", np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(np.kron(GRAY, np.ones((4, 4), np.uint8))).convert("RGB").save(buffer, format)
    content = np.frombuffer(buffer.getvalue(), np.uint8)
    for _ in range(60):
        damaged = content[: generator.integers(1, 2 * len(content))].copy()
        damaged[generator.integers(0, len(damaged), 3)] = generator.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        for read in (read_image, image_size, lambda path: read_mask(path, colors=False)):
            try:
                read(path)
            except WavedilError as error:
                assert "\n" not in str(error)
