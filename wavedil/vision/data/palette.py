"""Colors of classes, and images of label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Color = tuple[int, int, int]


def default_palette(count: int) -> tuple[Color, ...]:
    """The colors of Pascal VOC's label maps: the bits of a label spread over red, green and blue, the lowest first."""

    def channel(label: int, first: int) -> int:
        return sum(((label >> (3 * bit + first)) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(label, 0), channel(label, 1), channel(label, 2)) for label in range(count))


def color(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Label map ``(height, width)`` to ``(height, width, 3)`` uint8; labels beyond the palette (ignored) are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]], opacity: float = 0.55
) -> np.ndarray:
    """``image`` ``(height, width, 3)`` uint8 with the colors of ``labels`` laid over it; ignored pixels stay."""
    mixed = image * (1 - opacity) + color(labels, palette) * opacity
    return np.where((labels < len(palette))[..., None], np.rint(mixed), image).astype(np.uint8)
