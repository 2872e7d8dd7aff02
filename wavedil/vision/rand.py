"""The foreground-restricted Rand score of objects that are separated by a class of borders, e.g. cells by membranes.

scikit-image's ``adapted_rand_error`` is the same from label images, up to terms of 1 / pixels, but is not a dependency.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wavedil.core.schema import Positive, checked
from wavedil.errors import WavedilError, one_of, shown
from wavedil.extras import import_extra

THRESHOLDS = tuple(step / 10 for step in range(1, 10))
DEFINITION = (
    "foreground-restricted Rand score after border thinning: objects are the connected components (across edges of "
    "pixels) where the probability of the border class is less than the threshold, and each other pixel joins the "
    "nearest one; with p the shares of the pixels that are of no border in the ground truth, by predicted and true "
    "object, s and t its sums for the predicted and the true objects, v_rand is 2 sum p^2 / (sum s^2 + sum t^2), split "
    "sum p^2 / sum t^2 and merge sum p^2 / sum s^2; the mean over images; threshold is the one of 0.1 to 0.9 with the "
    "highest v_rand, which is chosen on these images, and v_rand_at_half is v_rand at 0.5"
)
#: Of volumes; :func:`definition_of` has both.
_OF_VOLUMES = {"edges of pixels": "faces of voxels", "pixel": "voxel", "nearest one;": "nearest one in millimeters;"}
_PART = 2**22  # voxels that are counted at a time


def definition_of(items: str) -> str:
    """``DEFINITION`` for ``items``: images, volumes or slices (of volumes)."""
    text = DEFINITION.replace("images", items)
    if items == "volumes":
        for of_images, of_volumes in _OF_VOLUMES.items():
            text = text.replace(of_images, of_volumes)
    return text


@dataclass(frozen=True)
class RandScore:
    """Result of :func:`rand_score`: 0 to 1, and 1 for equal objects."""

    v_rand: float  # the harmonic mean of both
    split: float  # less than 1 if objects are split
    merge: float  # less than 1 if objects are merged


@checked
def rand_score(
    borders: np.ndarray,
    labeled: np.ndarray,
    ignored: np.ndarray | None = None,
    *,
    spacing: Sequence[Positive] | None = None,
) -> RandScore | None:
    """The foreground-restricted Rand score V^Rand (Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142).

    Objects are connected components of the pixels that are no borders; pixels are connected across their edges, voxels
    across their faces. Pixels of the predicted borders join the nearest object, as a thin border would leave them.

    Args:
        borders: bool, of any number of axes: the pixels of predicted borders between objects.
        labeled: bool, of the same shape: the pixels of true borders, which do not count.
        ignored: bool, of the same shape: other pixels that do not count; None: none.
        spacing: size of a pixel or voxel along each axis, which decides what is nearest; None: equal sizes.

    Returns:
        None if no pixel counts.

    Raises:
        WavedilError: other types or shapes, or scipy is missing.
    """
    ignored = np.zeros_like(labeled) if ignored is None else ignored
    for name, mask in (("borders", borders), ("labeled", labeled), ("ignored", ignored)):
        if mask.dtype != bool or mask.shape != labeled.shape or not mask.ndim:
            raise WavedilError(
                f"{name} is {mask.dtype} of shape {mask.shape}: expected bool of the shape of labeled, {labeled.shape}"
            )
    if spacing is not None and len(spacing) != labeled.ndim:
        raise WavedilError(f"spacing is {shown(spacing)}: expected one number for each of {labeled.ndim} axes")
    return next(_scores([borders], labeled, ignored, spacing))


def _scores(
    predictions: Iterable[np.ndarray], labeled: np.ndarray, ignored: np.ndarray, spacing: Sequence[float] | None
) -> Iterator[RandScore | None]:
    """:func:`rand_score` of several predicted borders."""
    known = ~(labeled | ignored)
    image = import_extra("scipy.ndimage", "medical")
    truth = image.label(~labeled)[0] if known.any() else None
    for borders in predictions:
        yield None if truth is None else _score(_joined(borders, spacing), truth, known)


def _joined(borders: np.ndarray, spacing: Sequence[float] | None) -> np.ndarray:
    """The number of the object that each pixel belongs to or joins, int32; 0 if there is no object."""
    image = import_extra("scipy.ndimage", "medical")
    objects, count = image.label(~borders)
    if count:
        nearest = image.distance_transform_edt(borders, spacing, return_distances=False, return_indices=True)
        flat = objects.reshape(-1)
        for part in _parts(flat.size):
            indices = tuple(axis.reshape(-1)[part] for axis in nearest)
            flat[part] = objects[indices]  # in place: objects are their own nearest ones
    return objects


def _score(found: np.ndarray, truth: np.ndarray, known: np.ndarray) -> RandScore:
    found, truth, known = found.reshape(-1), truth.reshape(-1), known.reshape(-1)
    width = int(found.max()) + 1
    pairs, sizes = np.empty(0, np.int64), np.empty(0, np.int64)
    for part in _parts(len(known)):  # sorting all pixels at a time would need several times their memory
        joint = truth[part][known[part]].astype(np.int64) * width + found[part][known[part]]
        new, number = np.unique(joint, return_counts=True)
        pairs, place = np.unique(np.concatenate([pairs, new]), return_inverse=True)
        sizes = np.bincount(place, np.concatenate([sizes, number]), len(pairs))
    together, true, predicted = (
        float(np.square(each).sum())
        for each in (sizes, np.bincount(pairs // width, sizes), np.bincount(pairs % width, sizes))
    )
    return RandScore(2 * together / (true + predicted), together / true, together / predicted)


def _parts(size: int) -> Iterator[slice]:
    return (slice(first, first + _PART) for first in range(0, size, _PART))


class BorderScores:
    """Mean :class:`RandScore` over images, at each of ``THRESHOLDS`` of the border probability."""

    def __init__(self) -> None:
        import_extra("scipy.ndimage", "medical")  # found before the evaluation
        #: v_rand, split and merge at each threshold, summed over images; the last row counts the images.
        self.sums = torch.zeros(len(THRESHOLDS) + 1, 3, dtype=torch.float64)

    def update(
        self,
        probability: np.ndarray,
        labeled: np.ndarray,
        ignored: np.ndarray,
        spacing: Sequence[float] | None = None,
    ) -> None:
        """Adds one image or volume: the probability of the borders, and the other arguments of :func:`rand_score`."""
        predictions = (probability >= threshold for threshold in THRESHOLDS)
        scores = list(_scores(predictions, labeled, ignored, spacing))
        if scores[0] is not None:
            rows = [[score.v_rand, score.split, score.merge] for score in scores]
            self.sums += torch.tensor([*rows, [1.0] * 3], dtype=torch.float64)

    def figures(self) -> dict[str, Any] | None:
        """See ``DEFINITION``; None if no pixel counts."""
        if not self.sums[-1, 0]:
            return None
        means = (self.sums[:-1] / self.sums[-1]).tolist()
        best = max(range(len(means)), key=lambda index: means[index][0])
        figures = dict(zip(("v_rand", "split", "merge"), means[best], strict=True))
        return figures | {"threshold": THRESHOLDS[best], "v_rand_at_half": means[THRESHOLDS.index(0.5)][0]}


def find_border(border: str, classes: Sequence[str]) -> int:
    """The label of the class of borders; raises WavedilError, with the classes, if there is none of this name."""
    if border not in classes:
        raise WavedilError(f"border is {border!r}: expected {one_of(border, classes)}")
    return list(classes).index(border)


def figures_text(figures: dict[str, Any], items: str = "images") -> str:
    """The figures of :class:`BorderScores` in a sentence."""
    return (
        "V^Rand {v_rand:.4f} (split {split:.4f}, merge {merge:.4f}) at a border probability of {threshold}, the best "
        "on these {items}; {v_rand_at_half:.4f} at 0.5"
    ).format(**figures, items=items)
