"""Boundary loss: probabilities weighted by their distance to the boundary of the ground truth."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError
from wavedil.vision.losses.targets import probabilities_and_truth

Label = Annotated[int, Range(0, 2**16 - 1)]


class BoundaryLoss(nn.Module):
    """Mean of probability times signed distance to the boundary of the class (Kervadec et al. 2019, arXiv 1812.07032).

    Equation 5 of the paper, as a mean over the classes and pixels that are not ignored, in 2-D and 3-D. Distances are
    those of :func:`signed_distance`, in pixels. The minimum is negative: a class predicted on its pixels only.

    Use it beside a loss of regions, as the paper does: :class:`WeightedSum` of :class:`Dice` and this one with weights
    such as 1 and 0.01. Alone, it may end with empty predictions.

    The distances are computed by scipy on the CPU: 21 ms for a class in a mask of 512 x 512 pixels, on one core.

    Args:
        classes: the classes to use, e.g. all but the background as in the paper; None for all.
    """

    @checked
    def __init__(self, classes: Sequence[Label] | None = None):
        super().__init__()
        if classes is not None and not classes:
            raise WavedilError("classes is empty: expected labels, or null for all classes")
        self.classes = classes

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        classes = range(scores.shape[1]) if self.classes is None else self.classes
        if max(classes) >= scores.shape[1]:
            raise WavedilError(f"classes is {list(classes)}: expected labels from 0 to {scores.shape[1] - 1}")
        classes = list(classes)
        probabilities, truth, known = (each[:, classes] for each in probabilities_and_truth(scores, labels))
        distances = torch.zeros_like(probabilities)
        truth, mask = truth.bool().cpu().numpy(), known.cpu().numpy()
        for index in np.ndindex(truth.shape[:2]):
            if truth[index].any():
                distances[index] = torch.from_numpy(signed_distance(truth[index], mask[index])).to(distances)
        return (probabilities * distances).sum() / known.sum().clamp(min=1)


def signed_distance(mask: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Signed Euclidean distance of each pixel to the boundary of a mask, float64.

    Outside of the mask, the distance to its nearest pixel; inside, 1 minus the distance to the nearest pixel outside,
    which is 0 at the boundary pixels of the mask (as in the authors' code). 0 everywhere if the mask has no pixel
    inside or none outside.

    Args:
        mask: boolean, with one axis or more.
        known: which pixels are not ignored; default all. Others are neither inside nor outside; their distance is to
            the pixels inside.
    """
    from scipy.ndimage import distance_transform_edt

    inside, outside = (mask, ~mask) if known is None else (mask & known, ~mask & known)
    if not inside.any() or not outside.any():
        return np.zeros(mask.shape)
    return np.where(inside, 1 - distance_transform_edt(~outside), distance_transform_edt(~inside))
