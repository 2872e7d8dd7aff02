"""Mean IoU and other figures of classes: written-out examples, torchmetrics, and accumulation over images."""

import math

import pytest
import torch

from wavedil.vision.metrics import ConfusionMatrix


def test_mean_iou_of_a_written_out_example():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([[0, 0, 1], [1, 1, 0]]), torch.tensor([[0, 1, 1], [1, 255, 0]]))
    assert matrix.matrix.tolist() == [[2, 0, 0, 0], [1, 2, 0, 0], [0] * 4, [0] * 4]
    assert matrix.iou.tolist()[:2] == [pytest.approx(2 / 3)] * 2 and matrix.iou[2:].isnan().all()
    assert matrix.mean_iou == pytest.approx(2 / 3)  # classes that do not occur are left out
    assert (matrix.count, matrix.accuracy) == (5, pytest.approx(4 / 5))
    matrix.update(torch.tensor([3]), torch.tensor([0]))  # predicted but never labeled: IoU 0, included in the mean
    assert matrix.mean_iou == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)


def test_mean_iou_of_no_pixels_is_nan():
    assert math.isnan(ConfusionMatrix(3).mean_iou)
    matrix = ConfusionMatrix(3)
    matrix.update(torch.zeros(2, 2, dtype=torch.uint8), torch.full((2, 2), 255, dtype=torch.uint8))
    assert matrix.count == 0


def test_parity_with_torchmetrics_in_any_order_of_images():
    classification = pytest.importorskip("torchmetrics.classification")
    others = {
        "iou": classification.MulticlassJaccardIndex(6, ignore_index=255, average="none"),
        "recall": classification.MulticlassRecall(6, ignore_index=255, average="none"),
        "precision": classification.MulticlassPrecision(6, ignore_index=255, average="none"),
        "f1": classification.MulticlassF1Score(6, ignore_index=255, average="none"),
    }
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for size in ((9, 7), (5, 11), (1, 1)):
        labels = torch.randint(0, 6, size, generator=generator)
        predictions = torch.where(torch.rand(size, generator=generator) < 0.5, labels, 5 - labels)
        labels[torch.rand(size, generator=generator) < 0.2] = 255
        pairs.append((predictions, labels))
        for theirs in others.values():
            theirs.update(predictions.unsqueeze(0), labels.unsqueeze(0))
    forwards, backwards, at_once = (ConfusionMatrix(6) for _ in range(3))
    for pair in pairs:
        forwards.update(*pair)
    for predictions, labels in reversed(pairs):
        backwards.update(predictions.to(torch.uint8), labels.to(torch.uint8))
    at_once.update(*(torch.cat([pair[i].flatten() for pair in pairs]) for i in range(2)))
    for name, theirs in others.items():
        torch.testing.assert_close(getattr(forwards, name).float(), theirs.compute())
    assert torch.equal(forwards.matrix, backwards.matrix) and torch.equal(forwards.matrix, at_once.matrix)


def test_figures_of_each_class_by_hand():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([0, 0, 1, 1, 3]), torch.tensor([0, 1, 1, 1, 1]))
    figures = matrix.by_class("abcd", more=torch.tensor([0.5, 1.0, float("nan"), 0.0]))
    half = pytest.approx(0.5)
    assert figures["a"] == {
        "iou": half,
        "recall": 1,
        "precision": half,
        "f1": pytest.approx(2 / 3),
        "more": 0.5,
        "pixels": 1,
    }
    assert (figures["b"]["recall"], figures["b"]["precision"], figures["b"]["pixels"]) == (half, 1, 4)
    assert set(figures["c"].values()) == {None, 0}  # neither labeled nor predicted
    assert figures["d"] == {"iou": 0, "recall": None, "precision": 0, "f1": 0, "more": 0, "pixels": 0}
    assert matrix.row_shares.tolist()[1:3] == [[0.25, 0.5, 0, 0.25], [0] * 4]
