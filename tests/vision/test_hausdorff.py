"""The Hausdorff distance equals that of all pairs of surface voxels."""

import numpy as np
import pytest

from wavedil.errors import WavedilError
from wavedil.vision import hausdorff_distance

pytest.importorskip("scipy")


def brute_force(a, b, spacing, percentile=100):
    def surface(region):
        return [
            at
            for at in zip(*np.nonzero(region), strict=True)
            if any(
                not (0 <= at[axis] + step < region.shape[axis])
                or not region[tuple(n + step * (i == axis) for i, n in enumerate(at))]
                for axis in range(region.ndim)
                for step in (-1, 1)
            )
        ]

    points = [np.array(surface(region)) * spacing for region in (a, b)]
    apart = np.linalg.norm(points[0][:, None] - points[1], axis=2)
    return max(np.percentile(apart.min(1), percentile), np.percentile(apart.min(0), percentile))


@pytest.mark.parametrize("percentile", [100, 95])
def test_hausdorff_distance_equals_brute_force(percentile):
    generator = np.random.default_rng(2)
    for shape, spacing in (((7, 8, 9), (3.0, 1.5, 1.25)), ((5, 6), (1.0, 2.5)), ((4, 1, 9), (0.5, 4.0, 1.0))):
        for share in (0.03, 0.5, 0.98):
            a, b = (generator.random((2, *shape)) < share) | (np.arange(shape[-1]) == [[3], [4]]).reshape(
                2, *[1] * (len(shape) - 1), -1
            )
            a[:, : shape[1] // 2] = False if shape[1] > 1 else a[:, : shape[1] // 2]
            found = hausdorff_distance(a, b, spacing, percentile)
            assert found == pytest.approx(brute_force(a, b, spacing, percentile))
            assert hausdorff_distance(a, a, spacing, percentile) == 0


def test_hausdorff_distance_of_known_regions():
    a, b = np.zeros((2, 9, 9, 9), bool)
    a[1:4, 1:4, 1:4] = True
    assert hausdorff_distance(a, b, (1, 1, 1)) is None and hausdorff_distance(b, a, (1, 1, 1)) is None
    b[1:8, 1:4, 1:4] = True
    assert hausdorff_distance(a, b, (2.5, 1, 1)) == hausdorff_distance(b, a, (2.5, 1, 1)) == 10
    for arguments, message in [
        ((a.astype(int), b, (1, 1, 1)), "predicted is int64"),
        ((a[0], b, (1, 1, 1)), "both of shape"),
        ((a, b, (1, 1)), "spacing has 2 numbers"),
        ((a, b, (1, 1, 0)), "spacing"),
    ]:
        with pytest.raises(WavedilError, match=message):
            hausdorff_distance(*arguments)
