"""Object annotations of COCO as class labels."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wavedil.errors import WavedilError, count_text, one_of, shown
from wavedil.extras import install_extra
from wavedil.vision.data.formats.base import ImageFormat, check_name, read_json
from wavedil.vision.data.images import list_images
from wavedil.vision.data.labels import IGNORED, LabelScheme
from wavedil.vision.data.pairs import ImagePair
from wavedil.vision.data.pictures import check_size
from wavedil.weights import register

BACKGROUND = "background"
MAX_JSON_BYTES = 2**31  # instances_train2017.json has 450 MB
MAX_OUTLINE = 2**21  # pixels; pycocotools needs 80 bytes for each
# A compressed number: groups of 5 bits, all but the last with bit 5 set. pycocotools reads beyond the end of others.
_NUMBER = re.compile(rb"[\x50-\x6f]{0,5}[\x30-\x4f]")


@register
class COCO(ImageFormat):
    """Object annotations of COCO (``instances_*.json``) as class labels of pixels.

    The classes are ``background``, then the categories by their id. A pixel has the class of the smallest object that
    covers it, by its number of pixels; of equal ones, of the later object. Pixels that only crowds (``iscrowd``) cover
    are ignored, all others are background. Outlines are filled as pycocotools does. If a category is named
    ``background``, there is no other class of this name.

    Args:
        train, val: names of the sets; ``val`` null: every tenth image of ``train`` validates.
        annotations, images: the JSON file and the folder of the images of a set, below the root; ``{set}`` is its name.
        categories: names of the categories to use, in the order of their classes; objects of others are background.
            null: all.

    Source: Lin et al. 2014, arXiv 1405.0312, and https://cocodataset.org/#format-data.
    """

    def __init__(
        self,
        train: str = "train2017",
        val: str | None = "val2017",
        annotations: str = "annotations/instances_{set}.json",
        images: str = "{set}",
        categories: Sequence[str] | None = None,
    ):
        if categories is not None and not categories:
            raise WavedilError("categories is []: expected names of categories, or null for all")
        self.train, self.val, self.categories = train, val, categories
        self.annotations, self.images = annotations, images
        self._read: dict[Path, _Annotations] = {}

    def label_scheme(self, root: Path) -> LabelScheme:
        return LabelScheme(self._classes(root), ignore_label=IGNORED)

    def _classes(self, root: Path) -> list[str]:
        names = [name for name in (self.train, self.val) if name is not None and self._path(root, name).exists()]
        path = self._path(root, names[0] if names else self.train)
        known = list(self._file(path).categories.values())
        chosen = known if self.categories is None else list(self.categories)
        for name in chosen:
            if name not in known or chosen.count(name) > 1:
                raise WavedilError(
                    f"categories has {name!r}: expected different names of {path}, {one_of(name, known)}"
                )
        return chosen if BACKGROUND in chosen else [BACKGROUND, *chosen]

    def _path(self, root: Path, name: str) -> Path:
        return root / self.annotations.replace("{set}", name)

    def _file(self, path: Path) -> "_Annotations":
        if path not in self._read:
            self._read[path] = _Annotations.read(path)
        return self._read[path]

    def find(self, root: Path, name: str) -> list[ImagePair]:
        path, folder = self._path(root, name), root / self.images.replace("{set}", name)
        file, classes = self._file(path), self._classes(root)
        training = self._path(root, self.train)
        # An evaluation needs the validation set alone.
        every = self._file(training).categories if name == self.val and training.exists() else file.categories
        for category in file.categories.values():
            if category not in every.values():
                raise WavedilError(f"{path} has the category {category!r}, which the set {self.train} does not have")
        present = set(list_images(folder))
        missing = [image.name for image in file.images.values() if folder / image.name not in present]
        if missing:
            raise WavedilError(
                f"{path} names {shown(missing[0])}, which {folder} does not have ({len(missing)} of {len(file.images)} "
                "images are missing): add them, or remove them from the file"
            )
        labels = {id_: classes.index(name) for id_, name in file.categories.items() if name in classes}
        labels |= dict.fromkeys(file.categories.keys() - labels.keys(), classes.index(BACKGROUND))
        pairs = [
            ObjectPair(folder / image.name, path, image.size, tuple(image.objects), labels, classes.index(BACKGROUND))
            for image in file.images.values()
        ]
        return sorted(pairs, key=lambda pair: pair.image)


@dataclass(frozen=True)
class _Object:
    """An annotation: polygons ``x1, y1, x2, y2, …`` or the run lengths of a mask."""

    category: int
    is_crowd: bool
    shape: tuple[np.ndarray, ...] | bytes | list[int]


@dataclass(frozen=True)
class ObjectPair(ImagePair):
    """An image and the objects of a COCO file in it; ``mask`` is this file.

    Args:
        size: (height, width) of the image in the file.
        objects: in the order of the file.
        labels: class of each category id.
        background: class of pixels without an object.
    """

    size: tuple[int, int]
    objects: tuple[_Object, ...] = field(repr=False)
    labels: Mapping[int, int] = field(repr=False)
    background: int

    def mask_size(self) -> tuple[int, int]:
        return self.size

    def read_mask(self, colors: bool) -> np.ndarray:
        try:
            from pycocotools import mask as masks
        except ImportError:
            raise WavedilError(f"the format COCO needs pycocotools: {install_extra('vision')}") from None
        check_size(self.mask, self.size)
        labels = np.full(self.size, self.background, np.uint8)
        height, width = self.size
        areas, regions = [], []
        for each in self.objects:
            if isinstance(each.shape, tuple):
                region = masks.merge(masks.frPyObjects(list(each.shape), height, width))
            elif isinstance(each.shape, list):
                region = masks.frPyObjects({"size": [height, width], "counts": each.shape}, height, width)
            else:
                region = {"size": [height, width], "counts": each.shape}
            regions.append(region)
            areas.append(int(masks.area(region)))
        # Crowds first, then objects from large to small; sorted() keeps the order of equal ones.
        for index in sorted(range(len(regions)), key=lambda i: (not self.objects[i].is_crowd, -areas[i])):
            each = self.objects[index]
            with warnings.catch_warnings(action="ignore"):  # of NumPy 2 about pycocotools 2.0.11
                inside = masks.decode(regions[index]).astype(bool)
            labels[inside] = IGNORED if each.is_crowd else self.labels[each.category]
        return labels


@dataclass
class _Image:
    name: str
    size: tuple[int, int]
    objects: list[_Object]


@dataclass
class _Annotations:
    """A COCO file: categories by id, and images by id in the order of the file."""

    categories: dict[int, str]
    images: dict[Any, _Image]

    @staticmethod
    def read(path: Path) -> "_Annotations":
        content = read_json(path, MAX_JSON_BYTES, "annotations of COCO")
        lists = [
            content.get(key) if isinstance(content, dict) else None for key in ("categories", "images", "annotations")
        ]
        if not all(isinstance(each, list) for each in lists) or not lists[0] or not lists[1]:
            raise WavedilError(f"{path}: expected a dictionary with the lists images, annotations and categories")
        file = _Annotations({}, {})
        for number, each in enumerate(lists[0]):
            place = f"{path}: categories[{number}]"
            id_, name = _get(each, place, "id", int), _get(each, place, "name", str)
            if id_ in file.categories or name in file.categories.values():
                raise WavedilError(
                    f"{place}: the id {id_} or the name {name!r} is used before: expected different ones"
                )
            file.categories[id_] = name
        file.categories = dict(sorted(file.categories.items()))
        names = set()
        for number, each in enumerate(lists[1]):
            place = f"{path}: images[{number}]"
            id_, name = _get(each, place, "id", int | str), _get(each, place, "file_name", str)
            width, height = (_get(each, place, key, int) for key in ("width", "height"))
            check_name(path, name)
            if id_ in file.images or PurePosixPath(name) in names:
                raise WavedilError(
                    f"{place}: the id {id_} or the name {name!r} is used before: expected different ones"
                )
            if min(width, height) < 1:
                raise WavedilError(f"{place}: width is {width} and height is {height}: expected at least 1")
            names.add(PurePosixPath(name))  # ./a.png is a.png
            file.images[id_] = _Image(name, (height, width), [])
        for number, each in enumerate(lists[2]):
            place = f"{path}: annotations[{number}]"
            image_id, category = _get(each, place, "image_id", int | str), _get(each, place, "category_id", int)
            if image_id not in file.images:
                raise WavedilError(f"{place}: image_id is {image_id!r}: expected the id of one of the images")
            if category not in file.categories:
                known = ", ".join(map(str, file.categories))
                raise WavedilError(f"{place}: category_id is {category}: expected the id of a category, {known}")
            image = file.images[image_id]
            shape = _shape(each.get("segmentation"), f"{place}: segmentation", image.size)
            is_crowd = each.get("iscrowd")
            if is_crowd not in (None, 0, 1):
                raise WavedilError(f"{place}: iscrowd is {shown(is_crowd)}: expected 0 or 1")
            image.objects.append(_Object(category, bool(is_crowd), shape))
        return file


def _get(value: Any, place: str, key: str, kind: Any) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        expected = "a text" if kind is str else "an integer" if kind is int else "an integer or a text"
        raise WavedilError(f"{place}: {key} is {shown(found)}: expected {expected}")
    return found


def _shape(value: Any, place: str, size: tuple[int, int]) -> tuple[np.ndarray, ...] | bytes | list[int]:
    """Checked polygons or run lengths."""
    if isinstance(value, dict):
        return _run_lengths(value, place, size)
    if not isinstance(value, list) or not value:
        raise WavedilError(f"{place} is {shown(value)}: expected polygons, or run lengths in size and counts")
    return tuple(_polygon(points, f"{place}[{number}]", size) for number, points in enumerate(value))


def _polygon(points: Any, place: str, size: tuple[int, int]) -> np.ndarray:
    if not isinstance(points, list) or not all(type(value) in (int, float) for value in points):
        raise WavedilError(f"{place} is {shown(points)}: expected a list of numbers x1, y1, x2, y2, ...")
    if len(points) % 2 or len(points) < 6:
        raise WavedilError(f"{place} has {count_text(len(points), 'number')}: expected x and y of at least 3 points")
    height, width = size
    try:
        found = np.array(points, np.float64).reshape(-1, 2)
    except OverflowError:
        found = np.full((1, 2), np.inf)
    # Tools write points slightly outside of the image; far away it is not that of this image.
    if not ((found >= [-width, -height]) & (found <= [2 * width, 2 * height])).all():
        raise WavedilError(
            f"{place} has points far outside of the image of {width} x {height} pixels: expected x, y in it"
        )
    if np.abs(found - np.roll(found, 1, 0)).max(1).sum() > MAX_OUTLINE:
        raise WavedilError(f"{place} has an outline of more than {MAX_OUTLINE:,} pixels: expected a simpler polygon")
    return found.reshape(-1)


def _run_lengths(value: dict[str, Any], place: str, size: tuple[int, int]) -> bytes | list[int]:
    counts = value.get("counts")
    if value.get("size") != list(size):
        raise WavedilError(
            f"{place}: size is {shown(value.get('size'))}: expected [height, width] of the image, {list(size)}"
        )
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise WavedilError(f"{place}: counts is {shown(counts)}: expected run lengths, as a list or compressed")
    if sum(runs) != size[0] * size[1]:
        raise WavedilError(
            f"{place}: counts has {shown(sum(runs))} pixels: expected {size[0] * size[1]}, the size of the image"
        )
    return counts.encode() if isinstance(counts, str) else counts


def _decompressed(text: str) -> list[int] | None:
    """Run lengths of a compressed text; None if it is damaged.

    From the fourth on, they are differences to the run before the last one.
    """
    runs, data, position = [], text.encode(errors="replace"), 0
    while position < len(data):
        number = _NUMBER.match(data, position)
        if number is None:
            return None
        groups = [byte - 48 & 31 for byte in number[0]]
        value = sum(group << 5 * index for index, group in enumerate(groups))
        if groups[-1] & 16:  # negative
            value -= 1 << 5 * len(groups)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        position = number.end()
    return runs
