"""Losses: by hand, against torch and segmentation_models.pytorch, and in their corners."""

import warnings

import pytest
import torch
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.vision.losses import (
    CrossEntropy,
    Dice,
    FocalLoss,
    Lovasz,
    OHEMCrossEntropy,
    Tversky,
    WeightedSum,
    median_frequency,
)


def batch(seed=0, classes=4, ignored=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(2, classes, 7, 9, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (2, 7, 9), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    return scores, labels


@pytest.fixture
def smp():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries it imports
        return pytest.importorskip("segmentation_models_pytorch").losses


def grad(loss, scores, labels):
    scores = scores.clone().requires_grad_()
    value = loss(scores, labels)
    value.backward()
    return value.detach(), scores.grad


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 4.0]])
def test_cross_entropy_is_the_weighted_mean_over_labeled_pixels(weights):
    scores, labels = batch(ignored=0.3)
    total = torch.zeros(2)
    for image, row, column in (labels != 255).nonzero().tolist():
        label = int(labels[image, row, column])
        weight = 1.0 if weights is None else weights[label]
        total += weight * torch.tensor([-scores[image, :, row, column].log_softmax(0)[label], 1.0])
    assert CrossEntropy(weights)(scores, labels) == pytest.approx(float(total[0] / total[1]), rel=1e-5)


def test_median_frequency_of_a_written_out_example():
    # Class 0 is 6 of 10 and 2 of 4 pixels; class 1 is 4 of 10; class 2 is 2 of 4; class 3 never occurs.
    counts = torch.tensor([[6, 4, 0, 0], [2, 0, 2, 0]])
    frequency = torch.tensor([8 / 14, 4 / 10, 2 / 4])
    torch.testing.assert_close(median_frequency(counts), torch.cat([0.5 / frequency, torch.ones(1)]))


def test_class_weights_come_from_the_data():
    scores, labels = batch()
    counts = torch.tensor([[10, 20, 40, 80], [5, 0, 3, 100]])
    for name, power in (("median_frequency", 1), ("sqrt_median_frequency", 0.5)):
        loss = CrossEntropy(name)
        with pytest.raises(WavedilError, match="set_frequencies"):
            loss(scores, labels)
        loss.set_frequencies(counts)
        weight = median_frequency(counts) ** power
        torch.testing.assert_close(loss(scores, labels), F.cross_entropy(scores, labels, weight))
        assert not loss.state_dict()  # weights from the data are not stored in checkpoints


def test_pixels_of_weight_0_only_give_a_loss_of_0():
    scores, labels = batch()
    value, slope = grad(CrossEntropy([0, 1, 1, 1]), scores, torch.zeros_like(labels))
    assert value == 0 and (slope == 0).all()


def test_label_smoothing_and_weights_as_in_torch():
    scores, labels = batch(ignored=0.3)
    expected = F.cross_entropy(scores, labels, torch.tensor([1.0, 2, 0.5, 3]), ignore_index=255, label_smoothing=0.2)
    torch.testing.assert_close(CrossEntropy([1, 2, 0.5, 3], 0.2)(scores, labels), expected)


@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_dice_equals_smps(smp, ignored):
    scores, labels = batch(1, ignored=ignored)
    theirs = smp.DiceLoss("multiclass", ignore_index=255 if ignored else None)
    for ours, other in zip(grad(Dice(), scores, labels), grad(theirs, scores, labels), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


def test_dice_of_a_written_out_example():
    scores = torch.tensor([[[[0.0, 50.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2): probabilities 0.5 and 0.5, then 1 and 0
    labels = torch.tensor([[[0, 0]]])
    assert Dice()(scores, labels) == pytest.approx(1 - 2 * 1.5 / (1.5 + 2))  # class 1 does not occur
    assert Dice()(scores, torch.tensor([[[1, 0]]])) == pytest.approx(1 - (2 / 2.5 + 2 * 0.5 / 1.5) / 2)


@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_lovasz_equals_smps(smp, ignored):
    scores, labels = batch(2, ignored=ignored)
    theirs = smp.LovaszLoss("multiclass", ignore_index=255)
    for ours, other in zip(grad(Lovasz(), scores, labels), grad(theirs, scores, labels), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


def test_lovasz_of_certain_predictions_is_one_minus_mean_iou():
    _, labels = batch(3)
    predictions = torch.where(torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.4, 0, labels)
    iou = [((predictions == c) & (labels == c)).sum() / ((predictions == c) | (labels == c)).sum() for c in range(4)]
    scores = 1000.0 * F.one_hot(predictions, 4).permute(0, 3, 1, 2)
    assert Lovasz()(scores, labels) == pytest.approx(1 - float(sum(iou) / 4), abs=1e-5)


@pytest.mark.parametrize("loss", [CrossEntropy(label_smoothing=0.1), Dice(), Lovasz()])
def test_ignored_pixels_change_neither_loss_nor_gradient(loss):
    scores, labels = batch(4, ignored=0.4)
    value, gradient = grad(loss, scores, labels)
    labeled = (labels != 255).unsqueeze(1).expand_as(scores)
    changed = torch.where(labeled, scores, torch.full_like(scores, 7.0))
    assert loss(changed, labels) == pytest.approx(value.item(), rel=1e-6)
    assert (gradient[~labeled] == 0).all() and (gradient[labeled] != 0).any()
    value, gradient = grad(loss, scores, torch.full_like(labels, 255))
    assert value == 0 and (gradient == 0).all()


def test_a_sum_of_losses():
    scores, labels = batch(5)
    loss = WeightedSum([CrossEntropy("median_frequency"), Dice()], [1.0, 0.5])
    loss.set_frequencies(torch.tensor([[1, 2, 3, 4]]))
    torch.testing.assert_close(
        loss(scores, labels), loss.losses[0](scores, labels) + 0.5 * loss.losses[1](scores, labels)
    )
    assert loss.losses[0](scores, labels) != CrossEntropy()(scores, labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy("inverse"), "class_weights is 'inverse'"),
        (lambda: CrossEntropy([1.0, 2.0]).set_frequencies(torch.ones(1, 3)), "2 numbers: expected one for each of 3"),
        (lambda: CrossEntropy([1.0, -2.0]), r"class_weights\[1\] is -2|class_weights is"),
        (lambda: CrossEntropy(label_smoothing=1.5), "label_smoothing is 1.5"),
        (lambda: CrossEntropy()(*batch()[:1], torch.zeros(2, 4, 7, 9)), "labels have several: use BinaryCrossEntropy"),
        (lambda: CrossEntropy()(batch()[0], torch.zeros(2, 7, 8)), r"labels have shape \(2, 7, 8\)"),
        (lambda: WeightedSum([Dice()], [1.0, 2.0]), "losses has 1 entry and weights 2"),
        (lambda: WeightedSum([]), "losses has 0 entries"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(WavedilError, match=message):
        make()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_the_mean_over_labeled_pixels(gamma):
    scores, labels = batch(ignored=0.3, dtype=torch.float64)
    p = scores.softmax(1)
    terms = [
        -((1 - p[image, labels[image, y, x], y, x]) ** gamma) * p[image, labels[image, y, x], y, x].log()
        for image, y, x in (labels != 255).nonzero().tolist()
    ]
    value, slope = grad(FocalLoss(gamma), scores, labels)
    torch.testing.assert_close(value.double(), torch.stack(terms).mean(), rtol=1e-5, atol=1e-6)
    assert slope.isfinite().all() and (slope[:, 0][labels == 255] == 0).all()
    certain = torch.nn.functional.one_hot(labels % 255, 4).movedim(-1, 1).float() * 200
    assert grad(FocalLoss(gamma), certain, labels % 255)[1].isfinite().all()
    if gamma == 0:
        torch.testing.assert_close(value, CrossEntropy()(scores, labels))


def test_hard_pixels_keeps_the_hardest():
    scores, labels = batch(ignored=0.3)
    nats = F.cross_entropy(scores, labels, ignore_index=255, reduction="none")[labels != 255]
    expected = nats[nats > -torch.tensor(0.4).log()].mean()
    torch.testing.assert_close(OHEMCrossEntropy(0.4, 0.0)(scores, labels), expected)
    share = nats.sort(descending=True).values[: -(-len(nats) // 4)].mean()
    torch.testing.assert_close(OHEMCrossEntropy(0.0, 0.25)(scores, labels), share)
    torch.testing.assert_close(OHEMCrossEntropy(1.0)(scores, labels), CrossEntropy()(scores, labels))
    slope = grad(OHEMCrossEntropy(0.0, 0.25), scores, labels)[1]
    assert int((slope.abs().sum(1) > 0).sum()) == -(-len(nats) // 4)


def test_tversky_by_hand_and_as_dice():
    scores, labels = batch(ignored=0.3)
    torch.testing.assert_close(Tversky(0.5, 0.5)(scores, labels), Dice()(scores, labels))
    p, known = scores.softmax(1), labels != 255
    values = []
    for label in range(4):
        true, guess = (labels == label)[known].float(), p[:, label][known]
        hits = (true * guess).sum()
        values.append(1 - hits / (hits + 0.3 * ((1 - true) * guess).sum() + 0.7 * (true * (1 - guess)).sum()))
    torch.testing.assert_close(Tversky()(scores, labels), torch.stack(values).mean())


@pytest.mark.parametrize("loss", [FocalLoss(), OHEMCrossEntropy(), Tversky()])
def test_other_losses_without_a_labeled_pixel(loss):
    scores, labels = batch()
    value, slope = grad(loss, scores, torch.full_like(labels, 255))
    assert value == 0 and (slope == 0).all()
    hard = OHEMCrossEntropy
    for cls, name in ((FocalLoss, "gamma"), (hard, "threshold"), (hard, "min_kept"), (Tversky, "alpha")):
        with pytest.raises(WavedilError, match=f"{name} is -1"):
            cls(**{name: -1})
