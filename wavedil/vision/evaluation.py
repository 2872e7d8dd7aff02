"""Evaluation on files: mean IoU of segmentation, errors of regression."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedil.batches import BATCH, Batches, Record, fingerprint, fingerprint_paths, rank
from wavedil.core.schema import checked
from wavedil.errors import WavedilError, count_text, shown
from wavedil.figures import check_figure_path
from wavedil.vision.boundary_f1 import TOLERANCE, BoundaryF1, Tolerance, definition
from wavedil.vision.data.dataset import ImageDataset, RegressionDataset, SegmentationDataset
from wavedil.vision.data.labels import IGNORED, LabelScheme
from wavedil.vision.data.pairs import ImagePair
from wavedil.vision.metrics import (
    CLASS_DEFINITIONS,
    DEFINITION,
    REGRESSION_DEFINITION,
    ConfusionMatrix,
    RegressionMetrics,
)
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.prediction import Progress, estimate, predict
from wavedil.vision.rand import DEFINITION as RAND_DEFINITION
from wavedil.vision.rand import BorderScores, figures_text, find_border


@dataclass(frozen=True)
class MeanIoU:
    """Result of :func:`evaluate`."""

    mean_iou: float | None  # 0 to 1; None if no class is labeled or predicted
    accuracy: float  # 0 to 1
    boundary_f1: float | None  # mean over classes, 0 to 1; None if there are no boundaries
    count: int  # pixels that are not ignored
    images: int
    classes: dict[str, float | None]  # IoU of each class; None if it is neither labeled nor predicted
    per_class: dict[str, dict[str, float | None]]  # iou, recall, precision, f1, boundary_f1 and pixels of each class
    definition: str  # of mean_iou
    definitions: dict[str, str]  # of the other figures
    rand: dict[str, float] | None = None  # with a border class: see wavedil.vision.rand.DEFINITION

    def __str__(self) -> str:
        boundary = "none" if self.boundary_f1 is None else f"{self.boundary_f1:.4f}"
        mean = "none" if self.mean_iou is None else f"{self.mean_iou:.4f}"
        means = f"mean IoU {mean}, mean boundary F1 {boundary}"
        counted = f"accuracy {self.accuracy:.4f} over {self.count:,} pixels of {count_text(self.images, 'image')}"
        lines = [class_table(self.per_class), means, *([] if self.rand is None else [figures_text(self.rand)]), counted]
        return "\n".join([*lines, f"({self.definition})"])


def class_table(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    """The figures of each class as text: a line for each class, a column for each figure."""
    width = max(20, *map(len, figures))
    titles = {"iou": "IoU", "f1": "F1", "boundary_f1": "boundary F1"}
    columns = [name for name in next(iter(figures.values())) if name != "pixels"]
    lines = [" ".join([" " * width, *(f"{titles.get(name, name):>11}" for name in columns), f"{'pixels':>14}"])]
    for name, values in figures.items():
        shown = (f"{'none' if values[key] is None else format(values[key], '.4f'):>11}" for key in columns)
        lines.append(" ".join([f"{name:<{width}}", *shown, f"{values['pixels']:>14,}"]))
    return "\n".join(lines)


@checked
def evaluate(
    model: Segmenter,
    pairs: Sequence[ImagePair],
    *,
    label_scheme: LabelScheme | None = None,
    scaled: bool = False,
    boundary_tolerance: Tolerance = TOLERANCE,
    border: str | None = None,
    confusion: str | Path | None = None,
    records: str | Path | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
    **options: Any,
) -> MeanIoU:
    """Mean IoU over the pixels of all images, and other figures of each class.

    See :class:`ConfusionMatrix` and :class:`wavedil.vision.BoundaryF1`.

    Args:
        pairs: images and masks, e.g. from :func:`wavedil.vision.data.pairs.find_pairs`.
        label_scheme: decodes the masks; default: the model's. Its classes must be those of the model.
        scaled: compare at the resolution of the network, with images and masks resized by the model's ``scale`` as in
            training; default: at the size of the masks.
        boundary_tolerance: of boundary F1, as a fraction of the diagonal of the image.
        border: class of the borders between objects, e.g. membrane; the result then has their Rand score, see
            :func:`wavedil.vision.rand_score`.
        confusion: file for a picture of the confusion matrix, .png, .svg or .pdf.
        records: folder for the counts of each batch of images; the call then continues earlier ones with the same
            arguments, and shares the work with other processes (:mod:`wavedil.batches`).
        batch: images per batch, with ``records``.
        progress: called with the number of finished images and the number of all images.
        options: options of :func:`wavedil.vision.predict`: ``tile``, ``scales``, ``flip``, ``refine``.
    """
    if confusion is not None:
        check_figure_path(confusion)
        from wavedil.vision.confusion import draw_confusion  # matplotlib may be missing: found before the evaluation
    scheme = model.label_scheme if label_scheme is None else label_scheme
    if list(scheme.classes) != list(model.classes):
        raise WavedilError(
            f"the data has the classes {shown(list(scheme.classes))} and the model {shown(list(model.classes))}: "
            "expected the same in the same order"
        )
    label = None if border is None else find_border(border, model.classes)
    images = SegmentationDataset(pairs, scheme, model.scale if scaled else 1.0, model.in_channels)
    borders = None if border is None else BorderScores()

    def count(numbers: range, progress: Progress | None = None) -> list[Record]:
        matrix, boundary = ConfusionMatrix(model.num_classes), BoundaryF1(model.num_classes, boundary_tolerance)
        objects = None if border is None else BorderScores()
        for image, labels in read_images(images, numbers, progress):
            found = predict(model, image, scaled=scaled, probabilities=objects is not None, **options)
            if objects is not None:
                objects.update(found[label], labels.numpy() == label, labels.numpy() == IGNORED)
                found = found.argmax(0)
            labeled = torch.from_numpy(found)
            matrix.update(labeled, labels)
            boundary.update(labeled, labels)
        record = {"entries": matrix.entries(), "boundary": boundary.sums.tolist()}
        return [record if objects is None else record | {"rand": objects.sums.tolist()}]

    matrix, boundary = ConfusionMatrix(model.num_classes), BoundaryF1(model.num_classes, boundary_tolerance)
    settings = {"scaled": scaled, "boundary_tolerance": boundary_tolerance, **options}
    if label_scheme is not None:
        settings["label_scheme"] = label_scheme
    if border is not None:
        settings["border"] = border
    for record in evaluation_records(model, pairs, settings, count, records, batch, progress):
        matrix.add_entries(record["entries"])
        boundary.sums += torch.tensor(record["boundary"], dtype=torch.float64)
        if borders is not None:
            borders.sums += torch.tensor(record["rand"], dtype=torch.float64)
    if not matrix.count:
        raise WavedilError(f"{pairs[0].mask.parent}: all pixels of {len(pairs)} masks are ignored: see ignore_label")
    if confusion is not None and rank() == 0:
        draw_confusion(matrix, model.classes, confusion)
    size = f"images and masks resized by {model.scale}" if scaled else "at the size of the masks"
    figures = matrix.by_class(model.classes, boundary_f1=boundary.scores)
    return MeanIoU(
        mean_iou=matrix.mean_iou,
        accuracy=matrix.accuracy,
        boundary_f1=None if math.isnan(boundary.mean) else boundary.mean,
        count=matrix.count,
        images=len(pairs),
        classes={name: values["iou"] for name, values in figures.items()},
        per_class=figures,
        definition=f"{DEFINITION}; {size}; ignore label {scheme.ignore_label}",
        definitions=CLASS_DEFINITIONS
        | {"boundary_f1": definition(boundary_tolerance)}
        | ({} if borders is None else {"rand": RAND_DEFINITION}),
        rand=None if borders is None else borders.figures(),
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
        lines.append(f"{self.count:,} pixels of {count_text(self.images, 'image')}")
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
    images = RegressionDataset(pairs, model.step, model.scale if scaled else 1.0, model.in_channels)

    def measure(numbers: range, progress: Progress | None = None) -> list[Record]:
        errors = RegressionMetrics()
        for image, targets in read_images(images, numbers, progress):
            errors.update(torch.from_numpy(estimate(model, image, scaled=scaled, **options)), targets)
        return [{"sums": errors.sums.tolist()}]

    errors = RegressionMetrics()
    for record in evaluation_records(model, pairs, {"scaled": scaled, **options}, measure, records, batch, progress):
        errors.sums += torch.tensor(record["sums"], dtype=torch.float64)
    if not errors.count:
        raise WavedilError(f"{pairs[0].mask.parent}: the {len(pairs)} targets have no known pixel; all are 0 or NaN")
    return ValueErrors(errors.rmse, errors.abs_rel, errors.count, len(pairs), REGRESSION_DEFINITION)


def evaluation_records(
    model: Segmenter | Regressor,
    pairs: Sequence[ImagePair],
    options: Mapping[str, Any],
    work: Callable[..., list[Record]],
    folder: str | Path | None,
    batch: int,
    progress: Progress | None,
) -> Iterable[Record]:
    """The records of all images: of one call of ``work``, or of batches in ``folder``."""
    if folder is None:
        return work(range(len(pairs)), progress)
    settings = {"model": fingerprint(model), **{key: str(value) for key, value in options.items()}}
    settings["images"] = fingerprint_paths(path for pair in pairs for path in (pair.image, pair.mask))
    batches = Batches(folder, len(pairs), batch, settings)
    batches.run(work, progress)
    return batches.records()


def read_images(images: ImageDataset, numbers: range, progress: Progress | None) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Images with their labels or targets, read without caching."""
    for number in numbers:
        image, truth = images.read(number, cache=False)
        yield image, torch.from_numpy(truth)
        if progress is not None:
            progress(number + 1, len(images))
