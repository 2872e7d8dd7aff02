"""Metrics of dense prediction, summed over the pixels of all images (not averaged over images).

torchmetrics is not used: evaluation must run without the extra ``train``, and its mean squared error sums in float32.
The tests check that both give the same mean IoU.
"""

from collections.abc import Iterable, Sequence

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


class ConfusionMatrix:
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
        predictions = to_tensor("predictions", predictions, floating=False)
        labels = to_tensor("labels", labels, floating=False)
        if predictions.shape != labels.shape:
            raise WavedilError(
                f"predictions have shape {tuple(predictions.shape)} and labels {tuple(labels.shape)}: expected the same"
            )
        valid = labels != IGNORED
        for name, classes in (("predictions", predictions[valid]), ("labels", labels[valid])):
            if bool(((classes < 0) | (classes >= self.num_classes)).any()):
                raise WavedilError(
                    f"{name} span {int(classes.min())}..{int(classes.max())}: expected 0..{self.num_classes - 1}"
                )
        indices = labels[valid].long() * self.num_classes + predictions[valid].long()
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
    def iou(self) -> Tensor:
        """IoU of each class, float64 ``(num_classes,)``; NaN for classes that are neither labeled nor predicted."""
        correct = self.matrix.diagonal().double()
        return correct / (self.matrix.sum(0) + self.matrix.sum(1) - correct)

    @property
    def mean_iou(self) -> float:
        """See :data:`DEFINITION`; NaN before the first pixel."""
        return float(self.iou.nanmean())

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
