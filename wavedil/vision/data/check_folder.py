"""Checks a folder of images or volumes; the kind of data is recognized by the file names."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from wavedil.data_check import DataCheck
from wavedil.shards import is_folder
from wavedil.vision.data.check import check_images
from wavedil.vision.data.check_truth import ClassFolders, MaskValues, TargetMaps, Truth
from wavedil.vision.data.check_volumes import check_volumes
from wavedil.vision.data.pairs import FolderLayout, parts_of, stems
from wavedil.vision.data.volume_pairs import list_volumes

TARGETS = "targets"  # folder of target values


def check_folder(
    root: str | Path,
    layout: FolderLayout | None = None,
    *,
    exclude: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataCheck | None:
    """Checks a folder with volumes, or with images and masks, a folder of masks for each class, or targets.

    Args:
        root: the folder, or one with ``train`` and ``val`` that have the data.
        layout: names of the folders.
        exclude, progress: see :func:`wavedil.vision.data.check.check_images`.

    Returns:
        None if the root has neither of the folders of ``layout``.
    """
    root, layout = Path(root), layout or FolderLayout()
    with warnings.catch_warnings(action="ignore"):  # the check lists the same folders again
        check = _find_check(root, layout)
    return check and check(exclude=exclude, progress=progress)


def _find_check(root: Path, layout: FolderLayout) -> Callable[..., DataCheck] | None:
    part = (parts_of(root) or [root])[0]
    if layout.masks == FolderLayout().masks and not is_folder(part / layout.masks) and is_folder(part / TARGETS):
        return partial(check_images, root, replace(layout, masks=TARGETS), truth=TargetMaps())
    folders = [folder for name in (layout.images, layout.masks) if is_folder(folder := part / name)]
    if not folders:
        return None
    if any(map(list_volumes, folders)):
        return partial(check_volumes, root, layout.images, layout.masks)
    return partial(check_images, root, layout, truth=_find_truth(part, layout))


def _find_truth(part: Path, layout: FolderLayout) -> Truth:
    """Masks in a folder for each class if more of their names, without the first folder, are names of images."""
    images, masks = stems(part, layout)
    is_apart = sum(name.partition("/")[2] in images for name in masks) > len(images.keys() & masks.keys())
    return ClassFolders() if is_apart else MaskValues()
