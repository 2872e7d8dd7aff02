"""Built-in images for several classes per pixel: translucent discs, squares and triangles that overlap."""

import os
from pathlib import Path

import numpy as np

from wavedil.vision.data.built_in import check_numbers, items
from wavedil.vision.data.images import write_image, write_labels
from wavedil.writing import check_replaceable

CLASSES = ("disc", "square", "triangle")
PALETTE = ((220, 60, 50), (60, 160, 80), (60, 90, 220))
SHAPES = 6  # in an image


def draw(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws an image ``(size, size, 3)`` uint8 and the masks of its classes, bool ``(3, size, size)``.

    Color and brightness do not depend on the class, and add up where shapes overlap.
    """
    rows, columns = np.mgrid[:size, :size]
    slope = generator.uniform(-20, 20, size=(2, 3)) / size
    image = generator.uniform(30, 60, 3) + rows[..., None] * slope[0] + columns[..., None] * slope[1]
    masks = np.zeros((len(CLASSES), size, size), bool)
    for _ in range(SHAPES):
        label = int(generator.integers(len(CLASSES)))
        center, radius = generator.uniform(0.1, 0.9, 2) * size, size * generator.uniform(0.12, 0.2)
        y, x = (rows - center[0]) / radius, (columns - center[1]) / radius
        inside = (
            np.hypot(y, x) <= 1,
            np.maximum(abs(y), abs(x)) <= 0.9,
            (y <= 0.7) & (abs(x) * 1.7 <= y + 1.1),
        )[label]
        masks[label] |= inside
        image[inside] += generator.uniform(15, 60, 3)
    image += generator.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), masks


def make_overlaps(
    folder: str | os.PathLike[str], train: int = 400, val: int = 40, size: int = 96, seed: int = 0
) -> Path:
    """Writes PNG files to ``train/images``, ``train/masks/CLASS``, and the same in ``val``; returns the folder.

    Args:
        train, val: numbers of images.
        size: side of the images in pixels, at least 16.
        seed: image i of a set depends only on the seed and i.

    Raises:
        WavedilError: numbers out of range, or the folder has links or files of other names.
    """
    check_numbers(train, val, size, 16)
    folder = Path(folder)
    kinds = ("images", "masks", *(f"masks/{name}" for name in CLASSES))
    subfolders = ("train", "val", *(f"{part}/{kind}" for part in ("train", "val") for kind in kinds))
    names = rf"(train|val)/(images|masks/({'|'.join(CLASSES)}))/\d{{4,}}\.png"
    check_replaceable(folder, names, subfolders=subfolders)
    for part, name, generator in items(folder, train, val, seed):
        image, masks = draw(size, generator)
        write_image(part / "images" / f"{name}.png", image)
        for label, color, mask in zip(CLASSES, PALETTE, masks, strict=True):
            write_labels(part / "masks" / label / f"{name}.png", mask.astype(np.uint8), ((0, 0, 0), color))
    return folder
