"""Reading and writing of images, masks and targets. Pillow is imported inside the functions that use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from wavedil.arrays import ArrayFile, open_array
from wavedil.core.schema import AnyPath, Range, checked
from wavedil.errors import WavedilError, count_text
from wavedil.files import walk_files
from wavedil.shards import is_folder
from wavedil.vision.data.pictures import (
    check_size,
    decode,
    displayed_size,
    has_deep_colors,
    is_lossy,
    is_premultiplied,
    load_stored,
    open_picture,
    stored_bands,
)
from wavedil.writing import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
_GRAY = ("1", "L", "P", "LA", "La", "PA", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes of masks with gray values
PathLike = str | os.PathLike[str]
Bands = Annotated[int, Range(1, 2**16)]


@checked
def read_image(path: AnyPath, channels: Bands | None = 3) -> np.ndarray:
    """Reads an image as it is displayed, ``(height, width, channels)``: the orientation in the file is applied.

    With 3 channels, gray, palette and CMYK images of 8 bits are converted to RGB, and an alpha channel without
    transparent pixels is dropped. With other numbers nothing is converted.

    Args:
        channels: 3: RGB; 1: gray, of 8 or 16 bits; 4: RGBA, or RGB and another band, e.g. near infrared, as a TIFF file
            has it; None: 1 or 4 if the file has as many bands, else 3.

    Returns:
        uint8, or uint16 for gray of 16 bits.

    Raises:
        WavedilError: naming the file, if it cannot be read, has another number of bands, transparent pixels (not with 4
            channels), colors of more than 8 bits, more than one image, or more pixels than
            :func:`wavedil.vision.data.pictures.max_pixels`.
    """
    with open_picture(path) as picture:
        if has_deep_colors(picture):
            raise WavedilError(
                f"{path} has more than 8 bits per channel: expected RGB or RGBA of 8 bits, or gray of 16"
            )
        if stored_bands(picture) == 4:
            picture._mode = "RGBX"  # there is no public way to all four bands
        if channels is None:
            channels = {**dict.fromkeys(_GRAY_BANDS, 1), **dict.fromkeys(_FOUR_BANDS, 4)}.get(picture.mode, 3)
        return decode(picture, path, _converter(picture, path, channels))


def pillow_pixels(picture: Image, channels: int) -> np.ndarray:
    """The pixels of an image of Pillow, as :func:`read_image` returns those of a file."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(picture)
    return np.array(_converter(turned, "image", channels)(turned))  # torch needs writable arrays


_GRAY_BANDS = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")
_FOUR_BANDS = ("RGBA", "RGBX")
_BLEND = "blend it with a background first"
_REMEDY = "set in_channels of the backbone to the bands of the images, or convert them"


def _converter(picture: Image, path: PathLike, channels: int) -> Callable[[Image], np.ndarray]:
    """A function from a part of a picture to its pixels ``(height, width, channels)``."""
    mode, name = picture.mode, f"{path} has the color mode {picture.mode}"
    if stored_bands(picture) is not None:
        raise WavedilError(f"{path} has {count_text(stored_bands(picture), 'band')}: expected 1, 3 or 4")
    if channels == 3:
        if mode[0] in "IF":
            raise WavedilError(
                f"{path} has more than 8 bits per channel, and the network takes RGB of 8 bits: convert it to 8 bits, "
                "scaled to the range of its values, or set in_channels of the backbone to 1"
            )
        if mode == "RGBX":
            raise WavedilError(f"{path} has 4 bands, and the network takes 3: {_REMEDY}")
        return lambda band: np.asarray(_opaque(band, path, _BLEND).convert("RGB"))
    if channels == 1:
        if mode not in (*_GRAY_BANDS, "LA"):
            raise WavedilError(f"{name}, and the network takes 1 band, gray: {_REMEDY}")
        return lambda band: _one_band(band, path)
    if channels == 4:
        if mode not in _FOUR_BANDS:
            raise WavedilError(f"{name}, and the network takes 4 bands: {_REMEDY}")
        if is_premultiplied(picture):
            raise WavedilError(
                f"{path} has colors that are multiplied by alpha: write it with an alpha channel that is not associated"
            )
        return np.asarray
    raise WavedilError(f"the network takes {count_text(channels, 'band')}: expected 1, 3 or 4, as {path} may have")


def _one_band(band: Image, path: PathLike) -> np.ndarray:
    if band.mode in ("1", "L", "LA"):
        return np.asarray(_opaque(band, path, _BLEND).convert("L"))[..., None]
    values = np.asarray(band)
    if values.min() < 0 or values.max() > 65535:
        raise WavedilError(f"{path} has values from {values.min()} to {values.max()}: expected 0 to 65535")
    if (values == band.info.get("transparency")).any():
        raise WavedilError(f"{path} has transparent pixels: {_BLEND}")
    values = values.astype(np.uint16)
    return values[..., None]


@checked
def read_mask(path: AnyPath, colors: bool) -> np.ndarray:
    """Reads a mask as it is displayed: ``(height, width)`` gray values or palette indices, or ``(..., 3)`` colors.

    The orientation in the file is applied, as for images. Values are those stored in the file: gray values of fewer
    than 8 bits and those of PBM, PGM and PPM files with another maximum than 255 are not scaled, and those of a TIFF
    file in which 0 is white are not inverted.

    Args:
        path: a picture without lossy compression, or a .npy file with integers.
        colors: return colors. Otherwise a color image is accepted only if its three channels are equal.

    Raises:
        WavedilError: naming the file, if it cannot be read, has lossy compression, transparent pixels, colors where
            gray values are expected, or values that are not integers.
    """
    if Path(path).suffix == ".npy":
        if colors:
            raise WavedilError(f"{path} is an array: expected a picture, since mask_values are colors")
        with _open_npy(path) as array:
            if array.dtype.kind == "f":
                raise WavedilError(f"{path} has {array.dtype} values: expected integers, the classes of a mask")
            values = array.read()
            return values.astype(np.uint8) if values.dtype == bool else values
    remedy = "mark ignored pixels with the ignore_label instead"
    with open_picture(path) as picture:
        if is_lossy(picture, path):
            kind = "is a JPEG" if picture.format in ("JPEG", "MPO") else "has lossy compression"
            raise WavedilError(f"{path} {kind}: expected lossless compression for masks, e.g. PNG")
        if (colors and picture.mode[0] in "IF") or has_deep_colors(picture):
            raise WavedilError(f"{path} has more than 8 bits per channel: expected 8, as in mask_values")
        if not colors and picture.mode not in _GRAY and picture.mode not in ("RGB", "RGBA"):
            raise WavedilError(
                f"{path} has the color mode {picture.mode} (F: floats): expected a gray, palette or RGB picture of "
                "integers"
            )
        stored = load_stored(picture, path)
        if colors:
            return decode(picture, path, lambda band: np.asarray(_opaque(band, path, remedy).convert("RGB")))
        return decode(picture, path, lambda band: stored(_gray_values(band, path, remedy)))


def _opaque(band: Image, path: PathLike, remedy: str) -> Image:
    """A part of a picture, if it has no transparent pixels."""
    if band.mode == "La":  # multiplied by alpha
        band = band.convert("LA")
    if band.mode in ("RGBA", "LA", "PA") or "transparency" in band.info:
        band = band.convert("RGBA")
        if band.getextrema()[3][0] < 255:
            raise WavedilError(f"{path} has transparent pixels: {remedy}")
    return band


def _gray_values(band: Image, path: PathLike, remedy: str) -> np.ndarray:
    """Gray values or palette indices ``(height, width)`` of a part of a mask, as Pillow decodes them."""
    if band.mode in ("LA", "La", "PA"):
        _opaque(band, path, remedy)
        return np.asarray(band)[..., 0]
    if band.mode in ("RGB", "RGBA"):
        mask = np.asarray(_opaque(band, path, remedy).convert("RGB"))
        unequal = (mask != mask[..., :1]).any(-1)
        if unequal.any():
            red, green, blue = mask[unequal][0].tolist()
            raise WavedilError(
                f"{path} is in color (e.g. [{red}, {green}, {blue}]): expected gray values; set mask_values"
            )
        return mask[..., 0]
    # The transparency of a palette does not change its indices.
    values = np.asarray(band)
    return values.astype(np.uint8 if values.dtype == bool else values.dtype.newbyteorder("="))


@checked
def read_target(path: AnyPath, step: float) -> np.ndarray:
    """Reads target values ``(height, width)``, float32; unknown values (0, NaN or infinite in the file) are NaN.

    Args:
        path: an image with gray levels of 8 or 16 bits, or a .npy file with the values.
        step: value of one gray level; not used for .npy.

    Raises:
        WavedilError: naming the file, as :func:`read_mask`, or for a .npy file without numbers (height, width).
    """
    if Path(path).suffix == ".npy":
        with _open_npy(path) as array, np.errstate(over="ignore", invalid="ignore"):
            values = array.read().astype(np.float32)
        values[~np.isfinite(values)] = np.nan
    else:
        values = read_mask(path, colors=False).astype(np.float32) * np.float32(step)
    values[values == 0] = np.nan
    return values


def write_values(path: PathLike, values: np.ndarray, step: float) -> None:
    """Writes values ``(height, width)`` to a .npy file, or to a gray image of 16 bits in units of ``step``.

    In the image NaN becomes 0, and other values are clipped to 1 to 65535 steps.
    """
    from PIL import Image

    with atomic_write(path) as beside:
        if Path(path).suffix == ".npy":
            with open(beside, "wb") as file:
                np.save(file, values)
        else:
            levels = np.rint(values / step).clip(1, 65535)
            Image.fromarray(np.nan_to_num(levels, nan=0.0).astype(np.uint16)).save(beside)


def write_labels(path: PathLike, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Writes a label map ``(height, width)`` uint8 as a palette PNG: indices are labels, colors are the palette."""
    from PIL import Image

    picture = Image.fromarray(labels)
    # All 256 entries: with fewer colors Pillow stores fewer bits per pixel, which changes larger labels.
    picture.putpalette([part for color in palette for part in color] + [0, 0, 0] * (256 - len(palette)))
    with atomic_write(path) as beside:
        picture.save(beside)


def write_image(path: PathLike, image: np.ndarray) -> None:
    """Writes an image ``(height, width, 3)`` uint8 in the format of the suffix."""
    from PIL import Image

    with atomic_write(path) as beside:
        Image.fromarray(image).save(beside)


def list_images(folder: PathLike, also: Sequence[str] = ()) -> list[Path]:
    """Image files in a folder and its subfolders, sorted by their path within it.

    Links and hidden files are treated as :func:`wavedil.files.walk_files` describes.

    Args:
        also: further suffixes to include.

    Raises:
        WavedilError: the folder does not exist, cannot be listed or has no images.
    """
    folder = Path(folder)
    if not is_folder(folder):
        raise WavedilError(f"{folder} is not a folder: expected a folder of images")
    found = walk_files(folder, (*SUFFIXES, *also))
    if not found:
        raise WavedilError(f"{folder} has no images ({', '.join(SUFFIXES)})")
    return found


def image_size(path: PathLike) -> tuple[int, int]:
    """(height, width) as the picture is displayed, from the header of the file."""
    if Path(path).suffix == ".npy":
        with _open_npy(path) as array:
            return array.shape
    with open_picture(path) as picture:
        return displayed_size(picture, path)


@contextmanager
def _open_npy(path: PathLike) -> Iterator[ArrayFile]:
    with open_array(path, "a mask or target", ("height", "width")) as array:
        check_size(path, array.shape)
        yield array
