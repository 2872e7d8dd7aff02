"""Writes predictions of images to files: the functions behind ``wavedil segment``."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavedil.errors import WavedilError
from wavedil.vision.data.images import list_images, read_image, write_image, write_labels, write_values
from wavedil.vision.data.palette import overlay
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.prediction import Progress, Refinement, estimate, predict


def write_label_maps(
    model: Segmenter,
    images: Iterable[str | Path],
    out: str | Path,
    *,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: bool = False,
    crf_preset: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes ``OUT/NAME.png``, a palette PNG whose indices are classes, and ``OUT/NAME_overlay.png`` for each image.

    Args:
        images: images, or folders of images; the tree of a folder is kept in ``out``.
        out: folder for the files.
        tile: predict in tiles of this many pixels a side.
        scales: average over these image sizes, e.g. 0.75 1 1.25.
        flip: average with the mirror image.
        crf: refine with a dense CRF.
        crf_preset: refine with a dense CRF of other published parameters, by name.
        progress: called with the images finished so far and their total.

    Returns:
        ``files``, one ``{"image", "labels", "overlay"}`` per image; ``classes``; ``seconds`` of reading, prediction and
        writing; ``pixels_per_second``.

    Raises:
        WavedilError: an image cannot be read, two images would have one name in ``out``, or an option does not fit the
            model.
    """
    options = {"tile": tile, "scales": scales, "flip": flip, "refine": dense_crf(crf, crf_preset)}

    def write(image: np.ndarray, place: Path) -> tuple[dict[str, Path], int]:
        labels = predict(model, image, **options)
        files = {"labels": _with_ending(place, ".png"), "overlay": _with_ending(place, "_overlay.png")}
        write_labels(files["labels"], labels, model.palette)
        write_image(files["overlay"], overlay(image, labels, model.palette))
        return files, labels.size

    return _write_each(images, out, write, progress, {"classes": list(model.classes)})


def write_value_maps(
    model: Regressor,
    images: Iterable[str | Path],
    out: str | Path,
    *,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes ``OUT/NAME.npy``, float32 values, and ``OUT/NAME.png``, 16 bits in the model's ``step``, for each image.

    Args:
        images: images, or folders of images; the tree of a folder is kept in ``out``.
        out: folder for the files.
        tile: predict in tiles of this many pixels a side.
        scales: average over these image sizes, e.g. 0.75 1 1.25.
        flip: average with the mirror image.
        progress: called with the images finished so far and their total.

    Returns:
        ``files``, one ``{"image", "values", "picture"}`` per image; ``step``; ``seconds`` of reading, prediction and
        writing; ``pixels_per_second``.

    Raises:
        WavedilError: as :func:`write_label_maps`.
    """

    def write(image: np.ndarray, place: Path) -> tuple[dict[str, Path], int]:
        values = estimate(model, image, tile=tile, scales=scales, flip=flip)
        files = {"values": _with_ending(place, ".npy"), "picture": _with_ending(place, ".png")}
        for path in files.values():
            write_values(path, values, model.step)
        return files, values.size

    return _write_each(images, out, write, progress, {"step": model.step})


def dense_crf(crf: bool, preset: str | None) -> Refinement | None:
    """The dense CRF of the options ``crf`` and ``crf_preset``; None if neither is used."""
    if not crf and preset is None:
        return None
    from wavedil.vision.crf import DenseCRF

    return DenseCRF() if preset is None else DenseCRF.preset(preset)


def _write_each(
    images: Iterable[str | Path],
    out: str | Path,
    write: Callable[[np.ndarray, Path], tuple[dict[str, Path], int]],
    progress: Progress | None,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Calls ``write(image, path without suffix)`` for each image; it returns the files and the number of pixels."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise WavedilError(f"out {out} is a file: expected a folder")
    named = _named(images)
    files, pixels, started = [], 0, time.perf_counter()
    for number, (name, path) in enumerate(named.items(), 1):
        written, size = write(read_image(path), out / name)
        files.append({"image": str(path)} | {kind: str(file) for kind, file in written.items()})
        pixels += size
        if progress is not None:
            progress(number, len(named))
    seconds = time.perf_counter() - started
    return {"files": files, **facts, "seconds": round(seconds, 3), "pixels_per_second": round(pixels / seconds)}


def _with_ending(place: Path, ending: str) -> Path:
    return place.with_name(place.name + ending)  # not with_suffix: names may contain dots


def _named(sources: Iterable[str | Path]) -> dict[str, Path]:
    """The images by the name of the files to write."""
    named: dict[str, Path] = {}
    for source in map(Path, sources):
        paths: Sequence[Path] = list_images(source) if source.is_dir() else [source]
        for path in paths:
            name = (path.relative_to(source) if source.is_dir() else Path(path.name)).with_suffix("").as_posix()
            if name in named:
                raise WavedilError(
                    f"{named[name]} and {path} would both be written as {name}.png: use another --out for one of them"
                )
            named[name] = path
    return named
