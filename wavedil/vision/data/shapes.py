"""Built-in segmentation images: gray discs whose class depends on a distant mark, and squares with fine stripes.

All discs are gray. Their class depends on the color of the only mark in the image, which is outside the receptive field
of a network without context. Stripes are two pixels wide, so a network that skips pixels cannot detect their
direction. The images therefore need both a large receptive field and one without gridding.
"""

import json
import os
from pathlib import Path

import numpy as np

from wavedil.vision.data.built_in import check_numbers, items
from wavedil.vision.data.images import write_image, write_labels
from wavedil.writing import atomic_write, check_replaceable

CLASSES = (
    "background",
    "red mark",
    "blue mark",
    "disc by red",
    "disc by blue",
    "horizontal stripes",
    "vertical stripes",
)
PALETTE = (
    (40, 40, 40), (255, 120, 120), (120, 150, 255), (220, 40, 40), (40, 70, 220), (240, 200, 60), (80, 190, 110)
)  # fmt: skip
MIN_DISTANCE = 24  # pixels from the mark to the edge of a disc
_VERSION = 1  # changes with the images, so that folders of another version are written again


def draw(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws an image ``(size, size, 3)`` uint8 and its labels ``(size, size)`` uint8."""
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint8)
    image = np.empty((size, size, 3))
    slope = generator.uniform(-40, 40, size=(2, 3)) / size
    image[:] = generator.uniform(70, 150, 3) + rows[..., None] * slope[0] + columns[..., None] * slope[1]
    color = int(generator.integers(2))
    side = size // 8
    corner = generator.integers(0, size - side, 2)
    if generator.integers(2):  # at an edge of the image, which leaves more space far from the mark
        corner[generator.integers(2)] = generator.choice([0, size - side])
    mark = (slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side))
    image[mark], labels[mark] = ((200, 60, 60), (60, 80, 210))[color], 1 + color
    mark_center = corner + side / 2
    for _ in range(40):  # attempts; shapes that do not fit are skipped
        radius = size * generator.uniform(0.06, 0.11)
        center = generator.uniform(radius, size - radius, 2)
        kind = int(generator.integers(2))
        distance = np.abs(center - mark_center).max() - radius - side / 2
        if distance < (MIN_DISTANCE if kind == 0 else 2):
            continue
        x, y = columns - center[1], rows - center[0]
        inside = np.hypot(y, x) <= radius if kind == 0 else np.maximum(abs(y), abs(x)) <= radius
        neighborhood = np.maximum(abs(y), abs(x)) <= radius + 3
        if labels[neighborhood].any():
            continue
        if kind == 0:
            image[inside], labels[inside] = generator.uniform(170, 200), 3 + color
        else:
            vertical = int(generator.integers(2))
            stripes = ((columns if vertical else rows) // 2 % 2).astype(float)[inside]
            image[inside], labels[inside] = (90 + 110 * stripes)[:, None], 5 + vertical
    image += generator.normal(0, 6, image.shape)
    return image.clip(0, 255).astype(np.uint8), labels


def make_shapes(folder: str | os.PathLike[str], train: int = 400, val: int = 40, size: int = 96, seed: int = 0) -> Path:
    """Writes PNG files to ``train/images``, ``train/masks``, ``val/images`` and ``val/masks``; returns the folder.

    The same arguments give the same images on every machine. A folder that is complete and was written with the same
    arguments is not written again.

    Args:
        train, val: numbers of images.
        size: side of the images in pixels; at least 80, so that discs fit far from the mark.
        seed: image i of a set depends only on the seed and i.

    Raises:
        WavedilError: numbers out of range, or the folder has links or files of other names.
    """
    check_numbers(train, val, size, 80)
    folder = Path(folder)
    subfolders = ("train", "val", "train/images", "train/masks", "val/images", "val/masks")
    check_replaceable(folder, r"(train|val)/(images|masks)/\d{4,}\.png", "shapes.json", subfolders)
    settings = {"version": _VERSION, "train": train, "val": val, "size": size, "seed": seed}
    index = folder / "shapes.json"
    names = [f"{part}/{kind}/{i:04d}.png" for part, count in (("train", train), ("val", val)) for i in range(count)
             for kind in ("images", "masks")]  # fmt: skip
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        found = None
    if found == settings and all((folder / name).is_file() for name in names):
        return folder
    # Removed first and written last, so the index exists only in complete folders.
    index.unlink(missing_ok=True)
    for part, name, generator in items(folder, train, val, seed):
        image, labels = draw(size, generator)
        write_image(part / "images" / f"{name}.png", image)
        write_labels(part / "masks" / f"{name}.png", labels, PALETTE)
    with atomic_write(index) as beside:
        beside.write_text(json.dumps({"settings": settings, "classes": CLASSES}))
    return folder
