"""Pairs of images and masks in a folder, and their split into training and validation set."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import excluded_paths, normalized, pair_by_name, unique_names
from wavedil.shards import is_folder
from wavedil.splits import describe_split, hold_out
from wavedil.vision.data.images import image_size, list_images, read_mask

PathLike = str | os.PathLike[str]
TRAIN, VALIDATION = ("train", "training"), ("val", "valid", "validation")


@dataclass(frozen=True)
class FolderLayout:
    """Folder names of images and masks, relative to the root or to its ``train`` and ``val`` folders.

    An image and a mask belong together if their paths below ``images`` and ``masks`` are equal without suffix and
    without ``image_ending`` and ``mask_ending``. Files whose stem does not have the ending are skipped.
    """

    images: str = "images"
    masks: str = "masks"
    image_ending: str = ""
    mask_ending: str = ""


@dataclass(frozen=True)
class ImagePair:
    """An image file and its mask (or target) file.

    Subclasses read masks of other formats: they override both methods.
    """

    image: Path
    mask: Path

    def read_mask(self, colors: bool) -> np.ndarray:
        """The values of the mask, ``(height, width)``, or colors ``(height, width, 3)``; see :func:`read_mask`."""
        return read_mask(self.mask, colors)

    def mask_size(self) -> tuple[int, int] | None:
        """(height, width) of the mask, without reading its pixels; None if that is not possible."""
        return image_size(self.mask)


def stems(root: PathLike, layout: FolderLayout) -> tuple[dict[str, Path], dict[str, Path]]:
    """The images and the masks below ``root`` by the names that pair them.

    Raises:
        WavedilError: a folder is missing or empty, or two files have the same name.
    """
    root, found = Path(root), []
    for kind, folder, ending in (
        ("image", root / layout.images, layout.image_ending),
        ("mask", root / layout.masks, layout.mask_ending),
    ):
        listed = list_images(folder, () if kind == "image" else (".npy",))
        ending = normalized(ending)
        stems = {path: normalized(path.stem) for path in listed}
        ended = [path for path in listed if stems[path].endswith(ending)]
        parents = (path.relative_to(folder).as_posix().removesuffix(path.name) for path in ended)
        names = (parent + stems[path].removesuffix(ending) for parent, path in zip(parents, ended, strict=True))
        found.append(unique_names(zip(names, ended, strict=True), kind))
    return found[0], found[1]


def find_pairs(root: PathLike, layout: FolderLayout | None = None, exclude: str | None = None) -> list[ImagePair]:
    """All images below ``root`` with their masks, sorted by name.

    Args:
        exclude: images and masks to leave out, with their partners; see :func:`wavedil.files.excluded_paths`.

    Raises:
        WavedilError: a folder is missing or empty, an image has no mask or a mask no image, two files have the same
            name, or a mask has another size than its image. The message names the file.
    """
    layout = layout or FolderLayout()
    found = stems(root, layout)
    if not any(found):
        raise WavedilError(
            f"{root}: no image stem ends with image_ending {layout.image_ending!r} and no mask stem with mask_ending "
            f"{layout.mask_ending!r}"
        )
    if exclude is not None:
        excluded = excluded_paths([path for paths in found for path in paths.values()], exclude)
        dropped = {name for paths in found for name, path in paths.items() if path in excluded}
        found = tuple({name: path for name, path in paths.items() if name not in dropped} for paths in found)
        if not any(found):
            raise all_excluded(exclude, len(dropped))
    remedy = "add it, remove the file, or set image_ending and mask_ending to the endings of the names"
    pairs = [ImagePair(*pair) for pair in pair_by_name(*found, ("image", "mask"), remedy)]
    check_sizes(pairs)
    return pairs


def all_excluded(exclude: str, count: int) -> WavedilError:
    return WavedilError(f"exclude={exclude!r} leaves out all {count} images: use a narrower expression")


def check_sizes(pairs: Sequence[ImagePair]) -> None:
    """Raises WavedilError if a mask has another size than its image by their headers."""
    for pair in pairs:
        (height, width), mask = image_size(pair.image), pair.mask_size()
        if mask is not None and (height, width) != mask:
            raise WavedilError(
                f"{pair.mask} is {mask[1]} x {mask[0]} pixels and its image {pair.image} is {width} x {height}: "
                "expected the same size"
            )


def split_pairs(
    root: PathLike, layout: FolderLayout | None = None, validation: str | None = None, exclude: str | None = None
) -> tuple[list[ImagePair], list[ImagePair], str]:
    """Pairs for training, pairs for validation, and a text about the split.

    If the root has folders ``train`` and ``val``, they are the two sets. Otherwise every tenth of the sorted pairs
    validates, or the pairs whose image path, without suffix, matches the regular expression ``validation``.

    Raises:
        WavedilError: as :func:`find_pairs`; or no pair is left to train or to validate on.
    """
    root = Path(root)
    if not is_folder(root):
        raise WavedilError(f"{root} is not a folder: expected a folder of images and masks")
    parts = parts_of(root)
    if parts:
        if validation is not None:
            raise WavedilError(f"validation is {validation!r}, but {root} has the folder {parts[1].name}: leave it out")
        train, valid = (find_pairs(part, layout, exclude) for part in parts)
        rule = f"folders {parts[0].name} and {parts[1].name}"
    else:
        pairs = find_pairs(root, layout, exclude)
        held, rule = hold_out([pair.image for pair in pairs], validation, kind="images")
        train, valid = ([pair for pair, out in zip(pairs, held, strict=True) if out == side] for side in (False, True))
    return train, valid, describe_split(rule, len(train), len(valid), "images")


def held_out_pairs(
    root: PathLike, layout: FolderLayout | None = None, validation: str | None = None, exclude: str | None = None
) -> list[ImagePair]:
    """The validation pairs of :func:`split_pairs`. Training images are not read and may be missing.

    Raises:
        WavedilError: as :func:`find_pairs`; or no pair validates.
    """
    parts = parts_of(Path(root))
    if parts and validation is None:
        return find_pairs(parts[1], layout, exclude)
    pairs = find_pairs(root, layout, exclude)
    held, rule = hold_out([pair.image for pair in pairs], validation, kind="images")
    if not any(held):
        raise WavedilError(f"{rule}: that is none of the images in {root}")
    return [pair for pair, out in zip(pairs, held, strict=True) if out]


def parts_of(root: Path) -> list[Path]:
    """The folders of the training and validation sets if the root has both, else an empty list."""
    found = [next((root / name for name in names if is_folder(root / name)), None) for names in (TRAIN, VALIDATION)]
    return found if all(found) else []
