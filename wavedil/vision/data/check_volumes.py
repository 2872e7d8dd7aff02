"""Checks volumes and label volumes before training."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wavedil.data_check import BROKEN, DataCheck
from wavedil.extras import import_extra
from wavedil.vision.data.check import Duplicates, count_pairs, warn_of_empty_sets
from wavedil.vision.data.check_truth import ClassTally
from wavedil.vision.data.pairs import find_sets, without_excluded
from wavedil.vision.data.volume_pairs import VolumePair, volumes_by_name
from wavedil.vision.data.volumes import (
    Volume,
    check_classes,
    check_same_grid,
    count_channels,
    read_label_volume,
    read_volume,
)

#: Kinds of findings about volumes that differ from most, and the names of the facts.
_COMMON = {
    "channels": "channels",
    "spacing": "voxel sizes in mm (depth x height x width)",
    "orientation": "orientations",
}


def check_volumes(
    root: str | Path,
    images: str = "images",
    masks: str = "masks",
    *,
    classes: Sequence[str] | int | None = None,
    channels: int | None = None,
    validation: str | None = None,
    exclude: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataCheck:
    """Decodes every volume and label volume below a folder.

    Findings are those of :func:`wavedil.vision.data.check.check_images`, where ``broken`` includes volumes without an
    affine; ``grid`` (labels of another shape or affine than their image); and ``channels``, ``spacing`` and
    ``orientation`` (another number of channels, voxel size or directions of the axes than most volumes).

    Args:
        root: a folder with volumes and label volumes, or with ``train`` and ``val`` that have them.
        images, masks: names of the folders.
        classes: their names or number; None for any.
        channels: of the volumes; None for those of each file.
        validation, exclude: see :class:`wavedil.train.VolumeData`.
        progress: called with the numbers of finished and of all volumes.

    Raises:
        WavedilError: a folder is missing or has no volumes, or nibabel is missing.
    """
    import_extra("nibabel", "medical")
    check = DataCheck(str(root))

    def find(part: Path) -> list[VolumePair]:
        found = without_excluded(volumes_by_name(part, images, masks), exclude)
        return [VolumePair(*paths) for paths in check.complete(found, ("image", "mask"))]

    sets = find_sets(root, find, validation, "volumes")
    names = [str(label) for label in range(classes)] if isinstance(classes, int) else classes
    number = None if names is None else len(names)
    tally, seen = ClassTally(names, unit="voxels", files="volumes"), Duplicates("voxels")
    shapes, properties, low, high, done = Counter(), [], np.inf, -np.inf, 0
    total = count_pairs(check, sets)
    for name, pairs in sets.items():
        for pair in pairs:
            image = check.attempt(pair.image, BROKEN, _read_volume, pair.image, channels)
            labels = check.attempt(pair.mask, BROKEN, read_label_volume, pair.mask)
            if image is not None:
                shapes[" x ".join(map(str, image.values.shape[1:]))] += 1
                properties.append((pair.image, _properties(image)))
                low, high = min(low, float(image.values.min())), max(high, float(image.values.max()))
                if image.values.min() == image.values.max():
                    check.add(pair.image, "constant", "all voxels are equal")
                seen.add(check, pair.image, image.values, name)
            if image is not None and labels is not None:
                check.attempt(pair.mask, "grid", check_same_grid, image, labels, pair.image, pair.mask)
            if labels is not None:
                found = check.attempt(pair.mask, "unknown", check_classes, labels.values, number, pair.mask)
                if found is not None:
                    tally.add_labels(check, pair.mask, found, name)
            done += 1
            if progress is not None:
                progress(done, total)
    check.facts = {"volumes": total, "sets": {name: len(pairs) for name, pairs in sets.items()}}
    check.facts["shapes (depth x height x width)"] = dict(shapes.most_common(10))
    for kind, label in _COMMON.items():
        counts = Counter(each[kind] for _, each in properties).most_common()
        check.facts[label] = dict(counts[:10])
        for path, each in properties:
            if each[kind] != counts[0][0]:
                check.add(path, kind, f"{each[kind]}; most volumes have {counts[0][0]}")
    if properties:
        check.facts["intensities"] = f"{low:.6g} to {high:.6g}"
    check.facts |= tally.facts(next(iter(sets)))
    warn_of_empty_sets(check)
    check.distributions = tally.distributions()
    return check


def _read_volume(path: Path, channels: int | None) -> Volume:
    return read_volume(path, count_channels(path) if channels is None else channels)


def _properties(volume: Volume) -> dict[str, Any]:
    """What the volumes of a data set should have in common; the orientation as nibabel writes it, e.g. RAS."""
    nibabel = import_extra("nibabel", "medical")
    return {
        "channels": len(volume.values),
        "spacing": " x ".join(f"{size:.3g}" for size in volume.voxel_size),
        "orientation": "".join(nibabel.aff2axcodes(volume.affine)),
    }
