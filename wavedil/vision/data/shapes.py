"""Built-in images: discs whose class is told far away from them, and squares whose class is in their fine stripes.

A disc is gray whatever its class; the class is the color of the one mark of the image, which is further from every
disc than a network without context sees. Stripes are two pixels wide, so what skips pixels cannot tell which way they
run. So each half of dense prediction is needed: far sight, and sight without holes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import written_beside
from wavedil.vision.data.images import write_image, write_labels

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
FAR = 24  # pixels at least from the mark to the rim of a disc
_VERSION = 1  # of the images; a folder written by another version is made anew


def draw(size: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image ``(size, size, 3)`` uint8 and its labels ``(size, size)`` uint8."""
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint8)
    image = np.empty((size, size, 3))
    slope = generator.uniform(-40, 40, size=(2, 3)) / size
    image[:] = generator.uniform(70, 150, 3) + rows[..., None] * slope[0] + columns[..., None] * slope[1]
    color = int(generator.integers(2))
    side = size // 8
    corner = generator.integers(0, size - side, 2)
    if generator.integers(2):  # at an edge, so that there is room far from it
        corner[generator.integers(2)] = generator.choice([0, size - side])
    mark = (slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side))
    image[mark], labels[mark] = ((200, 60, 60), (60, 80, 210))[color], 1 + color
    middle = corner + side / 2
    for _ in range(40):  # tries; what finds no room is left out
        radius = size * generator.uniform(0.06, 0.11)
        place = generator.uniform(radius, size - radius, 2)
        kind = int(generator.integers(2))
        away = np.abs(place - middle).max() - radius - side / 2
        if away < (FAR if kind == 0 else 2):
            continue
        across, along = columns - place[1], rows - place[0]
        inside = np.hypot(along, across) <= radius if kind == 0 else np.maximum(abs(along), abs(across)) <= radius
        reach = np.maximum(abs(along), abs(across)) <= radius + 3
        if labels[reach].any():
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
    """Writes ``train/images``, ``train/masks``, ``val/images`` and ``val/masks`` of PNGs; returns the folder.

    The same settings give the same images on every machine. A folder that was completed with the same settings is
    used as it is.

    Args:
        train, val: numbers of images.
        size: pixels along a side; at least 80, for discs to be far from the mark.
        seed: image i of a part depends on it and on i alone.

    Raises:
        WavedilError: numbers out of range.
    """
    if min(train, val) < 1 or size < 80:
        raise WavedilError(
            f"make_shapes: train={train}, val={val}, size={size}: expected at least one image of each, of 80 pixels "
            "or more"
        )
    folder = Path(folder)
    settings = {"version": _VERSION, "train": train, "val": val, "size": size, "seed": seed}
    index = folder / "shapes.json"
    names = [f"{part}/{kind}/{i:04d}.png" for part, count in (("train", train), ("val", val)) for i in range(count)
             for kind in ("images", "masks")]  # fmt: skip
    try:
        found = json.loads(index.read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found == settings and all((folder / name).is_file() for name in names):
        return folder
    # The index is written last and removed first, so it never vouches for half a folder.
    index.unlink(missing_ok=True)
    for number, (part, count) in enumerate((("train", train), ("val", val))):
        for i in range(count):
            image, labels = draw(size, np.random.default_rng([seed, number, i]))
            write_image(folder / part / "images" / f"{i:04d}.png", image)
            write_labels(folder / part / "masks" / f"{i:04d}.png", labels, PALETTE)
    with written_beside(index) as beside:
        beside.write_text(json.dumps({"settings": settings, "classes": CLASSES}))
    return folder
