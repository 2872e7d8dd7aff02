"""Built-in volumes: ellipsoids and rods of the same brightness, of which the ellipsoids are a class."""

import os
from pathlib import Path

import numpy as np

from wavedil.vision.data.built_in import check_numbers, items
from wavedil.vision.data.volumes import write_label_volume
from wavedil.writing import check_replaceable

CLASSES = ("background", "ellipsoid")
VOXEL_SIZE = (3.0, 1.5, 1.5)  # millimeters along depth, height and width


def draw(size: tuple[int, int, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a volume and its labels, both uint8 ``(depth, height, width)``."""
    sizes = np.array(size) * VOXEL_SIZE
    space = np.stack(
        np.meshgrid(*(np.arange(n) * step for n, step in zip(size, VOXEL_SIZE, strict=True)), indexing="ij")
    )
    values = np.full(size, generator.uniform(60, 90))
    labels = np.zeros(size, np.uint8)
    occupied = np.zeros(size, bool)
    for number in range(8):
        offset = space - generator.uniform(0.1, 0.9, 3).reshape(3, 1, 1, 1) * sizes.reshape(3, 1, 1, 1)
        if number % 2:
            radii = generator.uniform(5, 9, 3).reshape(3, 1, 1, 1)
            inside, label = np.square(offset / radii).sum(0) <= 1, 1
        else:  # a rod in any direction, longer than an ellipsoid
            direction = generator.normal(size=3)
            direction /= np.linalg.norm(direction)
            along = np.tensordot(direction, offset, 1)
            across = np.sqrt(np.maximum(0, np.square(offset).sum(0) - along**2))
            inside, label = (across <= generator.uniform(4, 6)) & (abs(along) <= 26), 0
        if not (inside & occupied).any():  # others that do not fit are skipped
            occupied |= inside
            values[inside] = generator.uniform(120, 160)
            labels[inside] = label
    values += generator.normal(0, 15, size)
    return values.clip(0, 255).astype(np.uint8), labels


def make_ellipsoids(
    folder: str | os.PathLike[str],
    train: int = 40,
    val: int = 8,
    size: tuple[int, int, int] = (20, 40, 40),
    seed: int = 0,
) -> Path:
    """Writes .nii.gz files to ``train/images``, ``train/masks``, ``val/images`` and ``val/masks``.

    Args:
        train, val: numbers of volumes.
        size: (depth, height, width) in voxels of 3 x 1.5 x 1.5 mm.
        seed: volume i of a set depends only on the seed and i.

    Raises:
        WavedilError: numbers out of range, nibabel is missing, or the folder has links or files of other names.
    """
    check_numbers(train, val, size, 8, "volume")
    folder = Path(folder)
    subfolders = ("train", "val", "train/images", "train/masks", "val/images", "val/masks")
    check_replaceable(folder, r"(train|val)/(images|masks)/\d{4,}\.nii\.gz", subfolders=subfolders)
    affine = np.diag([*VOXEL_SIZE[::-1], 1.0])
    for part, name, generator in items(folder, train, val, seed):
        for kind, values in zip(("images", "masks"), draw(size, generator), strict=True):
            write_label_volume(part / kind / f"{name}.nii.gz", values, affine)
    return folder
