"""Losses of dense prediction: scores ``(batch, num_classes, *space)``, before a softmax or sigmoid, and labels.

``*space`` is ``(height, width)``, or has one or three axes. The shape of the labels says what the classes are:

* ``(batch, *space)``, int64: each pixel has one class; probabilities are the softmax of the scores.
* ``(batch, num_classes, *space)`` of 0 and 1: a pixel may have several classes or none; the probability of each class
  is the sigmoid of its score.

Where the label is 255, the pixel, or the class at this pixel, is ignored. If all are ignored, the loss is 0 with a
gradient of 0. Labels of other shapes or values raise WavedilError. A loss with class weights gets the class frequencies
by ``set_frequencies`` before training.
"""

from wavedil.losses import WeightedSum
from wavedil.vision.losses.boundary import BoundaryLoss, signed_distance
from wavedil.vision.losses.pixels import BinaryCrossEntropy, CrossEntropy, FocalLoss, OHEMCrossEntropy, median_frequency
from wavedil.vision.losses.regions import Dice, Lovasz, Tversky
from wavedil.vision.losses.values import SmoothL1

__all__ = [
    "BinaryCrossEntropy",
    "BoundaryLoss",
    "CrossEntropy",
    "Dice",
    "FocalLoss",
    "OHEMCrossEntropy",
    "Lovasz",
    "SmoothL1",
    "Tversky",
    "WeightedSum",
    "median_frequency",
    "signed_distance",
]
