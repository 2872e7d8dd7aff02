"""The foreground-restricted Rand score of objects that are separated by a class of borders, e.g. cells by membranes.

scikit-image's ``adapted_rand_error`` is the same from label images, up to terms of 1 / pixels, but is not a dependency.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wavedil.core.schema import checked
from wavedil.errors import WavedilError
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


@dataclass(frozen=True)
class RandScore:
    """Result of :func:`rand_score`: 0 to 1, and 1 for equal objects."""

    v_rand: float  # the harmonic mean of both
    split: float  # less than 1 if objects are split
    merge: float  # less than 1 if objects are merged


@checked
def rand_score(borders: np.ndarray, labeled: np.ndarray, ignored: np.ndarray | None = None) -> RandScore | None:
    """The foreground-restricted Rand score V^Rand (Arganda-Carreras et al. 2015, Front. Neuroanat. 9:142).

    Objects are connected components of the pixels that are no borders; pixels are connected across their edges, voxels
    across their faces. Pixels of the predicted borders join the nearest object, as a thin border would leave them.

    Args:
        borders: bool, of any number of axes: the pixels of predicted borders between objects.
        labeled: bool, of the same shape: the pixels of true borders, which do not count.
        ignored: bool, of the same shape: other pixels that do not count; None: none.

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
    known = ~labeled & ~ignored
    if not known.any():
        return None
    image = import_extra("scipy.ndimage", "medical")
    predicted, count = image.label(~borders)
    if count:
        nearest = image.distance_transform_edt(borders, return_distances=False, return_indices=True)
        predicted = predicted[tuple(nearest)]
    truth, number = image.label(~labeled)
    joint = truth[known].astype(np.int64) * (count + 1) + predicted[known]
    pairs, sizes = np.unique(joint, return_counts=True)
    sizes = sizes.astype(np.float64)
    true = np.bincount(pairs // (count + 1), sizes, number + 1)
    found = np.bincount(pairs % (count + 1), sizes, count + 1)
    together, true, found = (float(np.square(each).sum()) for each in (sizes, true, found))
    return RandScore(2 * together / (true + found), together / true, together / found)


class BorderScores:
    """Mean :class:`RandScore` over images, at each of ``THRESHOLDS`` of the border probability."""

    def __init__(self) -> None:
        import_extra("scipy.ndimage", "medical")  # found before the evaluation
        #: v_rand, split and merge at each threshold, summed over images; the last row counts the images.
        self.sums = torch.zeros(len(THRESHOLDS) + 1, 3, dtype=torch.float64)

    def update(self, probability: np.ndarray, labeled: np.ndarray, ignored: np.ndarray) -> None:
        """Adds one image: the probability of the borders, and bool arrays as in :func:`rand_score`."""
        scores = [rand_score(probability >= threshold, labeled, ignored) for threshold in THRESHOLDS]
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
