"""Evaluates dense predictors on a folder of images: the functions behind ``wavedil evaluate``."""

from collections.abc import Sequence
from pathlib import Path

from wavedil.vision.data.pairs import Layout, Pair, find_pairs, held_out_pairs
from wavedil.vision.evaluation import MeanIoU, ValueErrors, evaluate, evaluate_values
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.prediction import Progress
from wavedil.vision.prediction_files import dense_crf


def evaluate_segmentation(
    model: Segmenter,
    data: str | Path,
    *,
    held_out: bool = False,
    validation: str | None = None,
    images: str = "images",
    masks: str = "masks",
    image_ending: str = "",
    mask_ending: str = "",
    scaled: bool = False,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: bool = False,
    crf_preset: str | None = None,
    progress: Progress | None = None,
) -> MeanIoU:
    """Mean intersection over union on a folder of images and masks.

    Args:
        data: a folder with ``images`` and ``masks``, or with ``train`` and ``val`` that have them.
        held_out: only what a recipe holds out: the images of val, or every tenth of the sorted files.
        validation: only images whose path matches this regular expression, as in a recipe's data.
        images: folder of the images in DATA (default images).
        masks: folder of the masks in DATA (default masks).
        image_ending: what image names have at the end that mask names have not.
        mask_ending: what mask names have at the end that image names have not.
        scaled: compare at the size that the model works at, not at the size of the masks.
        tile: predict in tiles of this many pixels a side.
        scales: average over these image sizes, e.g. 0.75 1 1.25.
        flip: average with the mirror image.
        crf: refine with a dense CRF.
        crf_preset: refine with a dense CRF of other published parameters, by name.
        progress: called with the images finished so far and their total.

    Raises:
        WavedilError: images or masks cannot be read or matched, or do not fit the model.
    """
    pairs = _pairs(data, Layout(images, masks, image_ending, mask_ending), held_out, validation)
    options = {"tile": tile, "scales": scales, "flip": flip, "refine": dense_crf(crf, crf_preset)}
    return evaluate(model, pairs, scaled=scaled, progress=progress, **options)


def evaluate_regression(
    model: Regressor,
    data: str | Path,
    *,
    held_out: bool = False,
    validation: str | None = None,
    images: str = "images",
    masks: str = "targets",
    image_ending: str = "",
    mask_ending: str = "",
    scaled: bool = False,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    progress: Progress | None = None,
) -> ValueErrors:
    """Root mean square error and relative error on a folder of images and targets.

    Args:
        data: a folder with ``images`` and ``targets``, or with ``train`` and ``val`` that have them.
        held_out: only what a recipe holds out: the images of val, or every tenth of the sorted files.
        validation: only images whose path matches this regular expression, as in a recipe's data.
        images: folder of the images in DATA (default images).
        masks: folder of the targets in DATA (default targets).
        image_ending: what image names have at the end that target names have not.
        mask_ending: what target names have at the end that image names have not.
        scaled: compare at the size that the model works at, not at the size of the targets.
        tile: predict in tiles of this many pixels a side.
        scales: average over these image sizes, e.g. 0.75 1 1.25.
        flip: average with the mirror image.
        progress: called with the images finished so far and their total.

    Raises:
        WavedilError: images or targets cannot be read or matched, or do not fit the model.
    """
    pairs = _pairs(data, Layout(images, masks, image_ending, mask_ending), held_out, validation)
    return evaluate_values(model, pairs, scaled=scaled, progress=progress, tile=tile, scales=scales, flip=flip)


def _pairs(data: str | Path, layout: Layout, held_out: bool, validation: str | None) -> Sequence[Pair]:
    return held_out_pairs(data, layout, validation) if held_out or validation else find_pairs(data, layout)
