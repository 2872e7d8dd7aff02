"""Mean intersection over union, exactly: counted over all pixels of all images, never averaged over images."""

from __future__ import annotations

import torch
from torch import Tensor

from wavedil.vision.data.labels import IGNORED

DEFINITION = (
    "mean over classes of TP / (TP + FP + FN), as a fraction, each counted over all pixels of all images whose label "
    "counts (ignored ones are left out, whatever is predicted there); a class that is neither labeled nor predicted "
    "anywhere is left out of the mean"
)


class ConfusionMatrix:
    """Pixels by label and prediction, added up image by image: ``matrix[label, prediction]``, int64.

    Args:
        num_classes: labels are 0 … num_classes - 1, or 255 for pixels that count nowhere.
        device: of the sums.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        self.num_classes = num_classes
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Both integers of one shape, any."""
        counts = labels != IGNORED
        pairs = labels[counts].long() * self.num_classes + predictions[counts].long()
        self.matrix += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.matrix)

    @property
    def count(self) -> int:
        """Pixels counted."""
        return int(self.matrix.sum())

    @property
    def iou(self) -> Tensor:
        """Of each class, float64 ``(num_classes,)``; NaN where it is neither labeled nor predicted."""
        hits = self.matrix.diagonal().double()
        return hits / (self.matrix.sum(0) + self.matrix.sum(1) - hits)

    @property
    def mean_iou(self) -> float:
        """See :data:`DEFINITION`; NaN before any pixel."""
        return float(self.iou.nanmean())

    @property
    def accuracy(self) -> float:
        """Share of the pixels that are right."""
        return float(self.matrix.diagonal().sum() / self.matrix.sum())


ERRORS = (
    "over all pixels of all images whose target is known: rmse is the root of the mean of (value - target)^2, abs_rel "
    "the mean of |value - target| / |target|"
)


class RegressionMetrics:
    """Errors of values, added up image by image in float64."""

    def __init__(self, device: torch.device | str = "cpu"):
        #: Pixels, sum of squared errors, sum of relative errors.
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def update(self, values: Tensor, targets: Tensor) -> None:
        """Both of one shape, any; targets that are NaN count nowhere."""
        counts = ~targets.isnan()
        target = targets[counts].double()
        off = values[counts].double() - target
        ones = off.new_tensor(off.numel())
        self.sums += torch.stack([ones, off.square().sum(), (off / target).abs().sum()])

    @property
    def count(self) -> int:
        """Pixels counted."""
        return int(self.sums[0])

    @property
    def rmse(self) -> float:
        """See :data:`ERRORS`; NaN before any pixel."""
        return float((self.sums[1] / self.sums[0]).sqrt())

    @property
    def abs_rel(self) -> float:
        return float(self.sums[2] / self.sums[0])
