"""The Hausdorff distance of predicted and labeled regions.

torchmetrics is not used: evaluation must run without the extra ``train``, and it has no percentile.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from wavedil.core.schema import Positive, Range, checked
from wavedil.errors import WavedilError, count_text
from wavedil.extras import import_extra

Percentile = Annotated[float, Range(0, 100)]


@checked
def hausdorff_distance(
    predicted: np.ndarray, labeled: np.ndarray, spacing: Sequence[Positive], percentile: Percentile = 100.0
) -> float | None:
    """The larger of the distances from each surface to the other one, in the unit of ``spacing``.

    The surface of a region is its voxels with a neighbor outside the region, or outside the array, across one of their
    faces; the distance from a surface to another is the maximum, or a percentile, over its voxels of the distance to
    the nearest voxel of the other one.

    Args:
        predicted, labeled: bool, of one shape, of any number of axes.
        spacing: size of a voxel along each axis.
        percentile: 100 for the Hausdorff distance; 95 is less sensitive to single voxels.

    Returns:
        None if one of the two regions is empty.

    Raises:
        WavedilError: other types or shapes, or scipy is missing.
    """
    for name, region in (("predicted", predicted), ("labeled", labeled)):
        if region.dtype != bool or region.shape != labeled.shape or not region.ndim:
            raise WavedilError(
                f"{name} is {region.dtype} of shape {region.shape}: expected bool, both of shape {labeled.shape}"
            )
    if len(spacing) != labeled.ndim:
        raise WavedilError(
            f"spacing has {count_text(len(spacing), 'number')}: expected one for each of {labeled.ndim} axes"
        )
    if not (predicted.any() and labeled.any()):
        return None
    box = _bounds(predicted | labeled)
    surfaces = [_surface(region[box]) for region in (predicted, labeled)]
    image = import_extra("scipy.ndimage", "medical")
    distances = [image.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
    return max(
        float(np.percentile(distances[1][surfaces[0]], percentile)),
        float(np.percentile(distances[0][surfaces[1]], percentile)),
    )


def _bounds(region: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that contains a region."""
    axes = range(region.ndim)
    lines = [np.flatnonzero(region.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def _surface(region: np.ndarray) -> np.ndarray:
    """The voxels of a region with a neighbor outside it across a face; outside of the array is outside the region."""
    padded = np.pad(region, 1)
    inner = region.copy()
    for axis in range(region.ndim):
        for shift in (-1, 1):
            inner &= np.roll(padded, shift, axis)[(slice(1, -1),) * region.ndim]
    return region & ~inner
