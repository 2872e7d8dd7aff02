"""Losses of dense prediction: scores ``(batch, num_classes, height, width)`` and labels ``(batch, height, width)``.

Labels are int64; pixels with label 255 are ignored. If all pixels are ignored, the loss is 0 with a gradient of 0. A
loss with class weights gets the class frequencies by ``set_frequencies`` before training.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError
from wavedil.losses import WeightedSum
from wavedil.vision.data.labels import IGNORED

__all__ = [
    "CrossEntropy",
    "Dice",
    "Focal",
    "HardPixels",
    "Lovasz",
    "SmoothL1",
    "Tversky",
    "WeightedSum",
    "median_frequency",
]

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
        label_smoothing: share of the target that is distributed over all classes.
    """

    def __init__(self, class_weights: str | Sequence[float] | None = None, label_smoothing: float = 0.0):
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
        elif self.weight is not None and len(self.weight) != counts.shape[1]:
            raise WavedilError(
                f"class_weights has {len(self.weight)} numbers: expected one for each of {counts.shape[1]} classes"
            )

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        if isinstance(self.class_weights, str) and self.weight is None:
            raise WavedilError(f"class_weights is {self.class_weights!r}: call set_frequencies first")
        # The loss is 0 without a labeled pixel. Not "if", which would wait for the device and could not be compiled.
        some = (labels != IGNORED).any()
        labels = torch.where(some, labels, 0)
        weight = None if self.weight is None else torch.where(some, self.weight, 1)
        options = {"ignore_index": IGNORED, "label_smoothing": self.label_smoothing}
        return F.cross_entropy(scores.float(), labels, weight, **options) * some


class Focal(nn.Module):
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
        nats = _nats(scores, labels)
        hard = (1 - (-nats).exp()).clamp(min=0)
        # The gradient of a power below 1 is infinite at 0.
        weights = torch.where(hard > 0, hard.clamp(min=1e-7) ** self.gamma, 0.0 if self.gamma else 1.0)
        return (weights * nats).sum() / (labels != IGNORED).sum().clamp(min=1)


class HardPixels(nn.Module):
    """Cross entropy of the hardest pixels only (online hard example mining, OHEM).

    The mean over the pixels with p(label) below ``threshold``, and over at least the share ``least`` of all pixels that
    are not ignored, the hardest ones. After Shrivastava et al. 2016, arXiv 1604.03540.
    """

    @checked
    def __init__(self, threshold: Annotated[float, Range(0, 1)] = 0.7, least: Annotated[float, Range(0, 1)] = 0.0625):
        super().__init__()
        self.threshold, self.least = threshold, least

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        labeled = (labels != IGNORED).flatten()
        nats = _nats(scores, labels).flatten()
        order = torch.where(labeled, nats.detach(), -1).sort(descending=True)
        rank = torch.empty_like(order.indices).scatter_(0, order.indices, torch.arange(len(nats), device=nats.device))
        kept = (nats.detach() > -math.log(max(self.threshold, 1e-30))) | (rank < self.least * labeled.sum())
        kept = kept & labeled
        return (nats * kept).sum() / kept.sum().clamp(min=1)


class Tversky(nn.Module):
    """1 - Tversky index of probabilities and labels, averaged over the classes that occur in the batch.

    The index is t / (t + alpha * false positives + beta * false negatives), with sums of probabilities (Salehi et al.
    2017, arXiv 1706.05721). alpha = beta = 0.5 is the Dice loss; a larger beta favors recall.
    """

    @checked
    def __init__(self, alpha: Annotated[float, Range(0, 100)] = 0.3, beta: Annotated[float, Range(0, 100)] = 0.7):
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        probabilities, truth = _select_labeled_pixels(scores, labels)
        hits, pixels = (probabilities * truth).sum(1), truth.sum(1)
        wrong, missed = probabilities.sum(1) - hits, pixels - hits
        index = hits / (hits + self.alpha * wrong + self.beta * missed).clamp(min=1e-7)
        occurs = pixels > 0
        return ((1 - index) * occurs).sum() / occurs.sum().clamp(min=1)


class Dice(nn.Module):
    """1 - Dice coefficient of probabilities and labels, averaged over the classes that occur in the batch.

    After Milletari et al. 2016, arXiv 1606.04797, with the sum of probabilities in place of their squares: 2 sum(p y) /
    (sum(p) + sum(y)), over all pixels of the batch that are not ignored.
    """

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        probabilities, truth = _select_labeled_pixels(scores, labels)
        overlap, pixels = (probabilities * truth).sum(1), truth.sum(1)
        dice = 2 * overlap / (probabilities.sum(1) + pixels).clamp(min=1e-7)
        occurs = pixels > 0
        return ((1 - dice) * occurs).sum() / occurs.sum().clamp(min=1)


class Lovasz(nn.Module):
    """Lovász-softmax: the convex extension of 1 - IoU, averaged over the classes that occur in the batch.

    Berman et al. 2018, arXiv 1705.08790, algorithm 1 and equation 12, over all pixels of the batch that are not
    ignored.
    """

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        probabilities, truth = _select_labeled_pixels(scores, labels)
        errors, order = (truth - probabilities).abs().sort(dim=1, descending=True)
        truth = truth.gather(1, order)
        pixels = truth.sum(1, keepdim=True)
        # 1 - IoU if all pixels up to this one are wrong; its increments are the slopes of the extension.
        jaccard = 1 - (pixels - truth.cumsum(1)) / (pixels + (1 - truth).cumsum(1))
        slopes = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
        occurs = pixels[:, 0] > 0
        return ((errors * slopes).sum(1) * occurs).sum() / occurs.sum().clamp(min=1)


class SmoothL1(nn.Module):
    """Smooth L1 loss of values ``(batch, 1, height, width)`` and targets ``(batch, height, width)``.

    The mean over the pixels whose target is not NaN.

    Args:
        beta: errors below it contribute error^2 / (2 beta), larger ones ``|error| - beta / 2``. 0 is the L1 loss.
    """

    def __init__(self, beta: float = 0.0):
        super().__init__()
        if beta < 0:
            raise WavedilError(f"beta is {beta}: expected 0 (L1) or a positive error below which the loss is quadratic")
        self.beta = beta

    def forward(self, values: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        if not known.any():
            return values.sum() * 0
        return F.smooth_l1_loss(values[:, 0].float()[known], targets[known], beta=self.beta)


def _nats(scores: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) of each pixel, 0 where it is ignored."""
    return F.cross_entropy(scores.float(), labels, ignore_index=IGNORED, reduction="none")


def _select_labeled_pixels(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot labels, ``(num_classes, pixels)``, of the pixels that are not ignored."""
    labeled = labels != IGNORED
    probabilities = scores.float().softmax(1).transpose(0, 1)[:, labeled]
    truth = F.one_hot(labels[labeled], scores.shape[1]).T.to(probabilities.dtype)
    return probabilities, truth
