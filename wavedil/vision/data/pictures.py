"""Decoding of picture files by Pillow, the same for images, masks and targets.

Pillow is imported inside the functions that use it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from wavedil.errors import WavedilError, first_line
from wavedil.files import check_regular_file
from wavedil.shards import open_file

if TYPE_CHECKING:
    from PIL.Image import Image

PathLike = str | os.PathLike[str]
#: All that Pillow may open. For some others it starts a program, e.g. Ghostscript, whatever the file's suffix is.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 2**27  # 1 GB in memory while an RGB image of this size is read
#: Environment variable that replaces MAX_PIXELS.
MAX_PIXELS_VARIABLE = "WAVEDIL_MAX_PIXELS"
_BAND = 2**22  # pixels that are converted at a time
_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_SAMPLES = 277  # tag of TIFF: bands
_TILES = "wavedil tiles"  # key in Pillow's ``info`` for a copy of ``tile``, the pixel format of the file


@contextmanager
def open_picture(path: PathLike) -> Iterator[Image]:
    """Opens a picture file without decoding its pixels.

    Raises:
        WavedilError: naming the file, if it is missing or damaged, has another format, more than one image, or too many
            pixels by its header.
    """
    from PIL import Image, UnidentifiedImageError

    check_regular_file(path, "an image")
    # Pillow refuses pictures of more than twice its limit when it opens them.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels())
    try:
        with warnings.catch_warnings(action="ignore"):  # of large pictures and of damaged metadata
            # A file instead of its name: Pillow maps files to memory by name, with turned TIFFs in the wrong order.
            with open_file(path) as file, Image.open(file, formats=FORMATS) as picture:
                check_size(path, picture.size[::-1])
                # MPO: a JPEG from a phone, followed by more views of the same scene.
                if getattr(picture, "is_animated", False) and picture.format != "MPO":
                    raise WavedilError(f"{path} has more than one image: expected one; split the file")
                picture.info[_TILES] = picture.tile  # loading clears it
                yield picture
    except FileNotFoundError:
        raise WavedilError(f"{path} does not exist: expected an image") from None
    except UnidentifiedImageError:
        raise WavedilError(f"{path} is not an image: expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise WavedilError(f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels by its header") from None
    except WavedilError:
        raise
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        raise WavedilError(f"{path} cannot be read: {first_line(error)}") from None


def max_pixels() -> int:
    """The largest number of pixels of a picture or target that is read."""
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if text is None:
        return MAX_PIXELS
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:20]) < 2**40):
        raise WavedilError(f"{MAX_PIXELS_VARIABLE} is {text!r}: expected a number of pixels, 1 to {2**40 - 1}")
    return int(text)


def check_size(path: PathLike, size: tuple[int, int]) -> None:
    """Raises WavedilError for a (height, width) of more than :func:`max_pixels`, or of 0."""
    height, width = size
    if 0 in size:
        raise WavedilError(f"{path} has {width} x {height} pixels: expected at least one")
    if height * width > max_pixels():
        raise WavedilError(
            f"{path} has {width} x {height} pixels, more than {max_pixels():,}: make it smaller, or set the "
            f"environment variable {MAX_PIXELS_VARIABLE}={height * width} if there is enough memory, about "
            f"{height * width * 8 / 1e9:.2g} GB"
        )


def displayed_size(picture: Image, path: PathLike) -> tuple[int, int]:
    """(height, width) as the picture is displayed, from its header."""
    width, height = picture.size
    if picture.format == "TIFF":  # whether Pillow exchanges the two here depends on where the orientation is stored
        width, height = picture.tag_v2[256], picture.tag_v2[257]
    return (width, height) if _orientation(picture, path) >= 5 else (height, width)


def decode(picture: Image, path: PathLike, convert: Callable[[Image], np.ndarray]) -> np.ndarray:
    """The pixels as they are displayed, ``(height, width, ...)``, converted band by band to bound memory.

    Args:
        picture: of :func:`open_picture`; may be decoded already.
        convert: from a part of the picture to its pixels.
    """
    picture.load()
    orientation = 1 if picture.format == "TIFF" else _orientation(picture, path)  # TIFF: Pillow has turned it
    width, height = picture.size
    rows, pixels = max(1, _BAND // width), None
    for top in range(0, height, rows):
        band = convert(picture.crop((0, top, width, min(top + rows, height))))
        if pixels is None:
            pixels = np.empty((height, *band.shape[1:]), band.dtype)
        pixels[top : top + rows] = band
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    vertical = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    horizontal = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels if orientation == 1 else pixels[vertical, horizontal].copy()


def has_deep_colors(picture: Image) -> bool:
    """Whether the file has colors of more than 8 bits; Pillow reads only their upper 8 bits."""
    raw, *rest = _arguments(picture)
    if picture.format == "PPM" and picture.mode == "RGB":
        return rest[:1] > [255]
    # BGR;16 is 5 or 6 bits for each color.
    return ";16" in str(raw) and not str(raw).startswith("BGR") and picture.mode[0] != "I"


def stored_bands(picture: Image) -> int | None:
    """Bands of an RGB TIFF with more than three, of which Pillow decodes three; None for other pictures."""
    bands = picture.tag_v2.get(_SAMPLES, 1) if picture.format == "TIFF" and picture.mode == "RGB" else 3
    return bands if bands > 3 else None


def is_premultiplied(picture: Image) -> bool:
    """Whether the file has colors multiplied by alpha, which Pillow divides by it."""
    return _arguments(picture)[0] == "RGBa"


def is_lossy(picture: Image, path: PathLike) -> bool:
    """Whether the file has lossy compression."""
    if picture.format == "WEBP":
        with open_file(path) as file:
            file.seek(12)
            while chunk := file.read(8):
                if chunk[:4] == b"VP8 ":
                    return True
                size = int.from_bytes(chunk[4:], "little")
                file.seek(size + size % 2, os.SEEK_CUR)
    return picture.format in ("JPEG", "MPO") or picture.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")


def load_stored(picture: Image, path: PathLike) -> Callable[[np.ndarray], np.ndarray]:
    """Prepares a mask; returns a function from Pillow's gray values to those in the file, e.g. not scaled to 255."""
    raw, *rest = _arguments(picture)
    if picture.format == "PPM" and picture.mode in ("L", "I", "RGB") and rest:
        # Tell the decoder that values are up to the maximum of their type, so it does not change them.
        full = 65535 if picture.mode == "I" else 255
        picture.tile = [(*tile[:3], (raw, full)) for tile in picture.tile]
        maximum = np.max(picture.getextrema())  # loads the picture
        if maximum > rest[0]:
            raise WavedilError(f"{path} cannot be read: it has the value {maximum}, but its maximum is {rest[0]}")
    elif picture.mode in ("1", "L"):
        kind, _, bits = str(raw).partition(";")
        # In a PBM file, and in a TIFF with ";I", 0 is white.
        inverted = (picture.format == "PPM" and kind == "1") or (picture.format == "TIFF" and "I" in bits)
        step = {"2": 85, "4": 17}.get(bits[:1], 1) if kind == "L" else 1
        white = 1 if picture.mode == "1" else 255
        return lambda values: (white - values if inverted else values) // step
    return lambda values: values


def _arguments(picture: Image) -> tuple:
    """The arguments of Pillow's decoder: first the pixel format in the file, e.g. ``"L;2"`` for gray of 2 bits."""
    for *_, arguments in picture.info.get(_TILES, ()):
        return arguments if isinstance(arguments, tuple) else (arguments,)
    return ("",)


def _orientation(picture: Image, path: PathLike) -> int:
    """The orientation of EXIF, TIFF or XMP, 1 to 8; 1 if there is none, or it cannot be read."""
    from PIL import Image

    # Pillow decodes a PNG to find an orientation that is stored after the pixels.
    in_header = picture.format == "PNG" and not _has_late_metadata(path)
    try:
        value = (Image.Image.getexif(picture) if in_header else picture.getexif()).get(_ORIENTATION)
    except Exception:  # of many kinds; viewers show a picture with damaged metadata as it is stored
        return 1
    return value if value in range(1, 9) else 1


def _has_late_metadata(path: PathLike) -> bool:
    """Whether a PNG file has metadata after its pixels."""
    with open_file(path) as file:
        file.seek(8)
        found = False
        while len(head := file.read(8)) == 8:
            found = found or head[4:] == b"IDAT"
            if found and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False
