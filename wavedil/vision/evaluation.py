"""Mean intersection over union of a model on images with masks; errors of values on images with targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wavedil.errors import WavedilError
from wavedil.vision.data.dataset import ImagesWithTargets, MaskedImages
from wavedil.vision.data.pairs import Pair
from wavedil.vision.metrics import DEFINITION, ERRORS, ConfusionMatrix, RegressionMetrics
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.prediction import estimate, predict


@dataclass(frozen=True)
class MeanIoU:
    mean_iou: float  # 0 to 1
    accuracy: float  # 0 to 1
    count: int  # pixels
    images: int
    classes: dict[str, float | None]  # IoU of each; None where it is neither labeled nor predicted
    definition: str

    def __str__(self) -> str:
        lines = [f"{name:<20} {'absent' if iou is None else f'{iou:.4f}'}" for name, iou in self.classes.items()]
        lines.append(f"{'mean IoU':<20} {self.mean_iou:.4f}")
        lines.append(f"accuracy {self.accuracy:.4f} over {self.count:,} pixels of {self.images} images")
        return "\n".join([*lines, f"({self.definition})"])


def evaluate(
    model: Segmenter,
    pairs: Sequence[Pair],
    *,
    scaled: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options,
) -> MeanIoU:
    """Mean IoU over all pixels of all images that count, as :class:`ConfusionMatrix` counts them.

    Args:
        pairs: images and masks, e.g. of :func:`wavedil.vision.data.pairs.find_pairs`; the masks hold what the model's
            ``mask_values`` and ``ignore_label`` say.
        scaled: compare at the size the model works at, images and masks resized by its ``scale`` as in training;
            otherwise at the masks' own size.
        progress: called with the images done and their number.
        options: of :func:`wavedil.vision.predict`: ``tile``, ``scales``, ``flip``, ``refine``.
    """
    images = MaskedImages(pairs, model.labels, model.scale if scaled else 1.0)
    matrix = ConfusionMatrix(model.num_classes)
    for index in range(len(images)):
        image, labels = images.read(index, keep=False)
        matrix.update(*map(torch.from_numpy, (predict(model, image, scaled=scaled, **options), labels)))
        if progress is not None:
            progress(index + 1, len(images))
    if not matrix.count:
        raise WavedilError(f"{pairs[0].mask.parent}: no pixel of the {len(pairs)} masks counts: see ignore_label")
    size = f"images and masks resized by {model.scale}" if scaled else "at the size of the masks"
    each = [None if value != value else value for value in matrix.iou.tolist()]
    return MeanIoU(
        mean_iou=matrix.mean_iou,
        accuracy=matrix.accuracy,
        count=matrix.count,
        images=len(pairs),
        classes=dict(zip(model.classes, each, strict=True)),
        definition=f"{DEFINITION}; {size}; ignored label {model.ignore_label}",
    )


@dataclass(frozen=True)
class ValueErrors:
    rmse: float  # in the targets' unit
    abs_rel: float  # as a fraction
    count: int  # pixels
    images: int
    definition: str

    def __str__(self) -> str:
        lines = [f"{'RMSE':<20} {self.rmse:.4g}", f"{'relative error':<20} {self.abs_rel:.4f}"]
        lines.append(f"{self.count:,} pixels of {self.images} images")
        return "\n".join([*lines, f"({self.definition})"])


def evaluate_values(
    model: Regressor,
    pairs: Sequence[Pair],
    *,
    scaled: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options,
) -> ValueErrors:
    """Errors over all pixels of all images whose target is known; arguments as for :func:`evaluate`."""
    images = ImagesWithTargets(pairs, model.step, model.scale if scaled else 1.0)
    errors = RegressionMetrics()
    for index in range(len(images)):
        image, targets = images.read(index, keep=False)
        errors.update(*map(torch.from_numpy, (estimate(model, image, scaled=scaled, **options), targets)))
        if progress is not None:
            progress(index + 1, len(images))
    if not errors.count:
        raise WavedilError(f"{pairs[0].mask.parent}: no pixel of the {len(pairs)} targets is known: all are 0 or NaN")
    return ValueErrors(errors.rmse, errors.abs_rel, errors.count, len(pairs), ERRORS)
