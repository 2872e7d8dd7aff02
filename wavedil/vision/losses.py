"""Losses of dense prediction: scores ``(batch, num_classes, height, width)`` and labels ``(batch, height, width)``.

Labels are int64, 255 where a pixel counts nowhere; where none counts the loss is 0, with a gradient of 0. A loss that
weighs classes learns how frequent they are by :meth:`set_frequencies` before training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.losses import WeightedSum
from wavedil.vision.data.labels import IGNORED

__all__ = ["CrossEntropy", "Dice", "Lovasz", "SmoothL1", "WeightedSum", "median_frequency"]

CLASS_WEIGHTS = ("median_frequency", "sqrt_median_frequency")


def median_frequency(counts: Tensor) -> Tensor:
    """Weights ``(num_classes,)`` from the pixels of each class in each image, ``(images, num_classes)``.

    The median of all classes' frequencies over the class's own, where the frequency of a class is its share of the
    pixels of the images it occurs in (Eigen & Fergus 2015, arXiv 1411.4734, section 6.3.2). Pixels that count nowhere
    are not among them. A class that never occurs weighs 1.
    """
    counts = counts.double()
    sizes = (counts.sum(1, keepdim=True) * (counts > 0)).sum(0)
    frequency = counts.sum(0) / sizes
    there = sizes > 0
    # The mean of the middle two, where torch.median takes the lower.
    return torch.where(there, frequency[there].quantile(0.5) / frequency, 1.0).float()


class CrossEntropy(nn.Module):
    """Mean of -log p(label) over the pixels that count; weighted by class as in ``torch.nn.CrossEntropyLoss``.

    Args:
        class_weights: ``"median_frequency"`` (see :func:`median_frequency`), ``"sqrt_median_frequency"`` (its square
            root, which gives rare classes less), one weight for each class, or None.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(self, class_weights: str | Sequence[float] | None = None, label_smoothing: float = 0.0):
        super().__init__()
        if isinstance(class_weights, str) and class_weights not in CLASS_WEIGHTS:
            raise WavedilError(f"class_weights is {class_weights!r}: expected {', '.join(CLASS_WEIGHTS)} or numbers")
        self.class_weights, self.label_smoothing = class_weights, label_smoothing
        fixed = None if class_weights is None or isinstance(class_weights, str) else torch.tensor(class_weights)
        self.register_buffer("weight", fixed, persistent=False)

    def set_frequencies(self, counts: Tensor) -> None:
        """``counts``: pixels of each class in each training image, ``(images, num_classes)``."""
        if isinstance(self.class_weights, str):
            weight = median_frequency(counts)
            self.weight = weight.sqrt() if self.class_weights.startswith("sqrt") else weight
        elif self.weight is not None and len(self.weight) != counts.shape[1]:
            raise WavedilError(
                f"class_weights has {len(self.weight)} numbers: expected one for each of {counts.shape[1]}"
            )

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        if isinstance(self.class_weights, str) and self.weight is None:
            raise WavedilError(f"class_weights is {self.class_weights!r}: call set_frequencies first")
        if not (labels != IGNORED).any():
            return scores.sum() * 0
        return F.cross_entropy(
            scores.float(), labels, self.weight, ignore_index=IGNORED, label_smoothing=self.label_smoothing
        )


class Dice(nn.Module):
    """1 - the Dice coefficient of probabilities and labels, the mean over the classes that occur in the batch.

    After Milletari et al. 2016, arXiv 1606.04797, with the sum of probabilities in the place of their squares:
    2 sum(p y) / (sum(p) + sum(y)), over all pixels of the batch that count.
    """

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        probabilities, truth = _at_counting_pixels(scores, labels)
        overlap, pixels = (probabilities * truth).sum(1), truth.sum(1)
        dice = 2 * overlap / (probabilities.sum(1) + pixels).clamp(min=1e-7)
        occurring = pixels > 0
        return ((1 - dice) * occurring).sum() / occurring.sum().clamp(min=1)


class Lovasz(nn.Module):
    """Lovász-softmax: the convex extension of 1 - IoU, the mean over the classes that occur in the batch.

    Berman et al. 2018, arXiv 1705.08790, algorithm 1 and equation 12, over all pixels of the batch that count.
    """

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        probabilities, truth = _at_counting_pixels(scores, labels)
        errors, order = (truth - probabilities).abs().sort(dim=1, descending=True)
        truth = truth.gather(1, order)
        pixels = truth.sum(1, keepdim=True)
        # 1 - IoU when the pixels up to here are all wrong; its increments are the extension's slopes.
        jaccard = 1 - (pixels - truth.cumsum(1)) / (pixels + (1 - truth).cumsum(1))
        slopes = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
        occurring = pixels[:, 0] > 0
        return ((errors * slopes).sum(1) * occurring).sum() / occurring.sum().clamp(min=1)


class SmoothL1(nn.Module):
    """Of values ``(batch, 1, height, width)`` and targets ``(batch, height, width)``: the mean over those not NaN.

    Args:
        beta: errors below it count as their square / (2 beta), others as themselves less beta / 2. With 0 it is L1.
    """

    def __init__(self, beta: float = 0.0):
        super().__init__()
        if beta < 0:
            raise WavedilError(f"beta is {beta}: expected 0 (L1) or an error below which to count squares")
        self.beta = beta

    def forward(self, values: Tensor, targets: Tensor) -> Tensor:
        counts = ~targets.isnan()
        if not counts.any():
            return values.sum() * 0
        return F.smooth_l1_loss(values[:, 0].float()[counts], targets[counts], beta=self.beta)


def _at_counting_pixels(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot labels, ``(num_classes, pixels)``, at the pixels that count."""
    counts = labels != IGNORED
    probabilities = scores.float().softmax(1).transpose(0, 1)[:, counts]
    truth = F.one_hot(labels[counts], scores.shape[1]).T.to(probabilities.dtype)
    return probabilities, truth
