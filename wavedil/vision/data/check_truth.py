"""What a check of images reads as their ground truth: masks of known or unknown classes, or target values."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wavedil.data_check import BROKEN, DataCheck
from wavedil.errors import WavedilError, shown
from wavedil.vision.data.dataset import count_classes, known_scheme, read_values
from wavedil.vision.data.images import list_images, read_mask, read_target
from wavedil.vision.data.labels import IGNORED, Ignored, LabelScheme
from wavedil.vision.data.multilabel import IGNORED_BITS, MultilabelPair, class_folders
from wavedil.vision.data.pairs import FolderLayout, ImagePair, stems, without_excluded
from wavedil.vision.data.palette import Color
from wavedil.vision.data.shares import class_shares, class_warnings

_VALUES = 64  # values of masks in the summary


class Truth:
    """The masks of images with one file each; subclasses define :meth:`read` and :meth:`facts`."""

    def find(self, check: DataCheck, folder: Path, layout: FolderLayout, exclude: str | None) -> list[ImagePair]:
        """The complete pairs in a folder; the others are findings."""
        found = without_excluded(stems(folder, layout), exclude)
        return [ImagePair(*paths) for paths in check.complete(found, ("image", "mask"))]

    def read(self, check: DataCheck, pair: ImagePair, path: Path, part: str) -> Iterator[tuple[Path, tuple[int, int]]]:
        """Reads the masks of an image and adds findings about them.

        Args:
            path: file that is named in findings.
            part: name of the set.

        Yields:
            Path and (height, width) of each mask that can be read.
        """
        raise NotImplementedError

    def facts(self, train: str) -> dict[str, Any]:
        """Facts about all masks; ``train`` is the name of the training set."""
        raise NotImplementedError

    def distributions(self) -> dict[str, Any]:
        return {}


class MaskValues(Truth):
    """Masks whose classes are not known: their values are counted."""

    def __init__(self, ignore_label: Ignored = IGNORED, palette: Sequence[Color] | None = None):
        self.ignore_label, self.palette = ignore_label, palette
        self.values, self.source = Counter(), ""

    def read(self, check: DataCheck, pair: ImagePair, path: Path, part: str) -> Iterator[tuple[Path, tuple[int, int]]]:
        mask = check.attempt(path, BROKEN, _gray_or_colors, pair)
        if mask is None:
            return
        found, counts = np.unique(mask.reshape(-1, *mask.shape[2:]), axis=0, return_counts=True)
        values = [tuple(value) if isinstance(value, list) else value for value in found.tolist()]
        self.values.update(dict(zip(values, map(int, counts), strict=True)))
        self.source = str(pair.mask.parent)
        if len(found) == 1:
            check.add(path, "constant", f"all pixels are {found[0].tolist()}")
        yield path, mask.shape[:2]

    def facts(self, train: str) -> dict[str, Any]:
        facts: dict[str, Any] = {"pixels by mask value": self._most_common()}
        if any(isinstance(value, tuple) for value in self.values):
            facts["warnings"] = ["there are masks in color: set mask_values to the color of each class"]
        elif self.values:
            counts = np.zeros(max(self.values) + 1, np.int64)
            counts[list(self.values)] = list(self.values.values())
            try:
                number = count_classes(counts, self.ignore_label, self.source)
                known_scheme(number, None, self.ignore_label, self.palette)
                facts["classes"] = number
            except WavedilError as error:
                facts["warnings"] = [str(error)]
        return facts

    def distributions(self) -> dict[str, Any]:
        return {"mask value": self._most_common()}

    def _most_common(self) -> dict[str, int]:
        return {str(value): count for value, count in self.values.most_common(_VALUES)}


class ClassTally:
    """Pixels and images of each class, by set.

    Args:
        names: of the classes; None: their numbers.
        several: pixels may have several classes, or none.
        unit, files: nouns for pixels and images.
    """

    def __init__(
        self, names: Sequence[str] | None = None, several: bool = False, unit: str = "pixels", files: str = "images"
    ):
        self.names, self.several, self.unit, self.files = names, several, unit, files
        self.sums: dict[str, np.ndarray] = {}
        self.known, self.total = Counter(), 0
        self.occurs = np.zeros(IGNORED, np.int64)

    def add_labels(self, check: DataCheck, path: Path, labels: np.ndarray, part: str) -> None:
        """Adds labels with 255 where they are ignored, and findings about them."""
        counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)[:IGNORED]
        found = np.flatnonzero(counts)
        if not len(found):
            check.add(path, "unlabeled", f"all {self.unit} are ignored")
        elif len(found) == 1:
            name = self.names[found[0]] if self.names else found[0]
            check.add(path, "constant", f"all {self.unit} that are not ignored are of class {name}")
        self.add(counts, int(counts.sum()), labels.size, part)

    def add(self, counts: np.ndarray, known: int, total: int, part: str) -> None:
        """Adds the pixels of each class, those that are not ignored, and all."""
        counts = np.pad(counts, (0, IGNORED - len(counts)))
        self.sums[part] = self.sums.get(part, 0) + counts
        self.known[part] += known
        self.total += total
        self.occurs += counts > 0

    def facts(self, train: str) -> dict[str, Any]:
        if not self.sums:
            return {}
        counts, known = sum(self.sums.values()), sum(self.known.values())
        names = self.names or [str(label) for label in range(np.flatnonzero(counts).max(initial=-1) + 1)]
        shares = class_shares(names, counts[: len(names)].tolist(), known)
        facts = {
            f"classes in % of {self.unit}": {name: round(share, 3) for name, share in shares.items()},
            f"{self.files} by class": dict(zip(names, self.occurs.tolist(), strict=False)),
            f"ignored {self.unit} in %": round(100 * (1 - known / max(1, self.total)), 3),
        }
        trained = self.sums.get(train, np.zeros(IGNORED, np.int64))[: len(names)].tolist()
        warnings = class_warnings(names, trained, self.known[train], several=self.several, unit=self.unit)
        if warnings:
            facts["warnings"] = [f"set {train}: {text}" for text in warnings]
        return facts

    def distributions(self) -> dict[str, Any]:
        shares = self.facts("").get(f"classes in % of {self.unit}", {})
        return {f"% of {self.unit}": shares}


class ClassMasks(Truth):
    """Masks of known classes."""

    def __init__(self, scheme: LabelScheme):
        self.scheme, self.tally = scheme, ClassTally(list(scheme.classes))
        self.facts, self.distributions = self.tally.facts, self.tally.distributions

    def read(self, check: DataCheck, pair: ImagePair, path: Path, part: str) -> Iterator[tuple[Path, tuple[int, int]]]:
        mask = check.attempt(path, BROKEN, read_values, pair, self.scheme.by_color)
        if mask is None:
            return
        labels = check.attempt(path, "unknown", self.scheme.encode, mask, path)
        if labels is not None:
            self.tally.add_labels(check, path, labels, part)
        yield path, mask.shape[:2]


class ClassFolders(Truth):
    """A folder of masks for each class: pixels may have several."""

    def __init__(self, names: Sequence[str] | None = None, ignore_label: int | None = None):
        self.tally, self.names, self.ignore_label = ClassTally(names, several=True), names, ignore_label
        self.notes: list[str] = []
        self.distributions = self.tally.distributions

    def find(self, check: DataCheck, folder: Path, layout: FolderLayout, exclude: str | None) -> list[MultilabelPair]:
        if self.names is None:
            others = [name for name in class_folders(folder / layout.masks) if name not in (self.tally.names or ())]
            if self.tally.names and others:
                self.notes.append(f"{folder / layout.masks} has {shown(others)}, which the training set does not have")
            self.tally.names = self.tally.names or others
        names = self.tally.names
        for path in list_images(folder / layout.masks):
            if path.parent == folder / layout.masks:
                check.add(path, "unpaired", "is not in the folder of a class")
        found = [stems(folder, replace(layout, masks=f"{layout.masks}/{name}")) for name in names]
        found = without_excluded([found[0][0], *(masks for _, masks in found)], exclude)
        kinds = ("image", *(f"mask of {name}" for name in names))
        complete = check.complete(found, kinds)
        return [MultilabelPair(image, masks[0], masks, self.ignore_label) for image, *masks in complete]

    def read(
        self, check: DataCheck, pair: MultilabelPair, path: Path, part: str
    ) -> Iterator[tuple[Path, tuple[int, int]]]:
        masks = [check.attempt(path, BROKEN, read_mask, path, False) for path in pair.masks]
        for path, mask in zip(pair.masks, masks, strict=True):
            if mask is None:
                continue
            values = np.unique(mask[(mask != 0) & (mask != self.ignore_label)])
            if len(values) > 1:
                listed = ", ".join(map(str, values[:8])) + (" ..." if len(values) > 8 else "")
                check.add(path, "unknown", f"values {listed}: expected one besides 0 and the ignore_label, the class")
            yield path, mask.shape
        if any(mask is None or mask.shape != masks[0].shape for mask in masks):
            return
        bits = pair.combine(masks)
        ignored = bits == IGNORED_BITS
        if ignored.all():
            check.add(pair.image, "unlabeled", "all pixels are ignored")
        counts = np.array([int(((bits >> label) & 1)[~ignored].sum()) for label in range(len(masks))])
        self.tally.add(counts, int((~ignored).sum()), bits.size, part)

    def facts(self, train: str) -> dict[str, Any]:
        facts = self.tally.facts(train)
        warnings = [*self.notes, *facts.get("warnings", ())]
        return facts | ({"warnings": warnings} if warnings else {})


class TargetMaps(Truth):
    """Target values.

    Args:
        step: value of one gray level of a target image.
    """

    def __init__(self, step: float = 1.0):
        self.step, self.low, self.high = step, np.inf, -np.inf
        self.sum, self.known, self.total, self.means = 0.0, 0, 0, []

    def read(self, check: DataCheck, pair: ImagePair, path: Path, part: str) -> Iterator[tuple[Path, tuple[int, int]]]:
        values = check.attempt(path, BROKEN, read_target, path, self.step)
        if values is None:
            return
        known = values[~np.isnan(values)].astype(np.float64)
        self.total, self.known = self.total + values.size, self.known + len(known)
        if len(known):
            self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
            self.sum += known.sum()
            self.means.append(float(known.mean()))
            if known.min() == known.max():
                check.add(path, "constant", f"all known values are {known[0]:.6g}")
        else:
            check.add(path, "unlabeled", "all values are unknown (0, NaN or infinite)")
        yield path, values.shape

    def facts(self, train: str) -> dict[str, Any]:
        facts = {"unknown pixels in %": round(100 * (1 - self.known / max(1, self.total)), 3)}
        if self.known:
            facts["target values"] = f"{self.low:.6g} to {self.high:.6g}, mean {self.sum / self.known:.6g}"
        return facts

    def distributions(self) -> dict[str, Any]:
        return {"mean target": self.means}


def _gray_or_colors(pair: ImagePair) -> np.ndarray:
    try:
        return read_values(pair)
    except WavedilError as error:
        try:
            return read_values(pair, by_color=True)
        except WavedilError:
            raise error from None
