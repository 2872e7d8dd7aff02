"""What ``wavedil segment`` and ``wavedil evaluate`` do with a model of dense prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavedil.errors import WavedilError
from wavedil.vision.data.images import list_images, read_image, write_image, write_labels, write_values
from wavedil.vision.data.pairs import Layout, find_pairs, held_out_pairs
from wavedil.vision.data.palette import overlay
from wavedil.vision.evaluation import MeanIoU, ValueErrors, evaluate, evaluate_values
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.prediction import Refinement, estimate, predict


def segment(
    model: Segmenter,
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    crf: bool | str = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Writes ``OUT/NAME.png``, a palette PNG whose indices are classes, and ``OUT/NAME_overlay.png`` for each image.

    Args:
        sources: images, or folders of them, whose tree is kept.
        crf: refine by :class:`wavedil.vision.DenseCRF`, by a preset of it where this is a name.
        progress: called with the images done and their number.
        options: of :func:`wavedil.vision.predict`.

    Returns:
        ``files``, one ``{"image", "labels", "overlay"}`` for each; ``classes``; ``seconds`` of reading, labeling and
        writing; ``pixels_per_second``.
    """
    refine = _crf(crf) if crf else None

    def label(image: np.ndarray, place: Path) -> tuple[dict[str, Path], int]:
        labels = predict(model, image, refine=refine, **options)
        files = {"labels": _named_like(place, ".png"), "overlay": _named_like(place, "_overlay.png")}
        write_labels(files["labels"], labels, model.palette)
        write_image(files["overlay"], overlay(image, labels, model.palette))
        return files, labels.size

    return _over_images(sources, out, label, progress, {"classes": list(model.classes)})


def map_values(
    model: Regressor,
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    crf: bool | str = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Writes ``OUT/NAME.npy``, float32 values, and ``OUT/NAME.png``, 16 bits in the model's ``step``, for each image.

    Arguments and result as :func:`segment`, with ``values`` and ``picture`` as files; there is no CRF of values.
    """
    if crf:
        raise WavedilError(f"--crf is for classes, not for a {type(model).__name__}: leave it out")

    def measure(image: np.ndarray, place: Path) -> tuple[dict[str, Path], int]:
        values = estimate(model, image, **options)
        files = {"values": _named_like(place, ".npy"), "picture": _named_like(place, ".png")}
        for path in files.values():
            write_values(path, values, model.step)
        return files, values.size

    return _over_images(sources, out, measure, progress, {"step": model.step})


def _over_images(
    sources: Iterable[str | Path],
    out: str | Path,
    write: Callable[[np.ndarray, Path], tuple[dict[str, Path], int]],
    progress: Callable[[int, int], None] | None,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """``write`` takes each image and its place below ``out``, without suffix, and gives files and how many pixels."""
    out, named = _folder(out), _named(sources)
    files, pixels, started = [], 0, time.perf_counter()
    for number, (name, path) in enumerate(named.items(), 1):
        written, size = write(read_image(path), out / name)
        files.append({"image": str(path)} | {kind: str(file) for kind, file in written.items()})
        pixels += size
        if progress is not None:
            progress(number, len(named))
    seconds = time.perf_counter() - started
    return {"files": files, **facts, "seconds": round(seconds, 3), "pixels_per_second": round(pixels / seconds)}


def _named_like(place: Path, ending: str) -> Path:
    return place.with_name(place.name + ending)  # not a suffix: names may have dots


def evaluate_folder(
    model: Segmenter | Regressor,
    data: str | Path,
    *,
    images: str = "images",
    masks: str | None = None,
    image_ending: str = "",
    mask_ending: str = "",
    held_out: bool = False,
    validation: str | None = None,
    crf: bool | str = False,
    **options: Any,
) -> MeanIoU | ValueErrors:
    """:func:`evaluate` on a folder of images and masks (:class:`Layout`): all, or those a recipe would hold out.

    Raises:
        WavedilError: as :func:`find_pairs`, and for what does not fit the model.

    ``masks`` is ``"masks"`` unless given, and ``"targets"`` for a :class:`Regressor`.
    """
    values = isinstance(model, Regressor)
    masks = masks or ("targets" if values else "masks")
    layout = Layout(images, masks, image_ending, mask_ending)
    pairs = held_out_pairs(data, layout, validation) if held_out or validation else find_pairs(data, layout)
    if values:
        if crf:
            raise WavedilError(f"--crf is for classes, not for a {type(model).__name__}: leave it out")
        return evaluate_values(model, pairs, **options)
    return evaluate(model, pairs, refine=_crf(crf) if crf else None, **options)


def render_evaluation(result: MeanIoU | ValueErrors) -> str:
    """For a terminal: IoU by class and their mean, or errors of values, and what these mean."""
    if isinstance(result, ValueErrors):
        lines = [f"{'RMSE':<20} {result.rmse:.4g}", f"{'relative error':<20} {result.abs_rel:.4f}"]
        lines.append(f"{result.count:,} pixels of {result.images} images")
        return "\n".join([*lines, f"({result.definition})"])
    lines = [f"{name:<20} {'not there' if iou is None else f'{iou:.4f}'}" for name, iou in result.classes.items()]
    lines.append(f"{'mean IoU':<20} {result.mean_iou:.4f}")
    lines.append(f"{result.accuracy:.4f} of {result.count:,} pixels of {result.images} images are right")
    return "\n".join([*lines, f"({result.definition})"])


def _folder(out: str | Path) -> Path:
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise WavedilError(f"--out {out} is a file: expected a folder")
    return out


def _crf(given: bool | str) -> Refinement:
    from wavedil.vision.crf import DenseCRF

    return DenseCRF.preset(given) if isinstance(given, str) else DenseCRF()


def _named(sources: Iterable[str | Path]) -> dict[str, Path]:
    """Each image by the name of what will be written for it."""
    named: dict[str, Path] = {}
    for source in map(Path, sources):
        paths: Sequence[Path] = list_images(source) if source.is_dir() else [source]
        for path in paths:
            name = (path.relative_to(source) if source.is_dir() else Path(path.name)).with_suffix("").as_posix()
            if name in named:
                raise WavedilError(f"{named[name]} and {path} would both be written as {name}.png: label them apart")
            named[name] = path
    return named
