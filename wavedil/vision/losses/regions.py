"""Losses of the overlap of regions. Each is a mean over the classes that occur in the batch."""

from typing import Annotated

import torch
from torch import Tensor, nn

from wavedil.core.schema import Range, checked
from wavedil.vision.losses.targets import by_class, probabilities_and_truth


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
        probabilities, truth, _ = map(by_class, probabilities_and_truth(scores, labels))
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
        probabilities, truth, _ = map(by_class, probabilities_and_truth(scores, labels))
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
        probabilities, truth, _ = map(by_class, probabilities_and_truth(scores, labels))
        errors, order = (truth - probabilities).abs().sort(dim=1, descending=True)
        truth = truth.gather(1, order)
        pixels = truth.sum(1, keepdim=True)
        # 1 - IoU if all pixels up to this one are wrong; its increments are the slopes of the extension.
        jaccard = 1 - (pixels - truth.cumsum(1)) / (pixels + (1 - truth).cumsum(1))
        slopes = torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], dim=1)
        occurs = pixels[:, 0] > 0
        return ((errors * slopes).sum(1) * occurs).sum() / occurs.sum().clamp(min=1)
