"""Labels of volumes in exact tiles, and the function behind ``wavedil segment``."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.core.schema import checked
from wavedil.errors import WavedilError
from wavedil.files import walk_files
from wavedil.outputs import check_folder_name, claim_folder, name_outputs
from wavedil.vision.data.volumes import is_volume, read_volume, stem_of, write_label_volume
from wavedil.vision.exact_tiles import Pixels, tile_exactly
from wavedil.vision.models.volume_segmenter import VolumeSegmenter
from wavedil.vision.prediction import Progress

#: Larger volumes are predicted in tiles.
MAX_UNTILED_VOXELS = 2**21
DEFAULT_TILE = 96  # voxels


class _Labels(nn.Module):
    """The labels of a network, so that tiles are joined without their scores, which need more memory.

    With ``label``, a second channel has the probability of that class.
    """

    def __init__(self, model: nn.Module, label: int | None = None):
        super().__init__()
        self.model, self.label = model, label
        self.training = model.training

    def forward(self, volume: Tensor) -> Tensor:
        scores = self.model.scores(volume)
        labels = scores.argmax(1, keepdim=True)
        if self.label is None:
            return labels.to(torch.uint8)
        return torch.cat([labels.float(), scores.float().softmax(1)[:, self.label, None]], 1)


@checked
@torch.inference_mode()
def label_volume(
    model: VolumeSegmenter, volume: np.ndarray | Tensor, tile: Pixels | Sequence[Pixels] | None = None
) -> np.ndarray:
    """The label of each voxel, uint8 ``(depth, height, width)``.

    Args:
        model: in evaluation mode.
        volume: ``(channels, depth, height, width)``, as ``Volume.values`` of :func:`wavedil.vision.read_volume`.
        tile: predict in tiles with this side in voxels, or one for each axis, with the same result; None: only if the
            volume has more than 2 million voxels.

    Raises:
        WavedilError: other shapes, or the model is in training mode.
    """
    return _label(model, _normalized(model, volume), tile)[0]


@torch.inference_mode()
def label_volume_with_probability(
    model: VolumeSegmenter, volume: np.ndarray | Tensor, label: int, tile: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The result of :func:`label_volume`, and the probability of class ``label``, float32 of the same shape."""
    labels, probability = _label(model, _normalized(model, volume), tile, label)
    return labels.astype(np.uint8), probability


@torch.inference_mode()
def label_slice(model: VolumeSegmenter, volume: np.ndarray | Tensor, index: int) -> np.ndarray:
    """Slice ``index`` of :func:`label_volume`, uint8 ``(height, width)``, computed from the slices around it."""
    values, margin = _normalized(model, volume), model.receptive_field[0] // 2
    first = max(0, index - margin)
    return _label(model, values[:, :, first : index + margin + 1], None)[0, index - first]


def _normalized(model: VolumeSegmenter, volume: np.ndarray | Tensor) -> Tensor:
    """The complete volume, checked and normalized, ``(1, channels, depth, height, width)``."""
    values = torch.as_tensor(volume)
    if values.ndim != 4 or len(values) != model.in_channels or not values.is_floating_point() or 0 in values.shape:
        raise WavedilError(
            f"volume is {values.dtype} of shape {tuple(values.shape)}: expected floats of shape ({model.in_channels}, "
            "depth, height, width)"
        )
    if model.training:
        raise WavedilError("model is in training mode, where it depends on the full batch: call model.eval()")
    return model.normalize(values.to(model.final.weight).unsqueeze(0))


def _label(
    model: VolumeSegmenter, normalized: Tensor, tile: Pixels | Sequence[Pixels] | None, label: int | None = None
) -> np.ndarray:
    """The channels of :class:`_Labels`, ``(channels, depth, height, width)``."""
    if tile is None and normalized[0, 0].numel() > MAX_UNTILED_VOXELS:
        tile = DEFAULT_TILE
    network = _Labels(model, label)
    margin = [field // 2 for field in model.receptive_field]
    found = network(normalized) if tile is None else tile_exactly(network, normalized, tile, margin=margin)
    return found[0].cpu().numpy()


def list_volumes(folder: str | Path) -> list[Path]:
    """The NIfTI files in a folder and its subfolders, sorted.

    Raises:
        WavedilError: there are none.
    """
    if not Path(folder).is_dir():
        raise WavedilError(f"{folder} is not a folder: expected a folder of volumes")
    found = [path for path in walk_files(folder, (".nii", ".gz")) if is_volume(path)]
    if not found:
        raise WavedilError(f"{folder}: no volumes: expected files that end in .nii or .nii.gz")
    return found


def write_volume_predictions(
    model: VolumeSegmenter,
    images: Iterable[str | Path],
    out: str | Path,
    *,
    tile: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the labels of each volume to ``OUT/NAME.nii.gz``, with the affine of the volume.

    Args:
        images: volumes, .nii or .nii.gz, or folders of volumes; subfolders are kept in ``out``.
        out: output folder.
        tile: predict in tiles with this side in voxels.
        progress: called with the number of finished volumes and the number of all volumes.

    Returns:
        ``files``, for each volume a dictionary with ``image`` and ``labels``; ``classes``, ``seconds``.

    Raises:
        WavedilError: a volume cannot be read, or two results would have one name or replace a volume.
    """
    check_folder_name("out", out)
    out, started = Path(out), time.perf_counter()
    found = name_outputs(images, out, list_volumes, lambda path: [_name(path)])
    named = {_name(PurePath(name)): path for name, path in found.items()}
    files = []
    with claim_folder(out, list(named), named.values()):
        for number, (name, path) in enumerate(named.items(), 1):
            volume = read_volume(path, model.in_channels)
            write_label_volume(out / name, label_volume(model, volume.values, tile), volume.affine)
            files.append({"image": str(path), "labels": str(out / name)})
            if progress is not None:
                progress(number, len(named))
    return {"files": files, "classes": list(model.classes), "seconds": round(time.perf_counter() - started, 3)}


def _name(path: PurePath) -> str:
    if not is_volume(path):
        raise WavedilError(f"{path} is not a volume: expected a file that ends in .nii or .nii.gz")
    return path.with_name(stem_of(path) + ".nii.gz").as_posix()
