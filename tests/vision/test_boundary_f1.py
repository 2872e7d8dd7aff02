"""Boundary F1: a written-out example, against distances of scipy, and ignored pixels."""

import math

import numpy as np
import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.vision import BoundaryF1


def boundary(mask, known):
    """The boundary pixels, one at a time."""
    found = np.zeros(mask.shape, bool)
    for row, column in zip(*np.nonzero(mask & known), strict=True):
        for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and known[y, x] and not mask[y, x]:
                found[row, column] = True
    return found


def by_scipy(predictions, labels, label, tolerance):
    distances = pytest.importorskip("scipy.ndimage").distance_transform_edt
    ours, theirs = (boundary(each == label, labels != 255) for each in (predictions, labels))
    if not ours.any() or not theirs.any():
        return 0.0 if ours.any() or theirs.any() else math.nan
    near = tolerance * math.hypot(*labels.shape)
    precision, recall = (distances(~theirs)[ours] < near).mean(), (distances(~ours)[theirs] < near).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def label_map(generator, size):
    coarse = generator.integers(0, 3, (size[0] // 5 + 1, size[1] // 4 + 1))
    return np.kron(coarse, np.ones((5, 4), int))[: size[0], : size[1]]


@pytest.mark.parametrize("size", [(1, 1), (1, 23), (17, 31), (40, 22)])
@pytest.mark.parametrize("tolerance", [0.0075, 0.031, 0.13, 1.0])
def test_equal_to_distances_of_scipy(size, tolerance):
    generator = np.random.default_rng(size[0])
    metric, expected = BoundaryF1(4, tolerance), [[] for _ in range(4)]
    for shift in (0, 1, 3):
        labels = label_map(generator, size)
        predictions = np.roll(labels, shift, 1)
        predictions[: size[0] // 3] = generator.integers(0, 3)
        labels[generator.random(size) < 0.05] = 255
        metric.update(predictions, labels)
        for label in range(4):
            expected[label].append(by_scipy(predictions, labels, label, tolerance))
    for label, scores in enumerate(expected):
        known = [score for score in scores if not math.isnan(score)]
        mean = sum(known) / len(known) if known else math.nan
        assert float(metric.scores[label]) == pytest.approx(mean, nan_ok=True)
    means = metric.scores[~metric.scores.isnan()]
    assert metric.mean == pytest.approx(float(means.mean()), nan_ok=True)


def test_a_shift_beyond_the_tolerance_of_a_written_out_example():
    labels = torch.zeros(30, 40, dtype=torch.int64)  # diagonal 50
    labels[:, 20:] = 1
    scores = {}
    for shift in (0, 1, 2, 3):
        metric = BoundaryF1(2, 0.05)  # less than 2.5 pixels
        metric.update(labels.roll(shift, 1), labels)
        scores[shift] = metric.scores.tolist()
    # A roll brings the other class to the left edge: its line there is 30 of 60 boundary pixels, far from all others.
    assert scores[0] == [1, 1] and scores[3] == [0, 0]
    assert scores[1] == scores[2] == [pytest.approx(2 / 3)] * 2


def test_ignored_pixels_do_not_count_whatever_is_predicted_there():
    generator = np.random.default_rng(0)
    labels, predictions = label_map(generator, (25, 33)), label_map(generator, (25, 33))
    labels[8:15, 10:20] = 255
    first, second = BoundaryF1(3, 0.05), BoundaryF1(3, 0.05)
    first.update(predictions, labels)
    predictions[labels == 255] = 7
    second.update(predictions, labels)
    assert torch.equal(first.sums, second.sums) and first.mean > 0
    third = BoundaryF1(3)
    third.update(predictions, np.full_like(labels, 255))
    assert math.isnan(third.mean)


def test_refusals():
    labels = torch.zeros(3, 4, dtype=torch.int64)
    for predictions, truth, message in (
        (labels, labels[0], "predictions have shape"),
        (labels[None], labels[None], r"labels have shape \(1, 3, 4\): expected \(height, width\)"),
        (labels + 2, labels, r"predictions span 2..2: expected 0..1"),
        (labels.float(), labels, "predictions is float32"),
    ):
        with pytest.raises(WavedilError, match=message):
            BoundaryF1(2).update(predictions, truth)
    for tolerance in (0, -1, 1.5, math.nan):
        with pytest.raises(WavedilError, match="tolerance is"):
            BoundaryF1(2, tolerance)
