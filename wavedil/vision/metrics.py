"""Metrics of dense prediction, summed over the pixels of all images (not averaged over images).

torchmetrics is not used: evaluation must run without the extra ``train``, and its mean squared error sums in float32.
The tests check that both give the same figures. :mod:`wavedil.vision.boundary_f1` measures boundaries.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from wavedil.core.schema import Classes, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError
from wavedil.vision.data.labels import IGNORED

DEFINITION = (
    "mean over classes of TP / (TP + FP + FN), as a fraction; TP, FP and FN are counted over all pixels of all images "
    "whose label is not the ignore label, whatever is predicted there; classes that are neither labeled nor predicted "
    "anywhere are left out of the mean"
)

#: Of the other figures of a class.
CLASS_DEFINITIONS = {
    "recall": "TP / (TP + FN), the accuracy on the pixels of the class",
    "precision": "TP / (TP + FP)",
    "f1": "2 TP / (2 TP + FP + FN), the Dice coefficient",
    "pixels": "TP + FN, the pixels labeled as the class",
}


def check_labels(predictions: Any, labels: Any, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions and labels as tensors, and which pixels are not ignored.

    Raises:
        WavedilError: other types than integers, different shapes, or classes out of range.
    """
    predictions = to_tensor("predictions", predictions, floating=False)
    labels = to_tensor("labels", labels, floating=False)
    if predictions.shape != labels.shape:
        raise WavedilError(
            f"predictions have shape {tuple(predictions.shape)} and labels {tuple(labels.shape)}: expected the same"
        )
    known = labels != IGNORED
    for name, classes in (("predictions", predictions[known]), ("labels", labels[known])):
        if bool(((classes < 0) | (classes >= num_classes)).any()):
            raise WavedilError(f"{name} span {int(classes.min())}..{int(classes.max())}: expected 0..{num_classes - 1}")
    return predictions, labels, known


def finite(values: Tensor) -> list[float | None]:
    """Figures for JSON: None where they are NaN."""
    return [None if value != value else value for value in values.tolist()]


class ClassCounts:
    """Figures of each class, float64 ``(num_classes,)``, NaN where they are 0 / 0.

    Args:
        counts: correct (TP), predicted (TP + FP) and labeled (TP + FN) pixels, int64 ``(3, num_classes)``.
    """

    def __init__(self, counts: Tensor):
        self.counts = counts

    @property
    def iou(self) -> Tensor:
        """TP / (TP + FP + FN); NaN for classes that are neither labeled nor predicted."""
        correct, predicted, labeled = self.counts.double()
        return correct / (predicted + labeled - correct)

    @property
    def recall(self) -> Tensor:
        """TP / (TP + FN), the accuracy on the pixels of a class; NaN for classes that are not labeled."""
        correct, _, labeled = self.counts.double()
        return correct / labeled

    @property
    def precision(self) -> Tensor:
        """TP / (TP + FP); NaN for classes that are not predicted."""
        correct, predicted, _ = self.counts.double()
        return correct / predicted

    @property
    def f1(self) -> Tensor:
        """2 TP / (2 TP + FP + FN), the Dice coefficient; NaN for classes that are neither labeled nor predicted."""
        correct, predicted, labeled = self.counts.double()
        return 2 * correct / (predicted + labeled)

    @property
    def mean_iou(self) -> float:
        """See :data:`DEFINITION`; NaN before the first pixel."""
        return float(self.iou.nanmean())

    def by_class(self, names: Sequence[str], **others: Tensor) -> dict[str, dict[str, Any]]:
        """The figures of each class by its name, for JSON: None where they are NaN.

        Args:
            names: of the classes.
            others: further figures, ``(num_classes,)``.
        """
        figures = {"iou": self.iou, "recall": self.recall, "precision": self.precision, "f1": self.f1} | others
        columns = {key: finite(values) for key, values in figures.items()} | {"pixels": self.counts[2].tolist()}
        return {name: {key: values[index] for key, values in columns.items()} for index, name in enumerate(names)}


class ConfusionMatrix(ClassCounts):
    """Pixel counts by label and prediction, summed over images: ``matrix[label, prediction]``, int64.

    Args:
        num_classes: labels are 0 to num_classes - 1, or 255 for ignored pixels.
        device: device of the counts.
    """

    @checked
    def __init__(self, num_classes: Classes, device: torch.device | str = "cpu"):
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds integer predictions and labels of the same shape.

        Raises:
            WavedilError: other types or shapes, or classes out of range; a prediction may be any at ignored pixels.
        """
        predictions, labels, known = check_labels(predictions, labels, self.num_classes)
        indices = labels[known].long() * self.num_classes + predictions[known].long()
        self.matrix += torch.bincount(indices, minlength=self.num_classes**2).view_as(self.matrix)

    def entries(self) -> list[list[int]]:
        """The counts above 0 as ``[label, prediction, count]``."""
        counts = self.matrix.cpu()
        return [[row, column, int(counts[row, column])] for row, column in counts.nonzero().tolist()]

    def add_entries(self, entries: Iterable[Sequence[int]]) -> None:
        """Adds the :meth:`entries` of another matrix."""
        for row, column, count in entries:
            self.matrix[row, column] += count

    @property
    def count(self) -> int:
        """Number of pixels that are not ignored."""
        return int(self.matrix.sum())

    @property
    def counts(self) -> Tensor:
        """Correct, predicted and labeled pixels of each class."""
        return torch.stack([self.matrix.diagonal(), self.matrix.sum(0), self.matrix.sum(1)])

    @property
    def row_shares(self) -> Tensor:
        """Shares of the predictions among the pixels of each label, float64; 0 for labels without pixels."""
        return self.matrix / self.matrix.sum(1, keepdim=True).clamp(min=1).double()

    @property
    def accuracy(self) -> float:
        """Fraction of pixels with the correct class."""
        return float(self.matrix.diagonal().sum() / self.matrix.sum())


REGRESSION_DEFINITION = (
    "over all pixels of all images with a known target: rmse is the root of the mean of (value - target)^2, abs_rel is "
    "the mean of |value - target| / |target|"
)


class RegressionMetrics:
    """Squared and relative errors, summed over images in float64.

    Args:
        device: device of the sums.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        #: Number of pixels, sum of squared errors, sum of relative errors.
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def update(self, values: Tensor, targets: Tensor) -> None:
        """Adds values and targets of the same shape; pixels with target NaN are ignored."""
        known = ~targets.isnan()
        target = targets[known].double()
        error = values[known].double() - target
        count = error.new_tensor(error.numel())
        self.sums += torch.stack([count, error.square().sum(), (error / target).abs().sum()])

    @property
    def count(self) -> int:
        """Number of pixels with a known target."""
        return int(self.sums[0])

    @property
    def rmse(self) -> float:
        """Root mean squared error; NaN before the first pixel."""
        return float((self.sums[1] / self.sums[0]).sqrt())

    @property
    def abs_rel(self) -> float:
        """Mean relative error as a fraction; NaN before the first pixel."""
        return float(self.sums[2] / self.sums[0])
