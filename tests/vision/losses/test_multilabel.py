"""Losses of labels with several classes per pixel: against segmentation_models.pytorch, and each class alone."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.vision.losses import (
    BinaryCrossEntropy,
    BoundaryLoss,
    CrossEntropy,
    Dice,
    FocalLoss,
    Lovasz,
    OHEMCrossEntropy,
    Tversky,
)
from wavedil.vision.multilabel_evaluation import MultilabelCounts

LOSSES = [BinaryCrossEntropy(), Dice(), Tversky(), FocalLoss(), OHEMCrossEntropy(), Lovasz()]


@pytest.fixture
def smp():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries it imports
        return pytest.importorskip("segmentation_models_pytorch").losses


def example(size=(7, 9), classes=3, ignored=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(2, classes, *size, generator=generator, dtype=dtype)
    labels = torch.randint(0, 2, scores.shape, generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return scores, labels


def grad(loss, scores, labels):
    scores = scores.clone().requires_grad_()
    value = loss(scores, labels)
    value.backward()
    return value.detach(), scores.grad


def test_binary_cross_entropy_by_hand():
    scores, labels = example(ignored=0.3)
    weights, p, known = torch.tensor([1.0, 2.0, 0.5]), scores.sigmoid(), labels != 255
    terms = -torch.where(labels == 1, weights.view(3, 1, 1) * p.log(), (1 - p).log())[known]
    torch.testing.assert_close(BinaryCrossEntropy([1, 2, 0.5])(scores, labels), terms.mean())
    expected = F.binary_cross_entropy_with_logits(scores[known], labels[known].double())
    torch.testing.assert_close(BinaryCrossEntropy()(scores, labels), expected)


@pytest.mark.parametrize("name", ["dice", "tversky", "focal", "lovasz"])
def test_equal_to_segmentation_models_pytorch(smp, name):
    scores, labels = example(dtype=torch.float32)
    ours, theirs = {
        "dice": (Dice(), smp.DiceLoss("multilabel")),
        "tversky": (Tversky(0.3, 0.7), smp.TverskyLoss("multilabel", alpha=0.3, beta=0.7)),
        "focal": (FocalLoss(2.0), smp.FocalLoss("multilabel", gamma=2.0)),
        "lovasz": (Lovasz(), None),
    }[name]
    if theirs is None:  # theirs is Lovasz hinge; ours of two classes is their softmax, with scores 0 for the other
        found = torch.stack([ours(scores[:, [label]], labels[:, [label]]) for label in range(3)])
        torch.testing.assert_close(ours(scores, labels), found.mean())
        return
    expected = grad(theirs, scores, labels.float())
    for one, other in zip(grad(ours, scores, labels), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [FocalLoss(), OHEMCrossEntropy(0.5, 0.1)])
def test_one_class_is_a_softmax_of_two_whose_other_score_is_0(loss):
    scores, labels = example(classes=1, ignored=0.2)
    two = torch.cat([torch.zeros_like(scores), scores], 1)
    torch.testing.assert_close(loss(scores, labels), loss(two, labels[:, 0]))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_ignored_classes_of_pixels_volumes_and_gradients(loss):
    scores, labels = example((2, 3, 2), ignored=0.3)
    labels[:, 2] %= 255  # class 2 has no ignored pixel
    value, slope = grad(loss, scores, labels)
    ignored = labels == 255
    assert (slope[ignored] == 0).all() and (slope[~ignored] != 0).any()
    torch.testing.assert_close(loss(scores.masked_fill(ignored, 3.0), labels), value)
    flat = loss(scores.flatten(2), labels.flatten(2))  # the same pixels in one axis
    torch.testing.assert_close(flat, value)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), scores.requires_grad_())
    value, slope = grad(loss, scores.detach(), torch.full_like(labels, 255))
    assert value == 0 and (slope == 0).all()


def test_refusals():
    scores, labels = example()
    with pytest.raises(WavedilError, match="labels have one: use CrossEntropy"):
        BinaryCrossEntropy()(scores, labels[:, 0])
    with pytest.raises(WavedilError, match="positive_weight has 2 numbers: expected one for each of 3 classes"):
        BinaryCrossEntropy([1, 2]).set_frequencies(torch.ones(1, 3))
    BinaryCrossEntropy(2.0).set_frequencies(torch.ones(1, 3))
    for weight in (-1.0, "x", [1.0, float("nan")]):
        with pytest.raises(WavedilError, match="positive_weight"):
            BinaryCrossEntropy(weight)
    for loss in (Dice(), FocalLoss(), OHEMCrossEntropy()):
        with pytest.raises(WavedilError, match=r"labels have shape \(2, 2, 7, 9\)"):
            loss(scores, labels[:, :2])


EVERY = [*LOSSES[1:], CrossEntropy(), BoundaryLoss()]


@pytest.mark.parametrize("loss", [*EVERY, BinaryCrossEntropy()], ids=lambda loss: type(loss).__name__)
def test_labels_that_are_no_classes_are_refused(loss):
    """A mask of 0 and 128, or the labels of another number of classes, would train without an error."""
    scores, labels = example()
    for value in (2, 128, 256, -1, 0.5) if not isinstance(loss, CrossEntropy) else ():
        wrong = labels.to(torch.float32 if value == 0.5 else torch.int64).masked_fill(labels == 1, value)
        with pytest.raises(WavedilError, match=f"labels have the value {value:g}: expected 0 or 1 for each class"):
            loss(scores, wrong)
    for value in (3, 254, 256, -1, -100) if loss in EVERY else ():
        with pytest.raises(WavedilError, match=f"labels have the value {value}: expected 0 to 2, the classes"):
            loss(scores, labels[:, 0].clone().fill_(value))
    for kind in (torch.int32, torch.uint8, torch.float32, torch.bool) if loss in EVERY else ():
        with pytest.raises(WavedilError, match=f"labels have the type {kind}: expected torch.int64"):
            loss(scores, labels[:, 0].to(kind))


def test_counts_of_an_evaluation_refuse_them_too():
    with pytest.raises(WavedilError, match="labels have the value 3"):
        MultilabelCounts(2).update(torch.zeros(2, 3, 4, dtype=torch.bool), torch.full((2, 3, 4), 3))
