"""Evaluates dense predictors on a folder of images: the function behind ``wavedil evaluate``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavedil.batches import BATCH, check_records
from wavedil.errors import WavedilError
from wavedil.outputs import claim_file
from wavedil.vision.data.formats import find_format
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.multilabel import find_multilabel_pairs
from wavedil.vision.data.pairs import FolderLayout, ImagePair, find_pairs, held_out_pairs
from wavedil.vision.evaluation import MeanIoU, ValueErrors, evaluate, evaluate_values
from wavedil.vision.models.multilabel import MultilabelSegmenter
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.multilabel_evaluation import evaluate_multilabel
from wavedil.vision.prediction import Progress
from wavedil.vision.prediction_files import prediction_options


def evaluate_folder(
    model: Segmenter | Regressor,
    data: str | Path,
    *,
    held_out: bool = False,
    validation: str | None = None,
    exclude: str | None = None,
    format: str | None = None,
    images: str = "images",
    masks: str | None = None,
    image_ending: str = "",
    mask_ending: str = "",
    scaled: bool = False,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: bool = False,
    crf_preset: str | None = None,
    boundary_tolerance: float | None = None,
    border: str | None = None,
    confusion: str | None = None,
    records: str | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> MeanIoU | ValueErrors:
    """Mean IoU of a Segmenter on images and masks, or errors of a Regressor on images and targets.

    Args:
        data: a folder with ``images`` and ``masks``, or with ``train`` and ``val`` that have them. If pixels may have
            several classes, ``masks`` has a folder for each class.
        held_out: only the held-out images of a recipe: those of val, or every tenth of the sorted files.
        validation: only images whose path matches this regular expression, as in a recipe's data.
        exclude: images or masks to exclude: a regular expression, or @FILE with a list, as in a recipe's data.
        format: a published format by name, e.g. PascalVOC; or JSON with class_path and init_args, as in a recipe.
        images: folder of the images in DATA (default images).
        masks: folder of the masks or targets in DATA (default masks; targets for a Regressor).
        image_ending: ending of the image names that the mask names do not have, e.g. _image.
        mask_ending: ending of the mask names that the image names do not have, e.g. _mask.
        scaled: evaluate at the image size of the model instead of the size of the masks.
        tile: predict in tiles with this side in pixels.
        scales: average the predictions for these image sizes, e.g. 0.75 1 1.25.
        flip: average with the prediction for the mirror image.
        crf: refine with a dense CRF (Segmenter only).
        crf_preset: refine with a dense CRF with published parameters, by name, e.g. densecrf (Segmenter only).
        boundary_tolerance: distance at which boundaries match, as a fraction of the image's diagonal; default 0.0075
            (Segmenter only).
        border: class of the borders between objects, e.g. membrane: also the Rand score of the objects (Segmenter
            only).
        confusion: plot the confusion matrix to a .png, .svg or .pdf file (Segmenter only).
        records: folder for the results of each batch of images. Repeat the command to continue after an interruption;
            run it several times in parallel to share the work.
        batch: images per batch, with records; default 16.
        progress: called with the number of finished images and the number of all images.

    Raises:
        WavedilError: images or masks cannot be read or matched, or do not fit the model.
    """
    check_records(records, batch, data)
    options = prediction_options(model, tile, scales, flip, crf, crf_preset)
    options |= _class_options(model, data, boundary_tolerance, border, confusion)
    masks = masks or ("targets" if isinstance(model, Regressor) else "masks")
    layout = FolderLayout(images, masks, image_ending, mask_ending)

    def find(layout: FolderLayout) -> list[ImagePair]:
        if held_out or validation:
            return held_out_pairs(data, layout, validation, exclude)
        return find_pairs(data, layout, exclude)

    evaluate_model = evaluate_values if isinstance(model, Regressor) else evaluate
    if isinstance(model, MultilabelSegmenter):
        if format is not None:
            raise WavedilError(f"format is {format!r}: formats have one class per pixel; leave it out")
        evaluate_model = evaluate_multilabel
        pairs = find_multilabel_pairs(find, layout, model.classes, model.mask_ignore_label)
    elif format is not None:
        pairs, scheme = _read_format(model, Path(data), format, layout, held_out, validation, exclude)
        options |= {"label_scheme": scheme}
    else:
        pairs = find(layout)
    return evaluate_model(
        model, pairs, scaled=scaled, records=records, batch=batch or BATCH, progress=progress, **options
    )


def _class_options(
    model: Segmenter | Regressor,
    data: str | Path,
    boundary_tolerance: float | None,
    border: str | None,
    confusion: str | None,
) -> dict[str, Any]:
    """Options of :func:`evaluate` that only classes have, if they are set."""
    options = {"boundary_tolerance": boundary_tolerance, "border": border, "confusion": confusion}
    options = {name: value for name, value in options.items() if value is not None}
    if options and isinstance(model, Regressor):
        name, value = next(iter(options.items()))
        raise WavedilError(f"{name} is {value!r}: a Regressor has no classes; leave it out")
    if border is not None and isinstance(model, MultilabelSegmenter):
        raise WavedilError(f"border is {border!r}: a MultilabelSegmenter has no border between objects; leave it out")
    if confusion is not None and isinstance(model, MultilabelSegmenter):
        raise WavedilError(f"confusion is {confusion!r}: a MultilabelSegmenter has no confusion matrix; leave it out")
    if confusion is not None:
        if not confusion:
            raise WavedilError("confusion is empty: expected a file name that ends with .png, .svg or .pdf")
        with claim_file(confusion, [data]):  # before the evaluation, whose result would be lost
            pass
        if Path(confusion).with_name("config.json").exists():
            raise WavedilError(f"confusion is {confusion!r}, in a model folder: choose another folder")
    return options


def _read_format(
    model: Segmenter | Regressor,
    data: Path,
    name: str,
    layout: FolderLayout,
    held_out: bool,
    validation: str | None,
    exclude: str | None,
) -> tuple[list[ImagePair], LabelScheme]:
    """Pairs and label scheme of a data set in another format."""
    if isinstance(model, Regressor):
        raise WavedilError(f"format is {name!r}: formats have classes, which a Regressor does not have: leave it out")
    if layout != FolderLayout():
        raise WavedilError(f"format is {name!r}: it has its own folders; leave out images, masks and the endings")
    found = find_format(name)
    return found.pairs_to_evaluate(data, held_out, validation, exclude), found.label_scheme(data)
