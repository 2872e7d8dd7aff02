"""Losses of single pixels: cross entropy and its variants."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError, count_text
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.losses.targets import full_precision, is_multilabel, nats

Weight = Annotated[float, Range(0, 1e9)]
Fraction = Annotated[float, Range(0, 1)]
CLASS_WEIGHTS = ("median_frequency", "sqrt_median_frequency")


def median_frequency(counts: Tensor) -> Tensor:
    """Median-frequency class weights ``(num_classes,)`` from the pixels of each class in each image.

    The weight of a class is the median of all class frequencies divided by its own frequency. The frequency of a class
    is its share of the pixels of the images in which it occurs (Eigen & Fergus 2015, arXiv 1411.4734, section 6.3.2).
    Classes that never occur have weight 1.

    Args:
        counts: ``(images, num_classes)``, without ignored pixels.
    """
    counts = counts.double()
    sizes = (counts.sum(1, keepdim=True) * (counts > 0)).sum(0)
    frequency = counts.sum(0) / sizes
    occurs = sizes > 0
    # quantile: the mean of the middle two, where torch.median returns the lower one.
    return torch.where(occurs, frequency[occurs].quantile(0.5) / frequency, 1.0).float()


class CrossEntropy(nn.Module):
    """Mean of -log p(label) over the pixels that are not ignored, with class weights as in ``nn.CrossEntropyLoss``.

    Args:
        class_weights: ``"median_frequency"`` (see :func:`median_frequency`), ``"sqrt_median_frequency"`` (its square
            root, a milder weighting of rare classes), one weight for each class, or None.
        label_smoothing: fraction of the target probability that is distributed over all classes.
    """

    @checked
    def __init__(
        self,
        class_weights: str | Sequence[Weight] | None = None,
        label_smoothing: Annotated[float, Range(0, 1)] = 0.0,
    ):
        super().__init__()
        if isinstance(class_weights, str) and class_weights not in CLASS_WEIGHTS:
            raise WavedilError(f"class_weights is {class_weights!r}: expected {', '.join(CLASS_WEIGHTS)} or numbers")
        self.class_weights, self.label_smoothing = class_weights, label_smoothing
        fixed = None if class_weights is None or isinstance(class_weights, str) else torch.tensor(class_weights)
        self.register_buffer("weight", fixed, persistent=False)

    def set_frequencies(self, counts: Tensor) -> None:
        """Computes the class weights from the pixels of each class in each image, ``(images, num_classes)``."""
        if isinstance(self.class_weights, str):
            weight = median_frequency(counts)
            self.weight = weight.sqrt() if self.class_weights.startswith("sqrt") else weight
        else:
            _check_count("class_weights", self.weight, counts.shape[1])

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        if isinstance(self.class_weights, str) and self.weight is None:
            raise WavedilError(f"class_weights is {self.class_weights!r}: call set_frequencies first")
        if is_multilabel(scores, labels):
            raise WavedilError(
                "CrossEntropy is for one class per pixel, and these labels have several: use BinaryCrossEntropy"
            )
        scores, known = full_precision(scores), labels != IGNORED
        weight = None if self.weight is None else self.weight.to(scores.dtype)
        total = known.sum() if weight is None else (weight[torch.where(known, labels, 0)] * known).sum()
        options = {"ignore_index": IGNORED, "label_smoothing": self.label_smoothing, "reduction": "sum"}
        # 0 without a labeled pixel, and if all of them have weight 0.
        return F.cross_entropy(scores, labels, weight, **options) / torch.where(total > 0, total, 1)


class BinaryCrossEntropy(nn.Module):
    """Cross entropy of each class on its own, for pixels that may have several classes.

    The mean over pixels and classes that are not ignored of -w log p where the class is, and -log(1 - p) where it is
    not; p is the sigmoid of the score. As ``nn.BCEWithLogitsLoss``.

    Args:
        positive_weight: w, one number or one for each class; above 1, recall grows and precision falls.
    """

    @checked
    def __init__(self, positive_weight: Weight | Sequence[Weight] = 1.0):
        super().__init__()
        self.register_buffer("weight", torch.tensor(positive_weight, dtype=torch.float32), persistent=False)

    def set_frequencies(self, counts: Tensor) -> None:
        """Checks the number of weights for the classes of the data, ``(images, num_classes)``."""
        if self.weight.ndim:
            _check_count("positive_weight", self.weight, counts.shape[1])

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        if not is_multilabel(scores, labels):
            raise WavedilError(
                "BinaryCrossEntropy is for several classes per pixel, and these labels have one: use CrossEntropy"
            )
        weight = self.weight.to(scores.dtype).view(-1, *[1] * (scores.ndim - 2))
        losses = nats(scores, labels) * torch.where(labels == 1, weight, 1)
        return losses.sum() / (labels != IGNORED).sum().clamp(min=1)


def _check_count(name: str, weights: Tensor | None, num_classes: int) -> None:
    if weights is not None and len(weights) != num_classes:
        raise WavedilError(
            f"{name} has {count_text(len(weights), 'number')}: expected one for each of {num_classes} classes"
        )


class FocalLoss(nn.Module):
    """Mean of -(1 - p)^gamma log p over the pixels that are not ignored, with p = p(label).

    Lin et al. 2017, arXiv 1708.02002, equation 4: easy pixels count less.

    Args:
        gamma: 0 is the cross entropy.
    """

    @checked
    def __init__(self, gamma: Annotated[float, Range(0, 100)] = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        losses = nats(scores, labels)
        hard = (1 - (-losses).exp()).clamp(min=0)
        # The gradient of a power below 1 is infinite at 0.
        weights = torch.where(hard > 0, hard.clamp(min=1e-7) ** self.gamma, 0.0 if self.gamma else 1.0)
        return (weights * losses).sum() / (labels != IGNORED).sum().clamp(min=1)


class OHEMCrossEntropy(nn.Module):
    """Cross entropy of the hardest pixels only (online hard example mining, OHEM).

    The mean over the pixels with p(label) below ``threshold``, and over at least the fraction ``min_kept`` of all
    pixels that are not ignored, the hardest ones. After Shrivastava et al. 2016, arXiv 1604.03540.
    """

    @checked
    def __init__(self, threshold: Fraction = 0.7, min_kept: Fraction = 0.0625):
        super().__init__()
        self.threshold, self.min_kept = threshold, min_kept

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        labeled = (labels != IGNORED).flatten()
        losses = nats(scores, labels).flatten()
        order = torch.where(labeled, losses.detach(), -1).argsort(descending=True)
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(losses), device=losses.device))
        kept = (losses.detach() > -math.log(max(self.threshold, 1e-30))) | (rank < self.min_kept * labeled.sum())
        kept = kept & labeled
        return (losses * kept).sum() / kept.sum().clamp(min=1)
