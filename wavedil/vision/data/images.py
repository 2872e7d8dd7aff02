"""Reading and writing of images, masks and targets. Pillow is imported inside the functions that use it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import atomic_write, check_regular_file, walk_files

if TYPE_CHECKING:
    from PIL.Image import Image

_TILES = "wavedil tiles"  # key in Pillow's ``info`` for a copy of ``tile``, the pixel format of the file
SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
#: All that Pillow may open. For some others it starts a program, e.g. Ghostscript, whatever the file's suffix is.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
PathLike = str | os.PathLike[str]


def read_image(path: PathLike) -> np.ndarray:
    """Reads an image as RGB, ``(height, width, 3)`` uint8, with its EXIF orientation applied.

    Gray, palette and CMYK images are converted to RGB. An alpha channel without transparent pixels is dropped.

    Raises:
        WavedilError: naming the file, if it cannot be read, has transparent pixels, more than 8 bits per channel or
            more than one image.
    """
    from PIL import ImageOps

    with _open(path) as picture:
        if picture.mode[0] in "IF" or _has_deep_colors(picture):
            raise WavedilError(
                f"{path} has more than 8 bits per channel: convert it to 8 bits, scaled to the range of its values"
            )
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            if picture.getextrema()[3][0] < 255:
                raise WavedilError(f"{path} has transparent pixels: blend it with a background first")
        return np.array(picture.convert("RGB"))


def read_mask(path: PathLike, colors: bool) -> np.ndarray:
    """Reads a mask: ``(height, width)`` gray values or palette indices, or ``(height, width, 3)`` colors.

    Values are those stored in the file: gray values of fewer than 8 bits and those of PBM, PGM and PPM files with
    another maximum than 255 are not scaled.

    Args:
        colors: return colors. Otherwise a color image is accepted only if its three channels are equal.

    Raises:
        WavedilError: naming the file, if it cannot be read, has lossy compression, transparent pixels, or colors where
            gray values are expected.
    """
    with _open(path, load=False) as picture:
        if picture.format in ("JPEG", "MPO") or _is_lossy(picture, path):
            kind = "has lossy compression" if picture.format in ("TIFF", "WEBP") else "is a JPEG"
            raise WavedilError(f"{path} {kind}: expected lossless compression for masks, e.g. PNG")
        if (colors and picture.mode[0] in "IF") or _has_deep_colors(picture):
            raise WavedilError(f"{path} has more than 8 bits per channel: expected 8, as in mask_values")
        picture = _load_stored(picture, path)
        if picture.mode in ("RGBA", "LA", "PA") and picture.getextrema()[-1][0] < 255:
            raise WavedilError(f"{path} has transparent pixels: mark ignored pixels with the ignore_label instead")
        if colors:
            return np.array(picture.convert("RGB"))
        if picture.mode in ("RGB", "RGBA"):
            mask = np.array(picture.convert("RGB"))
            if (mask == mask[..., :1]).all():
                return mask[..., 0]
            red, green, blue = mask[np.nonzero((mask != mask[..., :1]).any(-1))][0].tolist()
            raise WavedilError(
                f"{path} is in color (e.g. [{red}, {green}, {blue}]): expected gray values; set mask_values"
            )
        if picture.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
            raise WavedilError(f"{path} has Pillow mode {picture.mode}: expected a gray, palette or RGB image")
        return np.array(picture)


def read_target(path: PathLike, step: float) -> np.ndarray:
    """Reads target values ``(height, width)``, float32; unknown values (0, NaN or infinite in the file) are NaN.

    Args:
        path: an image with gray levels of 8 or 16 bits, or a .npy file with the values.
        step: value of one gray level; not used for .npy.

    Raises:
        WavedilError: naming the file, as :func:`read_mask`, or for a .npy file without numbers (height, width).
    """
    if Path(path).suffix == ".npy":
        values = np.array(_open_npy(path), np.float32)
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
    if not folder.is_dir():
        raise WavedilError(f"{folder} is not a folder: expected a folder of images")
    found = walk_files(folder, (*SUFFIXES, *also))
    if not found:
        raise WavedilError(f"{folder} has no images ({', '.join(SUFFIXES)})")
    return found


def image_size(path: PathLike) -> tuple[int, int]:
    """(height, width) from the header of the file, with the EXIF orientation applied."""
    if Path(path).suffix == ".npy":
        return _open_npy(path).shape
    with _open(path, load=False) as picture:
        turned = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientations with a rotation by 90 degrees
        return picture.size if turned else picture.size[::-1]


def _open_npy(path: PathLike) -> np.ndarray:
    check_regular_file(path, "target values")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WavedilError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, np.ndarray):
        raise WavedilError(f"{path} has several arrays: expected one, of numbers (height, width)")
    if values.ndim != 2 or values.dtype.kind not in "fiu" or 0 in values.shape:
        raise WavedilError(f"{path} has {values.dtype} of shape {values.shape}: expected numbers (height, width)")
    return values


@contextmanager
def _open(path: PathLike, load: bool = True) -> Iterator[Image]:
    from PIL import Image, UnidentifiedImageError

    check_regular_file(path, "an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large images are processed in tiles
            with Image.open(path, formats=FORMATS) as picture:
                # MPO: a JPEG from a phone, followed by more views of the same scene.
                if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
                    raise WavedilError(f"{path} has {picture.n_frames} images: expected one; split the file")
                picture.info[_TILES] = picture.tile  # loading clears it
                if load:
                    picture.load()
                yield picture
    except FileNotFoundError:
        raise WavedilError(f"{path} does not exist: expected an image") from None
    except UnidentifiedImageError:
        raise WavedilError(f"{path} is not an image: expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise WavedilError(f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels by its header") from None
    except WavedilError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # Pillow raises these for broken files
        raise WavedilError(f"{path} cannot be read: {error}") from None


def _arguments(picture: Image) -> tuple:
    """The arguments of Pillow's decoder: first the pixel format in the file, e.g. ``"L;2"`` for gray of 2 bits."""
    for *_, arguments in picture.info.get(_TILES, ()):
        return arguments if isinstance(arguments, tuple) else (arguments,)
    return ("",)


def _has_deep_colors(picture: Image) -> bool:
    """Whether the file has colors of more than 8 bits; Pillow reads only their upper 8 bits."""
    raw, *rest = _arguments(picture)
    if picture.format == "PPM" and picture.mode == "RGB":
        return rest[:1] > [255]
    return ";16" in str(raw) and picture.mode[0] != "I"


def _is_lossy(picture: Image, path: PathLike) -> bool:
    """Whether a WebP or TIFF file has lossy compression."""
    if picture.format == "WEBP":
        with open(path, "rb") as file:
            file.seek(12)
            while chunk := file.read(8):
                if chunk[:4] == b"VP8 ":
                    return True
                size = int.from_bytes(chunk[4:], "little")
                file.seek(size + size % 2, os.SEEK_CUR)
    return picture.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")


def _load_stored(picture: Image, path: PathLike) -> Image:
    """Loads a mask without the scaling of its values to 8 or 16 bits, which Pillow does for some formats."""
    from PIL import ImageChops

    raw, *rest = _arguments(picture)
    if picture.format == "PPM" and picture.mode in ("L", "I", "RGB") and rest:
        # Tell the decoder that values are up to the maximum of their type, so it does not change them.
        full = 65535 if picture.mode == "I" else 255
        picture.tile = [(*tile[:3], (raw, full)) for tile in picture.tile]
        maximum = np.max(picture)  # loads the picture
        if maximum > rest[0]:
            raise WavedilError(f"{path} cannot be read: it has the value {maximum}, but its maximum is {rest[0]}")
    elif picture.format == "PPM" and picture.mode == "1":
        picture = ImageChops.invert(picture)  # in a PBM file 1 is black
    elif picture.mode == "L" and raw[:3] in ("L;2", "L;4"):
        step = 85 if raw[2] == "2" else 17
        picture = picture.point([value // step for value in range(256)])
    return picture


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) times ``scale``, rounded, at least 1."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image ``(height, width, 3)`` uint8 to (height, width): bilinear, with antialiasing if smaller."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a mask to (height, width): each pixel takes the value at its center (nearest neighbor)."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=False)
    )
    return mask if mask.shape[:2] == size else mask[rows[:, None], columns]
