"""Odd arguments of functions for images."""

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from wavedil import audio, vision

NAN = math.nan
IMAGE = np.zeros((12, 16, 3), np.uint8)
SCORES = torch.randn(3, 12, 16)
Call = tuple[Any, dict[str, Any], dict[str, Iterable[Any]]]


@cache
def segmenter() -> vision.Segmenter:
    torch.manual_seed(0)
    backbone = vision.SmallBackbone(8, 4)
    return vision.Segmenter(backbone, vision.Conv1x1Head(backbone.channels, 3), num_classes=3).eval()


@cache
def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, 2, 1)]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))


@cache
def dense() -> torch.nn.Module:
    return vision.to_dense(classifier(), 2)


def confusion(num_classes: Any, predictions: Any, labels: Any) -> torch.Tensor:
    matrix = vision.ConfusionMatrix(num_classes)
    matrix.update(predictions, labels)
    return matrix.iou


#: Name -> function, valid arguments, and more odd values of some arguments.
CALLS: dict[str, Call] = {
    "predict": (
        vision.predict, {"model": segmenter, "image": IMAGE, "scaled": False, "tile": None, "scales": (1.0,),
                         "flip": False, "refine": None, "progress": None},
        {"image": [IMAGE.astype(float), IMAGE[..., 0], IMAGE[:0], IMAGE[::-1, ::-1], torch.zeros(3, 4, 4)],
         "tile": [8, 2**62], "scales": [[1.0, 0.5], [1e9], [1e-9], [0], [NAN], [True]], 
         "model": [audio.Effect(4, 4, "1,2", sample_rate=8000)],
         "refine": [lambda image, scores: scores[0], lambda image, scores: None]},
    ),
    "DenseCRF": (
        lambda image, scores: vision.DenseCRF(1)(image, scores), {"image": IMAGE, "scores": SCORES},
        {"image": [IMAGE[::-1], IMAGE[:4], IMAGE.astype(float)], "scores": [SCORES * NAN, SCORES[:1], SCORES.numpy()]},
    ),
    "DenseCRF.terms": (
        lambda features, weight, compatibility: vision.DenseCRF(1)(
            IMAGE, SCORES, terms=[vision.Pairwise(features, weight, compatibility)]
        ),
        {"features": torch.zeros(2, 12, 16), "weight": 1.0, "compatibility": None},
        {"features": [torch.zeros(2, 192), torch.zeros(12, 16), torch.full((1, 12, 16), NAN)],
         "compatibility": [np.eye(2), "potts"]},
    ),
    "position_features": (
        vision.position_features, {"size": (3, 4), "deviation": 2.0}, {"deviation": [[1, 2], [1, 2, 3]]},
    ),
    "unary_from_labels": (
        vision.unary_from_labels, {"labels": np.zeros((3, 4), int), "num_labels": 2, "confidence": 0.5,
                                   "ignored": None},
        {"labels": [np.full((3, 4), 2), np.full((3, 4), -1)]},
    ),
    "unary_from_softmax": (
        vision.unary_from_softmax, {"probabilities": torch.full((2, 3, 4), 0.5), "scale": None},
        {"probabilities": [SCORES, torch.zeros(3).long(), torch.zeros(2, 0)]},
    ),
    "DenseCRF.preset": (vision.DenseCRF.preset, {"name": "densecrf"}, {}),
    "CRFRNN": (lambda image, scores: vision.CRFRNN(3)(image, scores), {"image": IMAGE, "scores": SCORES}, {}),
    "overlay": (
        vision.overlay,
        {"image": IMAGE, "labels": np.zeros((12, 16), np.uint8), "palette": [(1, 2, 3)], "opacity": 0.5},
        {"labels": [np.zeros((2, 2), np.uint8), np.full((12, 16), -1), np.full((12, 16), 300), np.zeros((12, 16))],
         "palette": [[(1, 2)], [(1, 2, 300)], [("a", 2, 3)]], "image": [IMAGE[..., 0], IMAGE.astype(float)]},
    ),
    "upsample": (
        vision.upsample, {"x": torch.zeros(1, 2, 3, 4), "size": (24, 32), "stride": 8, "align": "center"},
        {"size": [(24,), (2**40, 2**40), (24.5, 32), (-8, 8), (24, True)], "stride": [16], "align": ["corner"]},
    ),
    "ConfusionMatrix": (
        confusion, {"num_classes": 3, "predictions": torch.zeros(4).long(), "labels": torch.tensor([0, 1, 2, 255])},
        {"predictions": [torch.tensor([0, 1, 2, 3]), torch.tensor([-1, 0, 0, 0]), torch.zeros(4), torch.ones(3).int()],
         "labels": [torch.tensor([0, 1, 2, 3]), torch.tensor([-1, 0, 0, 0]), torch.zeros(4)], "num_classes": [10**9]},
    ),
    "to_dense": (
        vision.to_dense, {"classifier": classifier, "output_stride": 2, "levels": (), "until": None},
        {"classifier": [torch.nn.Linear(3, 2), torch.nn.Sequential(), torch.nn.Conv1d(3, 4, 3), torch.nn.LSTM(3, 3)],
         "output_stride": [3, 4, 8], "levels": [[1], [2], [1, 1], [0]], "until": ["0", "2"]},
    ),
    "check_dense": (
        lambda classifier, dense, size, seed: str(vision.check_dense(classifier, dense, size=size, seed=seed)),
        {"classifier": classifier, "dense": dense, "size": (16, 16), "seed": 0},
        {"dense": [torch.nn.Linear(3, 2), classifier], "size": [(16, 10**7), (16,), (0, 16), (1, 1), (17, 19)]},
    ),
    "read_image": (vision.read_image, {"path": "in.png"}, {"path": ["a\0", "x" * 5000, ".", "in.wav"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_valid_arguments_are_accepted(name, outcome):
    function, valid, _ = CALLS[name]
    assert outcome(function, valid) == ""


@pytest.mark.filterwarnings("ignore:.*outside:UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_odd_arguments_give_a_result_or_one_line(name, check_odd_arguments):
    check_odd_arguments(*CALLS[name])
