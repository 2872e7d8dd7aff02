"""Values and sizes of decoded images and masks. Pillow and torch are imported inside the functions that use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def full_scale(image: np.ndarray | Tensor) -> int:
    """The largest value of an image's type: 255 or 65535; networks get values divided by it."""
    return 65535 if image.dtype.itemsize == 2 else 255


def scaled_pixels(image: np.ndarray) -> Tensor:
    """Float32 ``(channels, height, width)`` in [0, 1] of an image ``(height, width, channels)``."""
    import torch

    return torch.from_numpy(image).permute(2, 0, 1).to(torch.float32) / full_scale(image)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """An image to show, ``(height, width, 3)`` uint8, of one with 1, 3 or 4 bands.

    A fourth band is left out. Values of 16 bits are scaled: black is the smallest, white the largest of the image.
    """
    image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    if image.dtype == np.uint8:
        return image
    low, high = int(image.min()), int(image.max())
    return ((image.astype(np.float32) - low) * (255 / max(1, high - low))).round().astype(np.uint8)


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) times ``scale``, rounded, at least 1."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image ``(height, width, channels)`` to (height, width): bilinear, with antialiasing if smaller."""
    from PIL import Image

    def resized(pixels: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))

    if image.shape[:2] == size:
        return image
    if image.shape[2] == 3:
        return resized(image)
    bands = np.moveaxis(image, 2, 0)  # by bands: Pillow multiplies the first three of four by the fourth
    if image.dtype == np.uint8:
        return np.stack([resized(np.ascontiguousarray(band)) for band in bands], 2)
    return np.stack([np.rint(resized(band.astype(np.float32))) for band in bands], 2).astype(image.dtype)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a mask to (height, width): each pixel takes the value at its center (nearest neighbor)."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=False)
    )
    return mask if mask.shape[:2] == size else mask[rows[:, None], columns]
