"""Evaluation on volumes: IoU and Dice of each class, and Hausdorff distances; behind ``wavedil evaluate``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavedil.batches import Record, check_records
from wavedil.errors import WavedilError, count_text
from wavedil.extras import import_extra
from wavedil.ops.memory import check_memory
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.pairs import held_out_part
from wavedil.vision.data.volume_pairs import VolumePair, find_volume_pairs
from wavedil.vision.data.volumes import check_same_grid, read_label_volume, read_volume
from wavedil.vision.evaluation import evaluation_records
from wavedil.vision.hausdorff import hausdorff_distance
from wavedil.vision.metrics import CLASS_DEFINITIONS, DEFINITION, ConfusionMatrix
from wavedil.vision.models.volume_segmenter import VolumeSegmenter
from wavedil.vision.prediction import Progress
from wavedil.vision.rand import BorderScores, definition_of, figures_text, find_border
from wavedil.vision.volume_prediction import label_volume, label_volume_with_probability

_BOTH = "; of a class the mean over the volumes in which it is labeled and predicted; null if there are none"
DEFINITIONS = CLASS_DEFINITIONS | {
    "dice": "2 TP / (2 TP + FP + FN) of a volume; of a class the mean over the volumes in which it is labeled or "
    "predicted",
    "hausdorff_mm": "the larger of the two maximum distances from the surface of the labeled or the predicted region "
    "to the other surface, in millimeters, without ignored voxels" + _BOTH,
    "hausdorff95_mm": "as hausdorff_mm, with the 95th percentile in place of the maximum" + _BOTH,
    "missed": "volumes in which the class is labeled or predicted, but not both, which have no Hausdorff distance",
}
DISTANCES = {"hausdorff_mm": 100.0, "hausdorff95_mm": 95.0}  # percentiles
_RAND_MEMORY = 32  # bytes per voxel


@dataclass(frozen=True)
class VolumeFigures:
    """Result of :func:`evaluate_volumes`."""

    mean_iou: float | None  # 0 to 1; None if no class is labeled or predicted
    accuracy: float  # 0 to 1
    count: int  # voxels that are not ignored
    volumes: int
    per_class: dict[str, dict[str, float | None]]  # see definitions
    definition: str  # of mean_iou
    definitions: dict[str, str]  # of the other figures
    rand: dict[str, float] | None = None  # with a border class: see wavedil.vision.rand.DEFINITION

    def __str__(self) -> str:
        width = max(20, *map(len, self.per_class))
        titles = {
            "iou": "IoU",
            "dice": "Dice",
            "hausdorff_mm": "HD mm",
            "hausdorff95_mm": "HD95 mm",
            "missed": "missed",
        }
        lines = [" ".join([" " * width, *(f"{title:>9}" for title in titles.values())])]
        for name, values in self.per_class.items():
            lines.append(" ".join([f"{name:<{width}}", *(f"{_text(values[key]):>9}" for key in titles)]))
        lines.append(f"mean IoU {_text(self.mean_iou)}")
        if self.rand is not None:
            lines.append(figures_text(self.rand, "volumes"))
        lines.append(f"accuracy {self.accuracy:.4f} over {self.count:,} voxels of {count_text(self.volumes, 'volume')}")
        return "\n".join([*lines, f"({self.definition})"])


def _text(value: float | None) -> str:
    return "none" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def evaluate_volumes(
    model: VolumeSegmenter,
    data: str | Path,
    *,
    held_out: bool = False,
    validation: str | None = None,
    exclude: str | None = None,
    images: str = "images",
    masks: str = "masks",
    tile: int | None = None,
    border: str | None = None,
    slices: bool = False,
    records: str | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> VolumeFigures:
    """Mean IoU over the voxels of all volumes, and Dice and Hausdorff distances of each class.

    Args:
        data: a folder with ``images`` and ``masks``, or with ``train`` and ``val`` that have them.
        held_out: only the held-out volumes of a recipe: those of val, or every tenth of the sorted files.
        validation: only volumes whose path matches this regular expression, as in a recipe's data.
        exclude: volumes to exclude: a regular expression, or @FILE with a list, as in a recipe's data.
        images: folder of the volumes in DATA (default images).
        masks: folder of the label volumes in DATA (default masks).
        tile: predict in tiles with this side in voxels.
        border: class of the borders between objects, e.g. membrane: also the Rand score of the objects, which needs 32
            bytes per voxel.
        slices: with border: objects are those of each slice (height, width), e.g. if slices are thick.
        records: folder for the results of each batch of volumes. Repeat the command to continue after an interruption;
            run it several times in parallel to share the work.
        batch: volumes per batch, with records; default 1.
        progress: called with the number of finished volumes and the number of all volumes.

    Raises:
        WavedilError: volumes cannot be read or matched, or do not fit the model or in memory.
    """
    check_records(records, batch, data)
    if slices and border is None:
        raise WavedilError("slices is set, but border is not: set it to the class of the borders, or leave slices out")
    label = None if border is None else find_border(border, model.classes)
    import_extra("scipy.ndimage", "medical")  # found before the evaluation
    pairs = _pairs(Path(data), held_out, validation, exclude, images, masks)

    def measure(numbers: range, progress: Progress | None = None) -> list[Record]:
        found = []
        for number in numbers:
            found.append(_measure(model, pairs[number], tile, label, slices))
            if progress is not None:
                progress(number + 1, len(pairs))
        return found

    settings = {} if border is None else {"border": border, "slices": slices}
    matrix, scores = ConfusionMatrix(model.num_classes), BorderScores()
    found: dict[str, list[list[float]]] = {name: [[] for _ in model.classes] for name in ("dice", *DISTANCES, "missed")}
    for record in evaluation_records(model, pairs, settings, measure, records, batch or 1, progress):
        matrix.add_entries(record["entries"])
        for index, values in enumerate(record["classes"]):
            for name, value in values.items():
                found[name][index].append(value)
        if border is not None:
            scores.sums += torch.tensor(record["rand"], dtype=torch.float64)
    if not matrix.count:
        raise WavedilError(f"{data}: all voxels of {len(pairs)} label volumes are ignored ({IGNORED})")
    figures = matrix.by_class(model.classes)
    for index, values in enumerate(figures.values()):
        for name in ("dice", *DISTANCES):
            values[name] = float(np.mean(found[name][index])) if found[name][index] else None
        values["missed"] = len(found["missed"][index])
    return VolumeFigures(
        mean_iou=None if math.isnan(matrix.mean_iou) else matrix.mean_iou,
        accuracy=matrix.accuracy,
        count=matrix.count,
        volumes=len(pairs),
        per_class=figures,
        definition=f"{DEFINITION}; ignore label {IGNORED}".replace("pixels", "voxels").replace("images", "volumes"),
        definitions=DEFINITIONS
        | ({} if border is None else {"rand": definition_of("slices" if slices else "volumes")}),
        rand=None if border is None else scores.figures(),
    )


def _measure(model: VolumeSegmenter, pair: VolumePair, tile: int | None, border: int | None, slices: bool) -> Record:
    """The figures of one volume: entries of the confusion matrix, those of the classes, and sums of the Rand score."""
    volume, truth = read_volume(pair.image, model.in_channels), read_label_volume(pair.mask, model.num_classes)
    check_same_grid(volume, truth, pair.image, pair.mask)
    labels, matrix, record = truth.values.astype(np.uint8), ConfusionMatrix(model.num_classes), {}
    if border is None:
        predicted = label_volume(model, volume.values, tile)
    else:
        size = labels[0].size if slices else labels.size
        what = f"{pair.image} has {labels.size:,} voxels, whose Rand score"
        check_memory(_RAND_MEMORY * size, what, "crop it, use slices, or leave border out")
        predicted, probability = label_volume_with_probability(model, volume.values, border, tile)
        record["rand"] = _border_scores(probability, labels, border, volume.voxel_size, slices).sums.tolist()
    matrix.update(torch.from_numpy(predicted), torch.from_numpy(labels))
    return record | {
        "entries": matrix.entries(),
        "classes": class_figures(predicted, labels, volume.voxel_size, model.num_classes),
    }


def _border_scores(
    probability: np.ndarray, labels: np.ndarray, border: int, voxel_size: Sequence[float], slices: bool
) -> BorderScores:
    scores, parts = BorderScores(), (probability, labels == border, labels == IGNORED)
    for arrays in zip(*parts, strict=True) if slices else [parts]:
        scores.update(*arrays, spacing=voxel_size[slices:])
    return scores


def class_figures(
    predicted: np.ndarray, labels: np.ndarray, voxel_size: Sequence[float], num_classes: int
) -> list[Mapping[str, float]]:
    """The figures of each class in one volume; those that are not defined are left out.

    Args:
        predicted, labels: integers ``(depth, height, width)``; labels are 255 where they are ignored.
        voxel_size: millimeters along each axis.
    """
    known, rows = labels != IGNORED, []
    for label in range(num_classes):
        one, other = (predicted == label) & known, labels == label
        total = int(one.sum()) + int(other.sum())
        row: dict[str, Any] = {"dice": 2 * int((one & other).sum()) / total} if total else {}
        if one.any() and other.any():
            row |= {name: hausdorff_distance(one, other, voxel_size, share) for name, share in DISTANCES.items()}
        elif total:
            row["missed"] = 1
        rows.append(row)
    return rows


def _pairs(
    root: Path, held_out: bool, validation: str | None, exclude: str | None, images: str, masks: str
) -> list[VolumePair]:
    if not (held_out or validation):
        return find_volume_pairs(root, images, masks, exclude)
    return held_out_part(root, lambda part: find_volume_pairs(part, images, masks, exclude), validation, "volumes")
