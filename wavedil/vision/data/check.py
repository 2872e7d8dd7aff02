"""Checks images with masks or targets before training: broken files, missing partners, sizes, values, duplicates."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wavedil.data_check import BROKEN, DataCheck
from wavedil.errors import WavedilError, count_text
from wavedil.vision.data.check_truth import ClassMasks, MaskValues, Truth
from wavedil.vision.data.formats import ImageFormat
from wavedil.vision.data.images import read_image
from wavedil.vision.data.pairs import FolderLayout, find_sets

Progress = Callable[[int, int], None]


def check_images(
    root: str | Path,
    layout: FolderLayout | None = None,
    *,
    truth: Truth | None = None,
    format: ImageFormat | None = None,
    channels: int | None = None,
    validation: str | None = None,
    exclude: str | None = None,
    progress: Progress | None = None,
) -> DataCheck:
    """Decodes every image and mask of a data set.

    Findings are ``broken`` (cannot be decoded), ``unpaired`` (an image without mask or a mask without image), ``size``
    (a mask of another size than its image), ``constant`` (an image or mask with a single value), ``duplicate`` (the
    pixels of an earlier image), ``shared`` (the pixels of an image in the other set), ``unknown`` (values in a mask
    that are no classes), and ``unlabeled`` (no pixel has a class or a target).

    Args:
        root: a folder with images and masks, or with ``train`` and ``val`` that have them, or of another format.
        layout: names of the folders.
        truth: what the masks are; by default, masks of unknown classes, or those of ``format``.
        format: a published format, which has its own folders and classes.
        channels: bands of the images; None for RGB, or the bands of the files.
        validation, exclude: see :class:`wavedil.train.SegmentationData`.
        progress: called with the numbers of finished and of all images.

    Raises:
        WavedilError: a folder or list is missing or empty, or the format has other files.
    """
    root, layout, check = Path(root), layout or FolderLayout(), DataCheck(str(root))
    if format is None:
        truth = truth or MaskValues()
        sets = find_sets(root, lambda part: truth.find(check, part, layout, exclude), validation)
    else:
        truth = ClassMasks(format.label_scheme(root))
        sets = format.sets(root, validation, exclude)
        pairs = [pair for pairs in sets.values() for pair in pairs]
        check.count = len({pair.image for pair in pairs}) + len({pair.mask for pair in pairs})
    total, done, sizes, seen = count_pairs(check, sets), 0, Counter(), Duplicates()
    for name, pairs in sets.items():
        masks = Counter(pair.mask for pair in pairs)
        for pair in pairs:
            image = check.attempt(pair.image, BROKEN, _read_image, pair.image, channels)
            if image is not None:
                sizes[f"{image.shape[1]} x {image.shape[0]}"] += 1
                if (image == image[:1, :1]).all():
                    check.add(pair.image, "constant", "all pixels are equal")
                seen.add(check, pair.image, image, name)
            # The file of several masks is not at fault.
            path = pair.mask if masks[pair.mask] == 1 else pair.image
            for mask_path, size in truth.read(check, pair, path, name):
                if image is not None and image.shape[:2] != size:
                    check.add(
                        mask_path,
                        "size",
                        f"{size[1]} x {size[0]} pixels; its image has {image.shape[1]} x {image.shape[0]}",
                    )
            done += 1
            if progress is not None:
                progress(done, total)
    check.facts = {"pairs": total, "sets": {name: len(pairs) for name, pairs in sets.items()}}
    check.facts |= {"image sizes": dict(sizes.most_common(10)), **truth.facts(next(iter(sets)))}
    warn_of_empty_sets(check)
    check.distributions = truth.distributions()
    return check


def count_pairs(check: DataCheck, sets: Mapping[str, Sequence]) -> int:
    """Number of pairs in all sets; raises WavedilError if there is none."""
    total = sum(map(len, sets.values()))
    if not total:
        raise WavedilError(
            f"{check.data}: none of {count_text(check.count, 'file')} has a partner: expected an image and its masks "
            "with equal names; set the folders, or image_ending and mask_ending to the endings of the names"
        )
    return total


def warn_of_empty_sets(check: DataCheck) -> None:
    """Adds a warning about each set without files, with which training would be an error."""
    empty = [f"set {name} is empty: training needs both sets" for name, size in check.facts["sets"].items() if not size]
    if empty:
        check.facts["warnings"] = [*empty, *check.facts.get("warnings", [])]


class Duplicates:
    """Finds images, or volumes, with the values of an earlier one."""

    def __init__(self, unit: str = "pixels"):
        self.unit, self._seen = unit, {}

    def add(self, check: DataCheck, path: Path, values: np.ndarray, part: str) -> None:
        digest = hashlib.blake2b(
            f"{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).data, digest_size=16
        ).digest()
        first, other = self._seen.setdefault(digest, (path, part))
        if other != part:
            check.add(path, "shared", f"is in the set {part} and has the {self.unit} of {first} in the set {other}")
        elif first is not path:
            check.add(path, "duplicate", f"has the {self.unit} of {first}")


def _read_image(path: Path, channels: int | None) -> np.ndarray:
    """An image; with channels None as RGB, or with its bands if it is gray of 16 bits or has four of them."""
    try:
        return read_image(path, channels or 3)
    except WavedilError:
        if channels is not None:
            raise
        image = read_image(path, None)
        if image.dtype == np.uint8 and path.suffix.lower() not in (".tif", ".tiff"):  # e.g. transparent pixels
            raise
        return image
