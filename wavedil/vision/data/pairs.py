"""Pairs of images and masks in a folder, and their split into training and validation set."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from wavedil.errors import WavedilError
from wavedil.files import excluded_paths, normalized, pair_by_name, unique_names
from wavedil.shards import is_folder
from wavedil.splits import describe_split, hold_out
from wavedil.vision.data.images import image_size, list_images, read_mask

PathLike = str | os.PathLike[str]
Pair = TypeVar("Pair")
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
    pairs = pair_files(root, layout, exclude)
    check_sizes(pairs)
    return pairs


def pair_files(root: PathLike, layout: FolderLayout | None = None, exclude: str | None = None) -> list[ImagePair]:
    """As :func:`find_pairs`, without reading the sizes in the files."""
    layout = layout or FolderLayout()
    found = stems(root, layout)
    if not any(found):
        raise WavedilError(
            f"{root}: no image stem ends with image_ending {layout.image_ending!r} and no mask stem with mask_ending "
            f"{layout.mask_ending!r}"
        )
    remedy = "add it, remove the file, or set image_ending and mask_ending to the endings of the names"
    found = without_excluded(found, exclude)
    mask = f"mask in {layout.masks}" if "/" in layout.masks else "mask"  # e.g. of a class
    return [ImagePair(*pair) for pair in pair_by_name(*found, ("image", mask), remedy)]


def without_excluded(found: Sequence[dict[str, Path]], exclude: str | None) -> list[dict[str, Path]]:
    """Images and masks by name, without those that ``exclude`` leaves out and their partners.

    Raises:
        WavedilError: none is left.
    """
    if exclude is None:
        return list(found)
    excluded = excluded_paths([path for paths in found for path in paths.values()], exclude)
    dropped = {name for paths in found for name, path in paths.items() if path in excluded}
    kept = [{name: path for name, path in paths.items() if name not in dropped} for paths in found]
    if not any(kept):
        raise all_excluded(exclude, len(dropped))
    return kept


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
    return split_folder(root, lambda part: find_pairs(part, layout, exclude), validation)


def split_folder(
    root: PathLike, find: Callable[[Path], list[Pair]], validation: str | None = None, kind: str = "images"
) -> tuple[list[Pair], list[Pair], str]:
    """As :func:`split_pairs`, of any pairs with a path ``image``.

    Args:
        find: the pairs in a folder.
        kind: plural noun, for messages.
    """
    root = Path(root)
    if not is_folder(root):
        raise WavedilError(f"{root} is not a folder: expected a folder of {kind} and masks")
    if parts := _parts(root, validation):
        train, valid = (find(part) for part in parts)
        rule = f"folders {parts[0].name} and {parts[1].name}"
    else:
        train, valid, rule = _by_rule(find(root), validation, kind)
    return train, valid, describe_split(rule, len(train), len(valid), kind)


def find_sets(
    root: PathLike, find: Callable[[Path], list[Pair]], validation: str | None = None, kind: str = "images"
) -> dict[str, list[Pair]]:
    """The pairs of :func:`split_folder` by the name of their set, which may be empty."""
    if parts := _parts(Path(root), validation):
        return {part.name: find(part) for part in parts}
    train, valid, _ = _by_rule(find(Path(root)), validation, kind)
    return {TRAIN[0]: train, VALIDATION[0]: valid}


def held_out_pairs(
    root: PathLike, layout: FolderLayout | None = None, validation: str | None = None, exclude: str | None = None
) -> list[ImagePair]:
    """The validation pairs of :func:`split_pairs`. Training images are not read and may be missing.

    Raises:
        WavedilError: as :func:`find_pairs`; or no pair validates.
    """
    return held_out_part(root, lambda part: find_pairs(part, layout, exclude), validation)


def held_out_part(
    root: PathLike, find: Callable[[Path], list[Pair]], validation: str | None = None, kind: str = "images"
) -> list[Pair]:
    """As :func:`held_out_pairs`, with the arguments of :func:`split_folder`."""
    parts = parts_of(Path(root))
    if parts and validation is None:
        return find(parts[1])
    _, valid, rule = _by_rule(find(Path(root)), validation, kind)
    if not valid:
        raise WavedilError(f"{rule}: that is none of the {kind} in {root}")
    return valid


def _parts(root: Path, validation: str | None) -> list[Path]:
    parts = parts_of(root)
    if parts and validation is not None:
        raise WavedilError(f"validation is {validation!r}, but {root} has the folder {parts[1].name}: leave it out")
    return parts


def _by_rule(pairs: list[Pair], validation: str | None, kind: str) -> tuple[list[Pair], list[Pair], str]:
    held, rule = hold_out([pair.image for pair in pairs], validation, kind=kind)
    train, valid = ([pair for pair, out in zip(pairs, held, strict=True) if out == side] for side in (False, True))
    return train, valid, rule


def parts_of(root: Path) -> list[Path]:
    """The folders of the training and validation sets if the root has both, else an empty list."""
    found = [next((root / name for name in names if is_folder(root / name)), None) for names in (TRAIN, VALIDATION)]
    return found if all(found) else []
