"""Labels of one class per pixel and of several, as the losses need them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.vision.data.labels import IGNORED


def is_multilabel(scores: Tensor, labels: Tensor) -> bool:
    """Whether pixels may have several classes: labels of the shape of the scores.

    Raises:
        WavedilError: labels of another shape than ``(batch, *space)`` or ``(batch, num_classes, *space)``, of another
            type, or with values that are no classes.
    """
    if labels.shape == scores.shape:
        check_binary(labels)
        return True
    if labels.shape != (len(scores), *scores.shape[2:]):
        raise WavedilError(
            f"labels have shape {tuple(labels.shape)} and scores {tuple(scores.shape)}: expected (batch, *space), or "
            "(batch, num_classes, *space) if a pixel may have several classes"
        )
    if labels.dtype != torch.int64:
        raise WavedilError(f"labels have the type {labels.dtype}: expected torch.int64 for one class per pixel")
    last = scores.shape[1] - 1
    _check_values(labels, (labels >= 0) & (labels <= last), f"0 to {last}, the classes of the scores")
    return False


def check_binary(labels: Tensor) -> None:
    """Raises WavedilError unless labels of several classes per pixel are 0, 1 or, where ignored, 255."""
    _check_values(labels, (labels == 0) | (labels == 1), "0 or 1 for each class")


def _check_values(labels: Tensor, is_class: Tensor, expected: str) -> None:
    if torch.compiler.is_compiling():
        return
    valid = is_class | (labels == IGNORED)
    if not valid.all():
        value, ignored = labels[~valid][0].item(), "ignored pixels"
        raise WavedilError(f"labels have the value {value:g}: expected {expected}, and {IGNORED} for {ignored}")


def full_precision(scores: Tensor) -> Tensor:
    """Scores in float32; float64 stays."""
    return scores if scores.dtype == torch.float64 else scores.float()


def nats(scores: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) of each pixel, or of each class at each pixel, in the shape of the labels; 0 where ignored."""
    scores = full_precision(scores)
    if not is_multilabel(scores, labels):
        return F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="none")
    known = labels != IGNORED
    losses = F.binary_cross_entropy_with_logits(scores, (labels * known).to(scores.dtype), reduction="none")
    return torch.where(known, losses, 0.0)


def probabilities_and_truth(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, labels as 0 or 1, and what is not ignored, all ``(batch, num_classes, *space)``.

    Probabilities and labels are 0 where they are ignored.
    """
    scores = full_precision(scores)
    known = labels != IGNORED
    if is_multilabel(scores, labels):
        return scores.sigmoid() * known, (labels * known).to(scores.dtype), known
    known = known.unsqueeze(1)
    truth = F.one_hot(torch.where(known[:, 0], labels, 0), scores.shape[1]).movedim(-1, 1) * known
    return scores.softmax(1) * known, truth.to(scores.dtype), known.expand_as(truth)


def by_class(tensor: Tensor) -> Tensor:
    """``(batch, num_classes, *space)`` as ``(num_classes, pixels)``."""
    return tensor.transpose(0, 1).flatten(1)
