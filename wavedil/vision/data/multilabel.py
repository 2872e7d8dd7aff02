"""Masks with several classes per pixel: a folder of masks for each class.

In memory, the ground truth of an image is one map ``(height, width)`` whose bits are classes, so that crops treat it
like a label map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from wavedil.core.schema import Range
from wavedil.errors import WavedilError, count_text, shown
from wavedil.files import normalized
from wavedil.vision.data.dataset import ImageDataset
from wavedil.vision.data.images import list_images, read_mask
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.pairs import FolderLayout, ImagePair, PathLike
from wavedil.vision.data.pixels import resize_mask, scaled_size

MAX_CLASSES = 23  # crops hold the bits in float32, which is exact up to 2^24
ClassCount = Annotated[int, Range(1, MAX_CLASSES)]
IGNORED_BITS = 2**MAX_CLASSES


def check_names(classes: Sequence[str]) -> None:
    """Raises WavedilError unless the names can be names of folders next to each other."""
    for name in classes:
        if name in ("", ".", "..") or any(char in name for char in "/\\\0"):
            raise WavedilError(f"classes has {shown(name)}: expected the name of a folder of masks")
    if len({normalized(name).casefold() for name in classes}) < len(classes):
        raise WavedilError(f"classes is {shown(list(classes))}: expected different names")
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise WavedilError(f"classes has {count_text(len(classes), 'name')}: expected 1 to {MAX_CLASSES}")


@dataclass(frozen=True)
class MultilabelPair(ImagePair):
    """An image and a mask for each class; ``mask`` is the first.

    Args:
        masks: in each, pixels of the class are not 0.
        ignore_label: value of ignored pixels; a pixel that is ignored in one mask is ignored for all classes.
    """

    masks: tuple[Path, ...]
    ignore_label: int | None

    def read_mask(self, colors: bool = False) -> np.ndarray:
        """Bits of the classes, int32 ``(height, width)``; 2^23 where the pixel is ignored."""
        masks = [read_mask(path, colors=False) for path in self.masks]
        for path, mask in zip(self.masks, masks, strict=True):
            if mask.shape != masks[0].shape:
                raise WavedilError(
                    f"{path} has the size {mask.shape} and {self.mask} {masks[0].shape}: expected the same"
                )
        return self.combine(masks)

    def combine(self, masks: Sequence[np.ndarray]) -> np.ndarray:
        """Bits of the classes, as :meth:`read_mask`, of one mask for each class."""
        bits, ignored = np.zeros(masks[0].shape, np.int32), np.zeros(masks[0].shape, bool)
        for label, mask in enumerate(masks):
            bits |= (mask != 0).astype(np.int32) << label
            ignored |= mask == self.ignore_label
        return np.where(ignored, np.int32(IGNORED_BITS), bits)


class MultilabelDataset(ImageDataset):
    """Images with the classes of each pixel.

    Items are ``{"image": float32 (channels, height, width) in [0, 1], "labels": int64 (num_classes, height, width)}``
    of 0 and 1, and 255 where ignored.

    Args:
        pairs: image and mask files.
        num_classes: number of classes.
        scale, channels: see :class:`wavedil.vision.data.dataset.ImageDataset`.
    """

    fill_value = IGNORED_BITS

    def __init__(self, pairs: Sequence[MultilabelPair], num_classes: int, scale: float = 1.0, channels: int = 3):
        super().__init__(pairs, scale, channels)
        self.num_classes = num_classes

    def read_truth(self, index: int) -> np.ndarray:
        mask = self.pairs[index].read_mask()
        return resize_mask(mask, scaled_size(mask.shape, self.scale))

    def make_item(self, image: Tensor, truth: Tensor) -> dict[str, Tensor]:
        return {"image": image, "labels": unpack(truth, self.num_classes)}

    def count_labels(self, progress: Callable[[int, int], None] | None = None) -> tuple[Tensor, int]:
        """Pixels of each class in each image, int64 ``(images, num_classes)``, and pixels that are not ignored."""
        rows, known = [], 0
        for index in range(len(self)):
            labels = unpack(torch.from_numpy(self.read_truth(index)), self.num_classes)
            rows.append((labels == 1).sum((1, 2)))
            known += int((labels[0] != IGNORED).sum())
            if progress is not None:
                progress(index + 1, len(self))
        return torch.stack(rows), known


def unpack(bits: Tensor, num_classes: int) -> Tensor:
    """Labels of 0 and 1, int64 ``(num_classes, height, width)``, 255 where ignored, from a map of bits."""
    bits = bits.long()
    labels = bits >> torch.arange(num_classes, device=bits.device).view(-1, 1, 1) & 1
    return torch.where(bits >= IGNORED_BITS, IGNORED, labels)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders with masks in ``folder``, sorted.

    Raises:
        WavedilError: there is none.
    """
    found = {path.relative_to(folder).parts[0] for path in list_images(folder, (".npy",)) if path.parent != folder}
    if not found:
        raise WavedilError(f"{folder} has masks, but no folder for each class: expected {folder}/CLASS with its masks")
    return sorted(found)


def find_multilabel_pairs(
    find: Callable[[FolderLayout], Sequence[ImagePair]],
    layout: FolderLayout,
    classes: Sequence[str],
    ignore_label: int | None,
) -> list[MultilabelPair]:
    """The images with their masks of each class.

    Args:
        find: the pairs of a layout, e.g. ``partial(find_pairs, root)``.
        layout: ``masks`` is the folder that has a folder for each class.

    Raises:
        WavedilError: as ``find``; or the classes have masks of different images.
    """
    found = [find(replace(layout, masks=f"{layout.masks}/{name}")) for name in classes]
    images = [[pair.image for pair in pairs] for pairs in found]
    if any(each != images[0] for each in images):
        raise WavedilError(f"the folders of {', '.join(classes)} in {layout.masks} are for different images")
    return [
        MultilabelPair(pairs[0].image, pairs[0].mask, tuple(pair.mask for pair in pairs), ignore_label)
        for pairs in zip(*found, strict=True)
    ]


def multilabel_root(root: PathLike) -> Path:
    """The folder whose masks name the classes: the root, or the part of the training set."""
    from wavedil.vision.data.pairs import parts_of

    parts = parts_of(Path(root))
    return parts[0] if parts else Path(root)
