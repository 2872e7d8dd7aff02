"""Writes predictions of images to files: the function behind ``wavedil segment``."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from wavedil.batches import Batches, Record, fingerprint, fingerprint_paths, refuse_batches
from wavedil.errors import WavedilError, one_of
from wavedil.outputs import check_folder_name, claim_folder, name_outputs
from wavedil.vision.crf import PRESETS, DenseCRF
from wavedil.vision.data.images import list_images, read_image, write_image, write_labels, write_values
from wavedil.vision.data.palette import overlay, overlay_masks
from wavedil.vision.data.pixels import to_rgb
from wavedil.vision.models.multilabel import MultilabelSegmenter
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.prediction import Progress, estimate, predict


def write_predictions(
    model: Segmenter | Regressor,
    images: Iterable[str | Path],
    out: str | Path,
    *,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: bool = False,
    crf_preset: str | None = None,
    probabilities: bool = False,
    batch: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes two files for each image.

    Segmenter: ``OUT/NAME.png``, a palette PNG whose indices are classes, and ``OUT/NAME_overlay.png``; with
    ``probabilities`` also ``OUT/NAME_probabilities.npy``, float32 ``(classes, height, width)``. MultilabelSegmenter: a
    mask of 0 and 255 for each class, ``OUT/CLASS/NAME.png``, in place of the palette PNG. Regressor:
    ``OUT/NAME.npy``, float32 values, and ``OUT/NAME.png``, 16 bits in units of the model's ``step``.

    Args:
        images: images, or folders of images; subfolders are kept in ``out``.
        out: output folder.
        tile: predict in tiles with this side in pixels.
        scales: average the predictions for these image sizes, e.g. 0.75 1 1.25.
        flip: average with the prediction for the mirror image.
        crf: refine with a dense CRF (Segmenter only).
        crf_preset: refine with a dense CRF with published parameters, by name, e.g. densecrf (Segmenter only).
        probabilities: also write the probabilities of all classes (Segmenter only).
        batch: for many images: process this many at a time. Repeat the call to continue after an interruption; run it
            several times in parallel to share the work.
        progress: called with the number of finished images and the number of all images.

    Returns:
        ``files``, for each image a dictionary with ``image`` and the paths ``labels`` and ``overlay``, or ``values``
        and ``picture``; with ``batch`` instead ``count`` and ``manifest``. ``classes`` or ``step``; ``seconds`` of
        reading, prediction and writing; ``pixels_per_second``, or None if other calls have done all images.

    Raises:
        WavedilError: an image cannot be read, two results would have one name, a result would replace an image, a name
            would be too long, or an option does not fit the model.
    """
    options = prediction_options(model, tile, scales, flip, crf, crf_preset)
    check_folder_name("out", out)
    out = Path(out)
    if batch is None:
        refuse_batches(out)
    if isinstance(model, Regressor) and probabilities:
        raise WavedilError("probabilities are of classes, which a Regressor does not have: leave it out")
    options |= {"probabilities": True} if probabilities else {}
    found = name_outputs(
        images, out, list_images, lambda path: list(_names(model, _stem(path), probabilities).values())
    )
    named = {_stem(PurePath(name)): path for name, path in found.items()}
    names, pixels, started = list(named), 0, time.perf_counter()

    def write_images(numbers: range, progress: Progress | None = None) -> list[Record]:
        """Predicts images by their numbers and returns a record of each."""
        nonlocal pixels
        records = []
        for number in numbers:
            path = named[names[number]]
            image = read_image(path, model.in_channels)
            files = {key: str(out / name) for key, name in _names(model, names[number], probabilities).items()}
            _write(model, image, files, options)
            records.append({"image": str(path), "files": files})
            pixels += image.shape[0] * image.shape[1]
            if progress is not None:
                progress(number + 1, len(names))
        return records

    outputs = [output for name in names for output in _names(model, name, probabilities).values()]
    with claim_folder(out, outputs, named.values(), shared=batch is not None):
        if batch is None:
            records = write_images(range(len(names)), progress)
            result = {"files": [{"image": record["image"], **record["files"]} for record in records]}
        else:
            settings = {"tile": tile, "scales": list(scales), "flip": flip, "crf": crf, "crf_preset": crf_preset}
            settings |= {"probabilities": True} if probabilities else {}
            settings |= {"model": fingerprint(model), "images": fingerprint_paths(named.values())}
            manifest, count = Batches(out, len(names), batch, settings).run(write_images, progress)
            result = {"count": count, "manifest": None if manifest is None else str(manifest)}
    seconds = time.perf_counter() - started
    about = {"step": model.step} if isinstance(model, Regressor) else {"classes": list(model.classes)}
    return result | about | {"seconds": round(seconds, 3), "pixels_per_second": round(pixels / seconds) or None}


def _stem(path: PurePath) -> str:
    return path.with_suffix("").as_posix()


def prediction_options(
    model: Segmenter | Regressor, tile: int | None, scales: Sequence[float], flip: bool, crf: bool, preset: str | None
) -> dict[str, Any]:
    """Options of :func:`wavedil.vision.predict` or ``estimate`` from command-line options."""
    options = {"tile": tile, "scales": scales, "flip": flip}
    if not crf and preset is None:
        return options
    if isinstance(model, Regressor):
        raise WavedilError("crf and crf_preset refine class scores, which a Regressor does not have: leave them out")
    if isinstance(model, MultilabelSegmenter):
        raise WavedilError(
            "crf and crf_preset are for one class per pixel, and a MultilabelSegmenter has several: leave them out"
        )
    if model.in_channels != 3:
        raise WavedilError(
            f"crf and crf_preset need the colors of RGB images, and the model takes {model.in_channels} bands: leave "
            "them out"
        )
    if preset is not None and preset not in PRESETS:
        raise WavedilError(f"crf_preset is {preset!r}: expected {one_of(preset, PRESETS)}")
    return options | {"refine": DenseCRF() if preset is None else DenseCRF.preset(preset)}


def _names(model: Segmenter | Regressor, stem: str, probabilities: bool) -> dict[str, str]:
    """What is written for an image, and the paths in the folder of the results."""
    if isinstance(model, Regressor):
        return {"values": f"{stem}.npy", "picture": f"{stem}.png"}
    if isinstance(model, MultilabelSegmenter):
        names = {f"masks/{name}": f"{name}/{stem}.png" for name in model.classes}
    else:
        names = {"labels": f"{stem}.png"}
    names["overlay"] = f"{stem}_overlay.png"
    return names | ({"probabilities": f"{stem}_probabilities.npy"} if probabilities else {})


def _write(model: Segmenter | Regressor, image: np.ndarray, files: dict[str, str], options: dict[str, Any]) -> None:
    """Writes the files of an image, by what they are."""
    if isinstance(model, Regressor):
        values = estimate(model, image, **options)
        for path in files.values():
            write_values(path, values, model.step)
        return
    found = predict(model, image, **options)
    if "probabilities" in files:
        write_values(files["probabilities"], found, 1.0)
        found = model.decide(torch.from_numpy(found)).numpy()
    if isinstance(model, MultilabelSegmenter):
        for name, mask in zip(model.classes, found, strict=True):
            write_image(files[f"masks/{name}"], mask * np.uint8(255))
        picture = overlay_masks(to_rgb(image), found, model.palette)
    else:
        write_labels(files["labels"], found, model.palette)
        picture = overlay(to_rgb(image), found, model.palette)
    write_image(files["overlay"], picture)
