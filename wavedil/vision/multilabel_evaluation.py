"""Evaluation of segmentation with several classes per pixel."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavedil.batches import BATCH, Record
from wavedil.core.schema import checked
from wavedil.errors import WavedilError
from wavedil.vision.boundary_f1 import TOLERANCE, BoundaryF1, Tolerance, definition
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.multilabel import MultilabelDataset, MultilabelPair, unpack
from wavedil.vision.evaluation import MeanIoU, evaluation_records, read_images
from wavedil.vision.losses.targets import check_binary
from wavedil.vision.metrics import CLASS_DEFINITIONS, DEFINITION, ClassCounts
from wavedil.vision.models.multilabel import THRESHOLD, MultilabelSegmenter
from wavedil.vision.prediction import Progress, predict


class MultilabelCounts(ClassCounts):
    """Pixel counts of classes that do not exclude each other, summed over images, with the boundaries of each class.

    Args:
        num_classes: number of classes.
        tolerance: see :class:`wavedil.vision.BoundaryF1`.
    """

    def __init__(self, num_classes: int, tolerance: float = TOLERANCE):
        super().__init__(torch.zeros(3, num_classes, dtype=torch.int64))
        self.known = 0  # pixels that are not ignored
        self.boundary = BoundaryF1(num_classes, tolerance)

    @property
    def accuracy(self) -> float:
        """Share of the pairs of a pixel and a class that are right."""
        correct, predicted, labeled = self.counts.sum(1)
        return 1 - float(predicted + labeled - 2 * correct) / max(1, self.known * self.counts.shape[1])

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds an image: predictions, bool, and labels of 0, 1 and 255, both ``(num_classes, height, width)``."""
        predictions, labels = predictions.cpu(), labels.cpu()
        check_binary(labels)
        known, truth = labels != IGNORED, labels == 1
        predicted = predictions & known
        self.counts += torch.stack([(predicted & truth).sum((1, 2)), predicted.sum((1, 2)), truth.sum((1, 2))])
        self.known += int(known[0].sum())
        for label in range(len(labels)):
            self.boundary.add(label, predicted[label], truth[label], known[label])


@checked
def evaluate_multilabel(
    model: MultilabelSegmenter,
    pairs: Sequence[MultilabelPair],
    *,
    scaled: bool = False,
    boundary_tolerance: Tolerance = TOLERANCE,
    records: str | Path | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
    **options: Any,
) -> MeanIoU:
    """Mean IoU and figures of each class; arguments as for :func:`wavedil.vision.evaluation.evaluate`."""
    images = MultilabelDataset(pairs, model.num_classes, model.scale if scaled else 1.0, model.in_channels)

    def count(numbers: range, progress: Progress | None = None) -> list[Record]:
        found = MultilabelCounts(model.num_classes, boundary_tolerance)
        for image, bits in read_images(images, numbers, progress):
            masks = torch.from_numpy(predict(model, image, scaled=scaled, **options))
            found.update(masks, unpack(bits, model.num_classes))
        return [{"sums": found.counts.tolist(), "known": found.known, "boundary": found.boundary.sums.tolist()}]

    total = MultilabelCounts(model.num_classes, boundary_tolerance)
    settings = {"scaled": scaled, "boundary_tolerance": boundary_tolerance, **options}
    for record in evaluation_records(model, pairs, settings, count, records, batch, progress):
        total.counts += torch.tensor(record["sums"])
        total.known += record["known"]
        total.boundary.sums += torch.tensor(record["boundary"], dtype=torch.float64)
    if not total.known:
        raise WavedilError(f"{pairs[0].mask.parent}: all pixels of {len(pairs)} images are ignored: see ignore_label")
    figures = total.by_class(model.classes, boundary_f1=total.boundary.scores)
    size = f"images and masks resized by {model.scale}" if scaled else "at the size of the masks"
    alone = f"each class on its own, predicted where its probability is at least {THRESHOLD}"
    mean, boundary = total.mean_iou, total.boundary.mean
    return MeanIoU(
        mean_iou=None if math.isnan(mean) else mean,
        accuracy=total.accuracy,
        boundary_f1=None if math.isnan(boundary) else boundary,
        count=total.known,
        images=len(pairs),
        classes={name: values["iou"] for name, values in figures.items()},
        per_class=figures,
        definition=f"{DEFINITION}; {alone}; {size}; ignore label {model.mask_ignore_label}",
        definitions=CLASS_DEFINITIONS
        | {"accuracy": "share of the pairs of a pixel and a class that are right"}
        | {"boundary_f1": definition(boundary_tolerance)},
    )
