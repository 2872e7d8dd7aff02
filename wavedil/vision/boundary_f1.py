"""Boundary F1: how well the outlines of predicted classes match those of the ground truth."""

import math
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.core.schema import Classes, Range, checked
from wavedil.errors import WavedilError
from wavedil.vision.metrics import check_labels

TOLERANCE = 0.0075
Tolerance = Annotated[float, Range(0, 1, exclude_low=True)]


def definition(tolerance: float) -> str:
    """The definition of boundary F1 in the output of an evaluation."""
    return (
        "for a class in an image, 2 P R / (P + R), where P is the share of the prediction's boundary pixels that are "
        f"less than {100 * tolerance:g} % of the image's diagonal from one of the ground truth, and R the reverse; a "
        "boundary pixel of a class has one of its 4 neighbors in another class, neither ignored; 0 if only one of the "
        "two has any; of a class the mean over the images in which it has any, of all the mean over classes"
    )


class BoundaryF1:
    """F1 score of the boundaries of each class (Csurka et al. 2013, BMVC, section 3).

    For a class in an image, P is the share of the boundary pixels of the prediction whose Euclidean distance to a
    boundary pixel of the ground truth is less than ``tolerance`` times the image's diagonal, R is the same with the two
    exchanged, and the score is 2 P R / (P + R). A boundary pixel of a class has a pixel of another class among its 4
    neighbors; ignored pixels (255 in the labels) and the edge of the image make no boundary, whatever is predicted
    there. The score is 0 if only one of the two has boundary pixels; if neither has, the image does not count for this
    class.

    Masks in which a rim of ignored pixels surrounds every object, as in Pascal VOC, have no boundaries to measure.

    Args:
        num_classes: as in :class:`wavedil.vision.ConfusionMatrix`.
        tolerance: as a fraction of the diagonal; 0.75 % as in the paper.
    """

    @checked
    def __init__(self, num_classes: Classes, tolerance: Tolerance = TOLERANCE):
        self.num_classes, self.tolerance = num_classes, tolerance
        #: Sum of the scores and number of images of each class.
        self.sums = torch.zeros(2, num_classes, dtype=torch.float64)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds one image: integer predictions and labels ``(height, width)``.

        Raises:
            WavedilError: as :meth:`wavedil.vision.ConfusionMatrix.update`, or several images.
        """
        predictions, labels, known = check_labels(predictions, labels, self.num_classes)
        if labels.ndim != 2:
            raise WavedilError(f"labels have shape {tuple(labels.shape)}: expected (height, width) of one image")
        for label in torch.cat([predictions[known], labels[known]]).unique().tolist():
            self.add(label, predictions == label, labels == label, known)

    def add(self, label: int, predicted: Tensor, truth: Tensor, known: Tensor) -> None:
        """Adds the pixels of one class in one image; all are boolean, ``(height, width)``; ``known`` is not ignored."""
        score = boundary_f1(predicted, truth, known, self.tolerance)
        if score is not None:
            self.sums[:, label] += torch.tensor([score, 1.0], dtype=torch.float64)

    @property
    def scores(self) -> Tensor:
        """Mean score of each class over images, float64 ``(num_classes,)``; NaN for classes without boundary pixels."""
        return self.sums[0] / self.sums[1]

    @property
    def mean(self) -> float:
        """Mean over the classes that have a score; NaN if none has."""
        return float(self.scores.nanmean())


def boundary_f1(predicted: Tensor, truth: Tensor, known: Tensor, tolerance: float = TOLERANCE) -> float | None:
    """The score of one class in one image, see :class:`BoundaryF1`; None if neither has boundary pixels."""
    ours, theirs = _boundary(predicted, known), _boundary(truth, known)
    counts = [int(ours.sum()), int(theirs.sum())]
    if not any(counts):
        return None
    if not all(counts):
        return 0.0
    square = tolerance**2 * (truth.shape[0] ** 2 + truth.shape[1] ** 2)
    precision, recall = _share_near(ours, theirs, square), _share_near(theirs, ours, square)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _boundary(mask: Tensor, known: Tensor) -> Tensor:
    """The known pixels of a mask that have a known 4-neighbor outside of it."""
    inside, outside = mask & known, ~mask & known
    found = torch.zeros_like(inside)
    found[1:] |= outside[:-1]
    found[:-1] |= outside[1:]
    found[:, 1:] |= outside[:, :-1]
    found[:, :-1] |= outside[:, 1:]
    return found & inside


def _share_near(points: Tensor, others: Tensor, square: float) -> float:
    """Share of the pixels ``points`` whose squared distance to one of ``others`` is less than ``square``."""
    reach, width = math.isqrt(math.ceil(square) - 1), points.shape[1]
    # Pixels of a row before each column: two look-ups count those of a row of the disc.
    counts = F.pad(others.cumsum(1, dtype=torch.int32), (1, 0, reach, reach))
    rows, columns = points.nonzero(as_tuple=True)
    total = len(rows)
    for dy in sorted(range(-reach, reach + 1), key=abs):  # near rows first: most pixels are found there
        half = math.isqrt(math.ceil(square - dy * dy) - 1)
        first, last = (columns - half).clamp(min=0), (columns + half + 1).clamp(max=width)
        row = rows + (reach + dy)
        far = counts[row, last] == counts[row, first]
        rows, columns = rows[far], columns[far]
    return 1 - len(rows) / total
