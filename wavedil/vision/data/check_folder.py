"""Checks a folder of images or volumes, whose kind the names of its files tell."""

from collections.abc import Callable
from dataclasses import replace
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
    part = (parts_of(root) or [root])[0]
    if layout.masks == FolderLayout().masks and not is_folder(part / layout.masks) and is_folder(part / TARGETS):
        layout = replace(layout, masks=TARGETS)
        return check_images(root, layout, truth=TargetMaps(), exclude=exclude, progress=progress)
    folders = [part / name for name in (layout.images, layout.masks)]
    if not any(map(is_folder, folders)):
        return None
    if all(map(is_folder, folders)) and any(map(list_volumes, folders)):
        return check_volumes(root, layout.images, layout.masks, exclude=exclude, progress=progress)
    return check_images(root, layout, truth=_truth(part, layout), exclude=exclude, progress=progress)


def _truth(part: Path, layout: FolderLayout) -> Truth:
    """Masks in a folder for each class if their names are those of images without the first folder."""
    images, masks = stems(part, layout)
    apart = not images.keys() & masks.keys() and any(name.partition("/")[2] in images for name in masks)
    return ClassFolders() if apart else MaskValues()
