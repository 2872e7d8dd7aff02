"""Class colors, and color images of label maps."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from wavedil.core.schema import Range

Byte = Annotated[int, Range(0, 255)]
Color = tuple[Byte, Byte, Byte]


def default_palette(count: int) -> tuple[Color, ...]:
    """Colors of Pascal VOC: the bits of a label are distributed over red, green and blue, the lowest bits first."""

    def channel(label: int, first: int) -> int:
        return sum(((label >> (3 * bit + first)) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(label, 0), channel(label, 1), channel(label, 2)) for label in range(count))


def colorize(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Color image ``(height, width, 3)`` uint8 of a label map ``(height, width)``; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]], opacity: float = 0.55
) -> np.ndarray:
    """Blends class colors over an image ``(height, width, 3)`` uint8; ignored pixels are unchanged."""
    out = image.copy()
    for row, classes in enumerate(labels):  # by rows to bound memory
        known = classes < len(palette)
        mixed = image[row][known] * (1 - opacity) + colorize(classes[known], palette) * opacity
        out[row][known] = np.rint(mixed)
    return out
