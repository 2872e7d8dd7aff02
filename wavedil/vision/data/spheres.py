"""Built-in images with depth: spheres above a floor, lit from the upper left."""

import os
from pathlib import Path

import numpy as np

from wavedil.vision.data.built_in import check_numbers, items
from wavedil.vision.data.images import write_image, write_values
from wavedil.writing import check_replaceable

STEP = 0.001  # meters per gray level
UNKNOWN = 0.16  # side of the square without depth values, as a fraction of the image's side


def draw(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws an image ``(size, size, 3)`` uint8 and its depth in meters, ``(size, size)`` float32, NaN if unknown."""
    rows, columns = np.mgrid[:size, :size] / size
    near, far = generator.uniform(2, 3), generator.uniform(5, 8)
    depth = far + (near - far) * rows
    light = 1.15 - depth / 10  # darker with distance
    image = (light * 150)[..., None] * generator.uniform(0.8, 1.2, 3)
    for center in sorted(generator.uniform(0.1, 0.9, (4, 2)), key=lambda p: p[0]):  # from far to near
        radius = generator.uniform(0.06, 0.14)
        x, y = (columns - center[1]) / radius, (rows - center[0]) / radius
        height = np.sqrt(np.maximum(0, 1 - x**2 - y**2))
        inside = height > 0
        shade = np.maximum(0.1, (height - 0.6 * x - 0.6 * y) / 1.36)
        floor = far + (near - far) * center[0]
        depth = np.where(inside, floor - 4 * radius * height, depth)
        color = generator.uniform(120, 230, 3)
        image[inside] = ((0.3 + 0.7 * shade) * (1.15 - floor / 10))[..., None][inside] * color
    image += generator.normal(0, 4, image.shape)
    side = max(1, round(size * UNKNOWN))
    top, left = generator.integers(0, size - side, 2)
    depth[top : top + side, left : left + side] = np.nan
    return image.clip(0, 255).astype(np.uint8), depth.astype(np.float32)


def make_spheres(
    folder: str | os.PathLike[str], train: int = 300, val: int = 30, size: int = 96, seed: int = 0
) -> Path:
    """Writes PNG files to ``train/images``, ``train/targets``, ``val/images`` and ``val/targets``; returns the folder.

    Targets are gray images of 16 bits with the depth in millimeters.

    Args:
        train, val: numbers of images.
        size: side of the images in pixels, at least 16.
        seed: image i of a set depends only on the seed and i.

    Raises:
        WavedilError: numbers out of range, or the folder has links or files of other names.
    """
    check_numbers(train, val, size, 16)
    folder = Path(folder)
    subfolders = ("train", "val", "train/images", "train/targets", "val/images", "val/targets")
    check_replaceable(folder, r"(train|val)/(images|targets)/\d{4,}\.png", subfolders=subfolders)
    for part, name, generator in items(folder, train, val, seed):
        image, depth = draw(size, generator)
        write_image(part / "images" / f"{name}.png", image)
        write_values(part / "targets" / f"{name}.png", depth, STEP)
    return folder
