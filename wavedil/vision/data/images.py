"""Images and masks in files: what is read, and what is refused. Pillow is imported where it is used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import written_beside

if TYPE_CHECKING:
    from PIL.Image import Image

_TILES = "wavedil tiles"  # in Pillow's info on a picture: how the file holds its pixels
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
PathLike = str | os.PathLike[str]


def read_image(path: PathLike) -> np.ndarray:
    """An image as ``(height, width, 3)`` uint8, upright (its EXIF orientation applied).

    Gray, palette and CMYK images become red, green and blue. An alpha channel that hides nothing is dropped.

    Raises:
        WavedilError: naming the file, for one that cannot be read, has transparent pixels, more than 8 bits a channel
            or more than one image.
    """
    from PIL import ImageOps

    with _opened(path) as picture:
        if picture.mode[0] in "IF" or _deep(picture):
            raise WavedilError(
                f"{path} has more than 8 bits a channel: convert it to 8 bits, with the range of values that matters"
            )
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            if picture.getextrema()[3][0] < 255:
                raise WavedilError(f"{path} has transparent pixels: lay it over the background that is meant first")
        return np.array(picture.convert("RGB"))


def read_mask(path: PathLike, colors: bool) -> np.ndarray:
    """A mask as it is stored: ``(height, width)`` gray values or palette indices, or ``(height, width, 3)`` colors.

    Where gray values are asked for, a color image whose three channels are equal will do.

    Raises:
        WavedilError: naming the file, for one that cannot be read, is compressed with loss, or is in color where
            gray values were expected.
    """
    with _opened(path) as picture:
        if picture.format in ("JPEG", "MPO"):
            raise WavedilError(f"{path} is a JPEG, which changes labels: masks are expected as PNG or the like")
        if picture.mode in ("RGBA", "LA", "PA") and picture.getextrema()[-1][0] < 255:
            raise WavedilError(f"{path} has transparent pixels: give those that count nowhere the ignore_label instead")
        if colors and (picture.mode[0] in "IF" or _deep(picture)):
            raise WavedilError(f"{path} has more than 8 bits a channel: mask_values are colors of 8 bits")
        if colors:
            return np.array(picture.convert("RGB"))
        if picture.mode in ("RGB", "RGBA"):
            mask = np.array(picture.convert("RGB"))
            if (mask == mask[..., :1]).all():
                return mask[..., 0]
            red, green, blue = mask[np.nonzero((mask != mask[..., :1]).any(-1))][0].tolist()
            raise WavedilError(
                f"{path} is in color (e.g. [{red}, {green}, {blue}]): say which color is which class, with mask_values"
            )
        if picture.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
            raise WavedilError(f"{path} has Pillow's mode {picture.mode}: expected a gray, palette or RGB image")
        return np.array(picture)


def read_target(path: PathLike, step: float) -> np.ndarray:
    """Values ``(height, width)`` float32: gray levels of 8 or 16 bits times ``step``, or a .npy as it is. 0 is NaN.

    Raises:
        WavedilError: naming the file, as :func:`read_mask`, or for a .npy that does not hold (height, width) numbers.
    """
    if Path(path).suffix == ".npy":
        found = _opened_npy(path)
        values = np.array(found, np.float32)
        values[~np.isfinite(values)] = np.nan
    else:
        values = read_mask(path, colors=False).astype(np.float32) * np.float32(step)
    values[values == 0] = np.nan
    return values


def write_values(path: PathLike, values: np.ndarray, step: float) -> None:
    """Values ``(height, width)``: to a .npy as they are, else to a gray image of 16 bits, in steps, 0 where NaN.

    A gray image holds 1 to 65535 steps: values beyond are cut off there.
    """
    from PIL import Image

    with written_beside(path) as beside:
        if Path(path).suffix == ".npy":
            with open(beside, "wb") as file:
                np.save(file, values)
        else:
            levels = np.rint(values / step).clip(1, 65535)
            Image.fromarray(np.nan_to_num(levels, nan=0.0).astype(np.uint16)).save(beside)


def write_labels(path: PathLike, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Label map ``(height, width)`` uint8 as a palette PNG: its indices are the labels, its colors the palette."""
    from PIL import Image

    picture = Image.fromarray(labels)
    # In full: with fewer colors Pillow stores fewer bits, and labels beyond them as others.
    picture.putpalette([part for color in palette for part in color] + [0, 0, 0] * (256 - len(palette)))
    with written_beside(path) as beside:
        picture.save(beside)


def write_image(path: PathLike, image: np.ndarray) -> None:
    """``(height, width, 3)`` uint8 to a file of the kind that its suffix says."""
    from PIL import Image

    with written_beside(path) as beside:
        Image.fromarray(image).save(beside)


def list_images(folder: PathLike, also: Sequence[str] = ()) -> list[Path]:
    """The images in a folder and its subfolders, sorted; hidden ones are left out.

    Args:
        also: further suffixes that count.

    Raises:
        WavedilError: no such folder, or no images in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise WavedilError(f"{folder} is no folder: expected one of images")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in (*SUFFIXES, *also)
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise WavedilError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    return sorted(found, key=Path.as_posix)


def image_size(path: PathLike) -> tuple[int, int]:
    """(height, width) by the file's header, upright."""
    if Path(path).suffix == ".npy":
        return _opened_npy(path).shape
    with _opened(path, load=False) as picture:
        turned = picture.getexif().get(0x0112, 1) >= 5  # the EXIF orientations that lie on their side
        return picture.size if turned else picture.size[::-1]


def _opened_npy(path: PathLike) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WavedilError(f"{path} cannot be read: {error}") from None
    if found.ndim != 2 or found.dtype.kind not in "fiu" or 0 in found.shape:
        raise WavedilError(f"{path} holds {found.dtype} of shape {found.shape}: expected numbers of (height, width)")
    return found


@contextmanager
def _opened(path: PathLike, load: bool = True) -> Iterator[Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large images are what tiles are for
            with Image.open(path) as picture:
                # MPO: a phone's JPEG with further views of the same scene behind it.
                if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
                    raise WavedilError(f"{path} holds {picture.n_frames} images: expected one, split it first")
                picture.info[_TILES] = picture.tile  # which loading empties
                if load:
                    picture.load()
                yield picture
    except FileNotFoundError:
        raise WavedilError(f"{path} does not exist: expected an image") from None
    except UnidentifiedImageError:
        raise WavedilError(f"{path} is no image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise WavedilError(f"{path} claims more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels: cut it up first") from None
    except WavedilError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow makes of broken files
        raise WavedilError(f"{path} cannot be read: {error}") from None


def _deep(picture: Image) -> bool:
    """Whether there are colors of 16 bits in the file, of which Pillow reads the upper half."""
    return any(";16" in str(arguments) for *_, arguments in picture.info.get(_TILES, ()))


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``(height, width, 3)`` uint8 to another (height, width), bilinear, averaged where it becomes smaller."""
    from PIL import Image

    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another (height, width): of each pixel, the value at its middle."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=False)
    )
    return mask if mask.shape[:2] == size else mask[rows[:, None], columns]
