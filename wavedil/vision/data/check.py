"""Checks a folder of images and masks before training: broken files, missing partners, sizes, values, duplicates."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wavedil.data_check import BROKEN, DataCheck
from wavedil.errors import WavedilError
from wavedil.vision.data.images import read_image, read_mask
from wavedil.vision.data.pairs import FolderLayout, parts_of, stems

_VALUES = 64  # values of masks in the summary


def check_images(
    root: str | Path, layout: FolderLayout | None = None, *, progress: Callable[[int, int], None] | None = None
) -> DataCheck:
    """Decodes every image and mask of a folder.

    Findings are ``broken`` (cannot be decoded), ``unpaired`` (an image without mask or a mask without image), ``size``
    (a mask of another size than its image), ``constant`` (an image or mask with a single value), and ``duplicate`` (the
    pixels of an earlier image).

    Args:
        root: a folder with images and masks, or with ``train`` and ``val`` that have them.
        layout: names of the folders.
        progress: called with the numbers of finished and of all images.

    Raises:
        WavedilError: a folder is missing or empty.
    """
    layout = layout or FolderLayout()
    pairs, check = [], DataCheck(str(root))
    for part in parts_of(Path(root)) or [Path(root)]:
        images, masks = stems(part, layout)
        for name in sorted(images.keys() | masks.keys()):
            if name in images and name in masks:
                pairs.append((images[name], masks[name]))
            else:
                path, other = (images[name], "mask") if name in images else (masks[name], "image")
                check.add(path, "unpaired", f"has no {other}")
        check.count += len(images) + len(masks)
    sizes, values, seen = Counter(), Counter(), {}
    for number, (image_path, mask_path) in enumerate(pairs, 1):
        image, mask = _read(check, image_path, _read_image), _read(check, mask_path, _read_mask)
        if image is not None:
            sizes[f"{image.shape[1]} x {image.shape[0]}"] += 1
            if (image == image[:1, :1]).all():
                check.add(image_path, "constant", "all pixels are equal")
            digest = hashlib.blake2b(str(image.shape).encode() + image.tobytes(), digest_size=16).digest()
            if digest in seen:
                check.add(image_path, "duplicate", f"has the pixels of {seen[digest]}")
            seen.setdefault(digest, image_path)
        if mask is not None:
            found, counts = np.unique(mask.reshape(-1, *mask.shape[2:]), axis=0, return_counts=True)
            values.update({str(value): int(count) for value, count in zip(found.tolist(), counts, strict=True)})
            if len(found) == 1:
                check.add(mask_path, "constant", f"all pixels are {found[0].tolist()}")
        if image is not None and mask is not None and image.shape[:2] != mask.shape[:2]:
            check.add(
                mask_path,
                "size",
                f"{mask.shape[1]} x {mask.shape[0]} pixels; its image has {image.shape[1]} x {image.shape[0]}",
            )
        if progress is not None:
            progress(number, len(pairs))
    check.facts = {"pairs": len(pairs), "image sizes": dict(sizes.most_common(10))}
    check.facts["pixels by mask value"] = dict(values.most_common(_VALUES))
    check.distributions = {"mask value": dict(values.most_common(_VALUES))}
    return check


def _read_image(path: Path) -> np.ndarray:
    """An image as RGB, or with its bands if it is gray of 16 bits or has four of them."""
    try:
        return read_image(path)
    except WavedilError:
        image = read_image(path, None)
        if image.dtype == np.uint8 and path.suffix.lower() not in (".tif", ".tiff"):  # e.g. transparent pixels
            raise
        return image


def _read_mask(path: Path) -> np.ndarray:
    """A mask of gray values, palette indices or colors."""
    try:
        return read_mask(path, colors=False)
    except WavedilError:
        return read_mask(path, colors=True)


def _read(check: DataCheck, path: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray | None:
    """The decoded file; None, with a finding, if it is broken."""
    try:
        return read(path)
    except WavedilError as error:
        check.add(path, BROKEN, str(error).removeprefix(f"{path} ").removeprefix(f"{path}: "))
        return None
