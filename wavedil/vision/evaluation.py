"""Evaluation on files: mean IoU of segmentation, errors of regression."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedil.batches import BATCH, Batches, Record, fingerprint, fingerprint_paths
from wavedil.errors import WavedilError
from wavedil.vision.data.dataset import ImageDataset, RegressionDataset, SegmentationDataset
from wavedil.vision.data.pairs import ImagePair
from wavedil.vision.metrics import DEFINITION, REGRESSION_DEFINITION, ConfusionMatrix, RegressionMetrics
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.prediction import Progress, estimate, predict


@dataclass(frozen=True)
class MeanIoU:
    """Result of :func:`evaluate`."""

    mean_iou: float  # 0 to 1
    accuracy: float  # 0 to 1
    count: int  # pixels that are not ignored
    images: int
    classes: dict[str, float | None]  # IoU of each class; None if it is neither labeled nor predicted
    definition: str

    def __str__(self) -> str:
        lines = [f"{name:<20} {'absent' if iou is None else f'{iou:.4f}'}" for name, iou in self.classes.items()]
        lines.append(f"{'mean IoU':<20} {self.mean_iou:.4f}")
        lines.append(f"accuracy {self.accuracy:.4f} over {self.count:,} pixels of {self.images} images")
        return "\n".join([*lines, f"({self.definition})"])


def evaluate(
    model: Segmenter,
    pairs: Sequence[ImagePair],
    *,
    scaled: bool = False,
    records: str | Path | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
    **options: Any,
) -> MeanIoU:
    """Mean IoU over the pixels of all images, see :class:`ConfusionMatrix`.

    Args:
        pairs: images and masks, e.g. from :func:`wavedil.vision.data.pairs.find_pairs`. The model's label scheme
            decodes the masks.
        scaled: compare at the resolution of the network, with images and masks resized by the model's ``scale`` as in
            training; default: at the size of the masks.
        records: folder for the counts of each batch of images; the call then continues earlier ones with the same
            arguments, and shares the work with other processes (:mod:`wavedil.batches`).
        batch: images per batch, with ``records``.
        progress: called with the number of finished images and the number of all images.
        options: options of :func:`wavedil.vision.predict`: ``tile``, ``scales``, ``flip``, ``refine``.
    """
    images = SegmentationDataset(pairs, model.label_scheme, model.scale if scaled else 1.0)

    def count(numbers: range, progress: Progress | None = None) -> list[Record]:
        matrix = ConfusionMatrix(model.num_classes)
        for image, labels in _read(images, numbers, progress):
            matrix.update(torch.from_numpy(predict(model, image, scaled=scaled, **options)), labels)
        return [{"entries": matrix.entries()}]

    matrix = ConfusionMatrix(model.num_classes)
    for record in _records(model, pairs, scaled, options, count, records, batch, progress):
        matrix.add_entries(record["entries"])
    if not matrix.count:
        raise WavedilError(f"{pairs[0].mask.parent}: all pixels of {len(pairs)} masks are ignored: see ignore_label")
    size = f"images and masks resized by {model.scale}" if scaled else "at the size of the masks"
    ious = [None if value != value else value for value in matrix.iou.tolist()]
    return MeanIoU(
        mean_iou=matrix.mean_iou,
        accuracy=matrix.accuracy,
        count=matrix.count,
        images=len(pairs),
        classes=dict(zip(model.classes, ious, strict=True)),
        definition=f"{DEFINITION}; {size}; ignore label {model.ignore_label}",
    )


@dataclass(frozen=True)
class ValueErrors:
    """Result of :func:`evaluate_values`."""

    rmse: float  # in the unit of the targets
    abs_rel: float  # mean relative error, as a fraction
    count: int  # pixels with a known target
    images: int
    definition: str

    def __str__(self) -> str:
        lines = [f"{'RMSE':<20} {self.rmse:.4g}", f"{'relative error':<20} {self.abs_rel:.4f}"]
        lines.append(f"{self.count:,} pixels of {self.images} images")
        return "\n".join([*lines, f"({self.definition})"])


def evaluate_values(
    model: Regressor,
    pairs: Sequence[ImagePair],
    *,
    scaled: bool = False,
    records: str | Path | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
    **options: Any,
) -> ValueErrors:
    """Errors over the pixels of all images with a known target; arguments as for :func:`evaluate`."""
    images = RegressionDataset(pairs, model.step, model.scale if scaled else 1.0)

    def measure(numbers: range, progress: Progress | None = None) -> list[Record]:
        errors = RegressionMetrics()
        for image, targets in _read(images, numbers, progress):
            errors.update(torch.from_numpy(estimate(model, image, scaled=scaled, **options)), targets)
        return [{"sums": errors.sums.tolist()}]

    errors = RegressionMetrics()
    for record in _records(model, pairs, scaled, options, measure, records, batch, progress):
        errors.sums += torch.tensor(record["sums"], dtype=torch.float64)
    if not errors.count:
        raise WavedilError(f"{pairs[0].mask.parent}: the {len(pairs)} targets have no known pixel; all are 0 or NaN")
    return ValueErrors(errors.rmse, errors.abs_rel, errors.count, len(pairs), REGRESSION_DEFINITION)


def _records(
    model: Segmenter | Regressor,
    pairs: Sequence[ImagePair],
    scaled: bool,
    options: Mapping[str, Any],
    work: Callable[..., list[Record]],
    folder: str | Path | None,
    batch: int,
    progress: Progress | None,
) -> Iterable[Record]:
    """The records of all images: of one call of ``work``, or of batches in ``folder``."""
    if folder is None:
        return work(range(len(pairs)), progress)
    settings = {"model": fingerprint(model), "scaled": scaled, **{key: str(value) for key, value in options.items()}}
    settings["images"] = fingerprint_paths(path for pair in pairs for path in (pair.image, pair.mask))
    batches = Batches(folder, len(pairs), batch, settings)
    batches.run(work, progress)
    return batches.records()


def _read(images: ImageDataset, numbers: range, progress: Progress | None) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Images with their labels or targets, read without caching."""
    for number in numbers:
        image, truth = images.read(number, cache=False)
        yield image, torch.from_numpy(truth)
        if progress is not None:
            progress(number + 1, len(images))
