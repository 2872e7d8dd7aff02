"""The boundary loss: against loops over pixels, its gradient, and masks without a boundary."""

import itertools
import math

import numpy as np
import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.vision import BoundaryLoss
from wavedil.vision.losses import signed_distance

SIZES = [(6, 5), (1, 6), (2, 4, 3)]


def distance_by_loop(mask, known):
    """Signed distances, from each pixel to each other."""
    pixels = list(itertools.product(*map(range, mask.shape)))
    inside, outside = ([p for p in pixels if known[p] and mask[p] == side] for side in (True, False))
    found = np.zeros(mask.shape)
    if inside and outside:
        for p in pixels:
            is_inside = mask[p] and known[p]
            nearest = min(math.dist(p, q) for q in (outside if is_inside else inside))
            found[p] = 1 - nearest if is_inside else nearest
    return found


def example(size, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, classes, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (2, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    labels[1][labels[1] == 1] = 2  # the second image has no class 1
    return scores, labels


@pytest.mark.parametrize("classes", [None, [1, 2]])
@pytest.mark.parametrize("size", SIZES)
def test_equal_to_a_loop_over_pixels(size, classes):
    scores, labels = example(size)
    known, terms = labels != 255, []
    for image, label in itertools.product(range(2), classes or range(3)):
        distance = torch.from_numpy(distance_by_loop((labels[image] == label).numpy(), known[image].numpy()))
        terms.append((scores[image].softmax(0)[label] * distance)[known[image]])
    torch.testing.assert_close(BoundaryLoss(classes)(scores, labels), torch.cat(terms).mean())


@pytest.mark.parametrize("size", SIZES)
def test_labels_of_several_classes_use_the_sigmoid(size):
    scores, one = example(size, classes=2)
    labels = torch.stack([one, 2 - one], 1).clamp(0, 1)
    labels[one.unsqueeze(1).expand_as(labels) == 255] = 255
    labels[0, 1] = 255
    terms = []
    for image, label in itertools.product(range(2), range(2)):
        known = (labels[image, label] != 255).numpy()
        distance = torch.from_numpy(distance_by_loop((labels[image, label] == 1).numpy(), known))
        terms.append((scores[image, label].sigmoid() * distance)[torch.from_numpy(known)])
    torch.testing.assert_close(BoundaryLoss()(scores, labels), torch.cat(terms).mean())


@pytest.mark.parametrize("size", [(1, 6), (2, 2, 3)])
def test_gradients(size):
    scores, labels = example(size)
    assert torch.autograd.gradcheck(lambda x: BoundaryLoss()(x, labels), scores.requires_grad_())
    several = torch.stack([labels == 0, labels == 1, labels == 2], 1).long()
    assert torch.autograd.gradcheck(lambda x: BoundaryLoss()(x, several), scores)


@pytest.mark.parametrize("label", [0, 1, 255])
def test_constant_masks_have_no_boundary(label):
    assert (signed_distance(np.full((3, 4), label == 1)) == 0).all()
    scores = torch.randn(2, 2, 3, 4, requires_grad=True)
    loss = BoundaryLoss()(scores, torch.full((2, 3, 4), label))
    loss.backward()
    assert loss == 0 and (scores.grad == 0).all()


def test_the_true_mask_is_the_minimum_and_bfloat16_is_taken():
    labels = torch.zeros(1, 12, 12, dtype=torch.int64)
    labels[:, 3:9, 3:9] = 1
    right = 50.0 * torch.stack([labels == 0, labels == 1], 1)
    values = {shift: BoundaryLoss()(right.roll(shift, 2).bfloat16(), labels).item() for shift in (0, 1, 3)}
    assert values[0] < 0 and values[0] < values[1] < values[3]


def test_refusals():
    scores, labels = example((3, 4))
    for classes, message in (([], "classes is empty"), ([-1], "classes"), ("x", "classes")):
        with pytest.raises(WavedilError, match=message):
            BoundaryLoss(classes)
    with pytest.raises(WavedilError, match=r"classes is \[1, 3\]: expected labels from 0 to 2"):
        BoundaryLoss([1, 3])(scores, labels)
