"""Built-in images with distances: spheres over a floor that leads away, shaded by a light from above on the left."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from wavedil.errors import WavedilError
from wavedil.vision.data.images import write_image, write_values

STEP = 0.001  # metres
UNKNOWN = 0.16  # side of a square that no sensor has seen, as a share of the image's


def draw(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image ``(size, size, 3)`` uint8 and its distances in metres, ``(size, size)`` float32, NaN where unknown."""
    rows, columns = np.mgrid[:size, :size] / size
    near, far = generator.uniform(2, 3), generator.uniform(5, 8)
    distance = far + (near - far) * rows
    light = 1.15 - distance / 10  # what is far is dark
    image = (light * 150)[..., None] * generator.uniform(0.8, 1.2, 3)
    for place in sorted(generator.uniform(0.1, 0.9, (4, 2)), key=lambda p: p[0]):  # the nearest last, in front
        radius = generator.uniform(0.06, 0.14)
        x, y = (columns - place[1]) / radius, (rows - place[0]) / radius
        height = np.sqrt(np.maximum(0, 1 - x**2 - y**2))
        inside = height > 0
        shade = np.maximum(0.1, (height - 0.6 * x - 0.6 * y) / 1.36)
        at = far + (near - far) * place[0]
        distance = np.where(inside, at - 4 * radius * height, distance)
        color = generator.uniform(120, 230, 3)
        image[inside] = ((0.3 + 0.7 * shade) * (1.15 - at / 10))[..., None][inside] * color
    image += generator.normal(0, 4, image.shape)
    side = max(1, round(size * UNKNOWN))
    top, left = generator.integers(0, size - side, 2)
    distance[top : top + side, left : left + side] = np.nan
    return image.clip(0, 255).astype(np.uint8), distance.astype(np.float32)


def make_spheres(
    folder: str | os.PathLike[str], train: int = 300, val: int = 30, size: int = 96, seed: int = 0
) -> Path:
    """Writes ``train/images``, ``train/targets``, ``val/images`` and ``val/targets``; returns the folder.

    Targets are gray images of 16 bits in millimetres. Image i of a part depends on ``seed`` and i alone.

    Raises:
        WavedilError: numbers out of range.
    """
    if min(train, val) < 1 or size < 16:
        raise WavedilError(
            f"make_spheres: train={train}, val={val}, size={size}: expected at least one image of each, of 16 pixels "
            "or more"
        )
    folder = Path(folder)
    for number, (part, count) in enumerate((("train", train), ("val", val))):
        for i in range(count):
            image, distance = draw(size, np.random.default_rng([seed, number, i]))
            write_image(folder / part / "images" / f"{i:04d}.png", image)
            write_values(folder / part / "targets" / f"{i:04d}.png", distance, STEP)
    return folder
