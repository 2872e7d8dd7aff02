"""Pairs of volumes and label volumes in a folder, their split, and random patches of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavedil.errors import WavedilError
from wavedil.files import pair_by_name, unique_names, walk_files
from wavedil.shards import is_folder
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.pair_dataset import PairDataset
from wavedil.vision.data.pairs import split_folder, without_excluded
from wavedil.vision.data.patch_augmentation import PatchAugmentation
from wavedil.vision.data.volumes import (
    check_classes,
    check_same_grid,
    is_volume,
    read_label_volume,
    read_volume,
    stem_of,
)


@dataclass(frozen=True)
class VolumePair:
    """A volume and its labels."""

    image: Path
    mask: Path


def find_volume_pairs(
    root: str | Path, images: str = "images", masks: str = "masks", exclude: str | None = None
) -> list[VolumePair]:
    """All volumes below ``root/images`` with the labels of the same name below ``root/masks``, sorted by name.

    Raises:
        WavedilError: a folder is missing or empty, a file has no partner, or two have the same name.
    """
    found = without_excluded(volumes_by_name(root, images, masks), exclude)
    return [VolumePair(*pair) for pair in pair_by_name(*found, ("image", "mask"), "add it, or remove the file")]


def volumes_by_name(root: str | Path, images: str = "images", masks: str = "masks") -> list[dict[str, Path]]:
    """The volumes below ``root/images`` and those below ``root/masks`` by their names.

    Raises:
        WavedilError: a folder is missing or empty, or two files have the same name.
    """
    found = []
    for kind, folder in (("image", Path(root, images)), ("mask", Path(root, masks))):
        if not is_folder(folder):
            raise WavedilError(f"{folder} is not a folder: expected volumes, .nii or .nii.gz, as {kind}s")
        paths = list_volumes(folder)
        if not paths:
            raise WavedilError(f"{folder}: no volumes: expected files that end in .nii or .nii.gz")
        names = (path.relative_to(folder).with_name(stem_of(path)).as_posix() for path in paths)
        found.append(unique_names(zip(names, paths, strict=True), kind))
    return found


def list_volumes(folder: str | Path) -> list[Path]:
    """Volumes in a folder and its subfolders, sorted by their path within it."""
    return [path for path in walk_files(folder, (".nii", ".gz")) if is_volume(path)]


def split_volume_pairs(
    root: str | Path,
    images: str = "images",
    masks: str = "masks",
    validation: str | None = None,
    exclude: str | None = None,
) -> tuple[list[VolumePair], list[VolumePair], str]:
    """Pairs for training, pairs for validation, and a text about the split; see
    :func:`wavedil.vision.data.pairs.split_pairs`.
    """
    return split_folder(root, lambda part: find_volume_pairs(part, images, masks, exclude), validation, "volumes")


class VolumeDataset(PairDataset):
    """Volumes with labels. Items are ``{"image": float32 (channels, depth, height, width), "labels": int64 (depth,
    height, width)}``; ignored voxels have label 255. Volumes are cached in memory, up to 1 GiB.

    Args:
        pairs: volume and label files.
        num_classes: number of classes; None for any.
        channels: of the volumes.

    Attributes:
        voxel_sizes: millimeters along (depth, height, width) of each volume that was read, by its number.
    """

    def __init__(self, pairs: Sequence[VolumePair], num_classes: int | None = None, channels: int = 1):
        super().__init__(pairs)
        self.num_classes, self.channels = num_classes, channels
        self.voxel_sizes: dict[int, tuple[float, float, float]] = {}
        self._normalize: Callable[[Tensor], Tensor] | None = None

    def normalize_with(self, function: Callable[[Tensor], Tensor]) -> None:
        """Applies a function of ``(1, channels, depth, height, width)`` to each volume from now on."""
        self._normalize = function
        self._cache = {index: (self._normalized(image), truth) for index, (image, truth) in self._cache.items()}

    def _normalized(self, image: np.ndarray) -> np.ndarray:
        return image if self._normalize is None else self._normalize(torch.from_numpy(image)[None])[0].numpy()

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The volume, and its labels as uint8."""
        pair = self.pairs[index]
        image, labels = read_volume(pair.image, self.channels), read_label_volume(pair.mask)
        check_same_grid(image, labels, pair.image, pair.mask)
        self.voxel_sizes[index] = image.voxel_size
        return self._normalized(image.values), check_classes(labels.values, self.num_classes, pair.mask)

    def item(self, image: np.ndarray, truth: np.ndarray) -> dict[str, Tensor]:
        return {"image": torch.from_numpy(image), "labels": torch.from_numpy(truth).long()}

    def statistics(self, progress: Callable[[int, int], None] | None = None) -> tuple[Tensor, list[float], list[float]]:
        """Voxels of each label in each volume, int64 ``(volumes, 256)``, and mean and deviation of each channel."""
        counts, count, sums, squares = [], 0, 0.0, 0.0
        for index in range(len(self)):
            image, labels = self.read(index)
            counts.append(np.bincount(labels.ravel(), minlength=IGNORED + 1))
            values = image.reshape(len(image), -1).astype(np.float64)
            count += values.shape[1]
            sums, squares = sums + values.sum(1), squares + np.square(values).sum(1)
            if progress is not None:
                progress(index + 1, len(self))
        means = sums / count
        deviations = np.sqrt((squares / count - means**2).clip(min=0))
        stds = np.where(deviations > 1e-6 * abs(means), deviations, 1.0).tolist()  # less: rounding errors of a constant
        return torch.from_numpy(np.stack(counts)), means.tolist(), stds


class RandomPatches(Dataset[dict[str, Tensor]]):
    """Random patches of volumes, of which a share is centered on a foreground voxel.

    Each volume is used once before any is used again. Item i depends only on ``seed``, i and the files, so a run that
    resumes after n items sees the same patches as an uninterrupted one.

    Args:
        volumes: the volumes.
        size: (depth, height, width) of the patches. A smaller volume is padded with 0, and its labels are ignored
            there.
        foreground: share of the patches whose center is a voxel of another class than 0, as far as the edges of the
            volume allow; the others are anywhere. A volume without such voxels has only the others.
        augmentation: changes patches and their labels, see :class:`wavedil.vision.PatchAugmentation`; None: none.
        seed: any non-negative integer.
    """

    def __init__(
        self,
        volumes: VolumeDataset,
        size: tuple[int, int, int],
        *,
        foreground: float = 0.5,
        augmentation: PatchAugmentation | None = None,
        seed: int = 0,
    ):
        if len(size) != 3 or min(size) < 1:
            raise WavedilError(f"patch is {list(size)}: expected [depth, height, width] in voxels")
        if not 0 <= foreground <= 1:
            raise WavedilError(f"foreground is {foreground}: expected a share of the patches, 0 to 1")
        self.volumes, self.size, self.foreground, self.seed = volumes, tuple(size), foreground, seed
        self.augmentation = augmentation

    def __len__(self) -> int:
        return 2**31

    def _volume(self, index: int) -> int:
        epoch, position = divmod(index, len(self.volumes))
        return int(np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.volumes))[position])

    def origin(self, index: int) -> str:
        """The file of patch ``index``, for messages."""
        return str(self.volumes.pairs[self._volume(index)].image)

    def start(self, index: int, labels: np.ndarray) -> list[int]:
        """First voxel of patch ``index`` along each axis; negative if the volume is smaller than the patch."""
        generator = np.random.default_rng([self.seed, 1, index])
        slack = [side - part for side, part in zip(labels.shape, self.size, strict=True)]
        anywhere = [int(generator.integers(min(0, s), max(0, s) + 1)) for s in slack]
        if generator.random() >= self.foreground:
            return anywhere
        voxels = np.flatnonzero((labels != 0) & (labels != IGNORED))
        if not len(voxels):
            return anywhere
        center = np.unravel_index(voxels[generator.integers(len(voxels))], labels.shape)
        wanted = (int(at) - part // 2 for at, part in zip(center, self.size, strict=True))
        return [min(max(at, 0), s) if s >= 0 else other for at, s, other in zip(wanted, slack, anywhere, strict=True)]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"patch {index} of {len(self)}")
        number = self._volume(index)
        image, labels = self.volumes.read(number)
        patch = np.zeros((len(image), *self.size), np.float32)
        truth = np.full(self.size, IGNORED, np.uint8)
        inside, window = [], []
        for first, part, side in zip(self.start(index, labels), self.size, labels.shape, strict=True):
            low, high = max(0, first), min(side, first + part)
            window.append(slice(low, high))
            inside.append(slice(low - first, high - first))
        patch[(slice(None), *inside)] = image[(slice(None), *window)]
        truth[tuple(inside)] = labels[tuple(window)]
        if self.augmentation is not None:
            generator = np.random.default_rng([self.seed, 2, index])
            patch, truth = self.augmentation(patch, truth, self.volumes.voxel_sizes[number], generator)
        return {"image": torch.from_numpy(patch), "labels": torch.from_numpy(truth).long()}
