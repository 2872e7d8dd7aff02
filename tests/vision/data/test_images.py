"""Reading, writing and resizing of images and masks, and palettes."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from wavedil.errors import WavedilError
from wavedil.vision.data.images import image_size, list_images, read_image, read_mask, write_labels
from wavedil.vision.data.palette import colorize, default_palette, overlay
from wavedil.vision.data.pixels import resize, resize_mask

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=-1)


def saved(tmp_path, array, name="x.png", mode=None, **options):
    picture = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.bmp", "x.webp", "x.ppm"])
def test_read_images_of_each_format(tmp_path, name):
    path = saved(tmp_path, RGB, name, **({"lossless": True} if name == "x.webp" else {}))
    assert (read_image(path) == RGB).all() and image_size(path) == (3, 4)


def test_other_color_modes_become_rgb(tmp_path):
    assert (read_image(saved(tmp_path, GRAY)) == GRAY[..., None]).all()
    opaque = np.dstack([RGB, np.full_like(GRAY, 255)])
    assert (read_image(saved(tmp_path, opaque)) == RGB).all()
    palette = Image.fromarray(RGB).quantize(256)
    assert read_image(saved(tmp_path, palette)).shape == (3, 4, 3)
    assert read_image(saved(tmp_path, RGB, "x.jpg", mode="CMYK")).shape == (3, 4, 3)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    path = saved(tmp_path, np.kron(RGB, np.ones((16, 16, 1), np.uint8)), "x.jpg", exif=exif, quality=100)
    upright = read_image(path)
    assert upright.shape == (64, 48, 3) and image_size(path) == (64, 48)
    assert abs(upright[8, 40].astype(int) - RGB[0, 0]).max() < 12  # the first pixel is now at the top right


@pytest.mark.parametrize(
    ("array", "name", "message"),
    [
        (np.dstack([RGB, GRAY]), "x.png", "transparent"),
        (GRAY.astype(np.uint16) * 200, "x.png", "more than 8 bits"),
        (GRAY.astype(np.float32), "x.tif", "more than 8 bits"),
        (GRAY.astype(np.int32), "x.tif", "more than 8 bits"),
    ],
)
def test_images_that_would_lose_information_raise(tmp_path, array, name, message):
    with pytest.raises(WavedilError, match=f"{name}.*{message}"):
        read_image(saved(tmp_path, array, name))


@pytest.mark.parametrize("channels", [3, 4])
def test_colors_of_16_bits_raise(tmp_path, channels):
    """Pillow cannot write them, and reads only their upper 8 bits without a warning."""
    rows = b"".join(b"\0" + bytes([0, 1, 0, 2, 0, 3, 255, 255][: 2 * channels]) * 4 for _ in range(3))
    header = struct.pack(">IIBBBBB", 4, 3, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    for read in (read_image, lambda path: read_mask(path, colors=True)):
        with pytest.raises(WavedilError, match="deep.png has more than 8 bits per channel"):
            read(path)


def test_masks_with_transparency_or_deep_colors_raise(tmp_path):
    hidden = saved(tmp_path, np.dstack([RGB, GRAY]), "hidden.png")
    for colors in (False, True):
        with pytest.raises(WavedilError, match="hidden.png has transparent pixels"):
            read_mask(hidden, colors)
    deep = saved(tmp_path, GRAY.astype(np.uint16) * 200, "deep.png")
    assert (read_mask(deep, colors=False) == GRAY.astype(int) * 200).all()
    with pytest.raises(WavedilError, match="deep.png has more than 8 bits"):
        read_mask(deep, colors=True)


def test_transparent_palettes_and_multi_image_files_raise(tmp_path):
    path = saved(tmp_path, Image.fromarray(GRAY, mode=None).convert("P"), transparency=20)
    with pytest.raises(WavedilError, match="transparent"):
        read_image(path)
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    frames[0].save(tmp_path / "stack.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(WavedilError, match=r"stack.tif has more than one image"):
        read_image(tmp_path / "stack.tif")


def test_broken_files_raise(tmp_path):
    path = saved(tmp_path, np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    full = path.read_bytes()
    for content, message in (
        (full[: len(full) // 2], "cannot be read"),
        (b"not an image", "not an image"),
        (b"", "not an image"),
    ):
        path.write_bytes(content)
        for read in (read_image, lambda path: read_mask(path, colors=False)):
            with pytest.raises(WavedilError, match=f"x.png.*{message}"):
                read(path)
    with pytest.raises(WavedilError, match=r"nowhere.png does not exist"):
        read_image(tmp_path / "nowhere.png")


def test_masks_are_read_unchanged(tmp_path):
    assert (read_mask(saved(tmp_path, GRAY), colors=False) == GRAY).all()
    labels = GRAY // 20
    write_labels(tmp_path / "p.png", labels, default_palette(12))
    assert (read_mask(tmp_path / "p.png", colors=False) == labels).all()
    assert (read_mask(tmp_path / "p.png", colors=True) == colorize(labels, default_palette(12))).all()
    labels[1, 2] = 255
    write_labels(tmp_path / "p.png", labels, default_palette(12))
    assert (read_mask(tmp_path / "p.png", colors=False) == labels).all()
    wide = GRAY.astype(np.uint16) * 200
    assert (read_mask(saved(tmp_path, wide), colors=False) == wide).all()
    assert (read_mask(saved(tmp_path, GRAY > 100), colors=False) == (GRAY > 100)).all()
    gray_as_rgb = np.repeat(GRAY[..., None], 3, axis=-1)
    assert (read_mask(saved(tmp_path, gray_as_rgb), colors=False) == GRAY).all()
    with pytest.raises(WavedilError, match=r"x.png is in color \(e.g. \[0, 255, 0\]\).*mask_values"):
        read_mask(saved(tmp_path, RGB), colors=False)
    with pytest.raises(WavedilError, match=r"x.jpg is a JPEG"):
        read_mask(saved(tmp_path, GRAY, "x.jpg"), colors=False)


def test_list_images_is_sorted_and_skips_hidden_files(tmp_path):
    for name in ("b.png", "a.PNG", ".hidden.png", "sub/c.jpg", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["a.PNG", "b.png", "sub/c.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(WavedilError, match="empty has no images"):
        list_images(tmp_path / "empty")
    with pytest.raises(WavedilError, match="nowhere is not a folder"):
        list_images(tmp_path / "nowhere")


def test_resizing():
    mask = np.arange(6).reshape(2, 3)
    assert resize_mask(mask, (4, 6)).tolist() == np.kron(mask, np.ones((2, 2), int)).tolist()
    assert resize_mask(np.arange(16).reshape(4, 4), (2, 2)).tolist() == [[5, 7], [13, 15]]  # the pixel at the center
    assert resize_mask(RGB, (3, 2)).shape == (3, 2, 3)
    means = resize(np.repeat(np.array([[0, 0, 100, 100]], np.uint8)[..., None], 3, axis=-1), (1, 2))
    assert means.shape == (1, 2, 3) and means[0, 0, 0] < 50 < means[0, 1, 0]
    assert resize(RGB, (3, 4)) is RGB


def test_the_palette_of_pascal_voc():
    assert default_palette(256)[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert default_palette(256)[15] == (192, 128, 128) and default_palette(256)[255] == (224, 224, 192)
    assert len(set(default_palette(256))) == 256


def test_overlay_leaves_ignored_pixels_unchanged():
    labels = np.full((3, 4), 255, np.uint8)
    assert (overlay(RGB, labels, default_palette(3)) == RGB).all()
    labels[1, 2] = 1
    shown = overlay(RGB, labels, default_palette(3), opacity=0.5)
    assert shown[1, 2].tolist() == np.rint(RGB[1, 2] / 2 + np.array([64, 0, 0])).tolist()
    assert (np.delete(shown.reshape(12, 3), 6, 0) == np.delete(RGB.reshape(12, 3), 6, 0)).all()
