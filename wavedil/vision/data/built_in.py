"""What the built-in images and volumes share: their numbers, and the order in which they are drawn."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wavedil.errors import WavedilError


def check_numbers(train: int, val: int, size: int | tuple[int, ...], least: int, kind: str = "image") -> None:
    """Raises WavedilError if there would be no item to train or to validate on, or if a side is less than ``least``."""
    sides = (size,) if isinstance(size, int) else size
    if min(train, val) < 1 or min(sides) < least:
        raise WavedilError(
            f"train is {train}, val is {val}, size is {size}: expected at least 1 {kind} each, size at least {least}"
        )


def items(folder: Path, train: int, val: int, seed: int) -> Iterator[tuple[Path, str, np.random.Generator]]:
    """The folder, the name, and the generator of each item; item i of a set depends only on the seed and i."""
    for part_number, (part, count) in enumerate((("train", train), ("val", val))):
        for i in range(count):
            yield folder / part, f"{i:04d}", np.random.default_rng([seed, part_number, i])
