"""Class colors, and color images of label maps."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError

Byte = Annotated[int, Range(0, 255)]
Color = tuple[Byte, Byte, Byte]


def default_palette(count: int) -> tuple[Color, ...]:
    """Colors of Pascal VOC: the bits of a label are distributed over red, green and blue, the lowest bits first."""

    def channel(label: int, first: int) -> int:
        return sum(((label >> (3 * bit + first)) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(label, 0), channel(label, 1), channel(label, 2)) for label in range(count))


def overlay_masks(image: np.ndarray, masks: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Blends the color of each class over its mask, one class after the other.

    Args:
        image: uint8 ``(height, width, 3)``.
        masks: bool ``(num_classes, height, width)``.
        palette: red, green and blue of each class.
    """
    for mask, color in zip(masks, palette, strict=True):
        image = overlay(image, np.where(mask, 0, 255), [color], 0.4)
    return image


def colorize(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Color image ``(height, width, 3)`` uint8 of a label map ``(height, width)``; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels]


@checked
def overlay(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Color], opacity: Annotated[float, Range(0, 1)] = 0.55
) -> np.ndarray:
    """Blends class colors over an image; ignored pixels are unchanged.

    Args:
        image: uint8 ``(height, width, 3)``.
        labels: classes ``(height, width)``, 255 where a pixel is ignored.
        palette: red, green and blue of each class, 0 to 255.
        opacity: of the colors, 0 to 1.

    Returns:
        uint8 ``(height, width, 3)``.

    Raises:
        WavedilError: another type or shape of image, or labels that are not integers from 0 to 255 of the same size.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise WavedilError(f"image is {image.dtype} of shape {image.shape}: expected uint8 (height, width, 3)")
    if labels.dtype.kind not in "iu" or labels.shape != image.shape[:2]:
        raise WavedilError(f"labels are {labels.dtype} of shape {labels.shape}: expected integers {image.shape[:2]}")
    if labels.size and not 0 <= labels.min() <= labels.max() <= 255:
        raise WavedilError(f"labels span {labels.min()}..{labels.max()}: expected 0..255")
    if not 1 <= len(palette) <= 256:
        raise WavedilError(f"palette has {len(palette)} colors: expected 1 to 256")
    out = image.copy()
    for row, classes in enumerate(labels):  # by rows to bound memory
        known = classes < len(palette)
        mixed = image[row][known] * (1 - opacity) + colorize(classes[known], palette) * opacity
        out[row][known] = np.rint(mixed)
    return out
