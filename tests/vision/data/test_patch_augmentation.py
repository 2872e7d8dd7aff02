"""Augmentation of patches: labels follow their voxels, and intensities change as far as asked."""

import numpy as np
import pytest

from wavedil.errors import WavedilError
from wavedil.vision import PatchAugmentation


def patch(*size):
    """Distinct values, and labels that are a function of them."""
    values = np.arange(np.prod(size), dtype=np.float32).reshape(size)
    return np.stack([values, -values]), (values % 7).astype(np.uint8)


def results(augmentation, size, voxel_size=(1, 1, 1), count=200):
    image, labels = patch(*size)
    return [augmentation(image, labels, voxel_size, np.random.default_rng([3, number])) for number in range(count)]


SAME = {"scale": 0.0, "shift": 0.0}


@pytest.mark.parametrize(
    ("options", "size", "voxel_size", "orientations"),
    [
        ({"flip": []}, (3, 4, 4), (1, 1, 1), 4),
        ({"flip": ["depth"]}, (3, 4, 4), (1, 1, 1), 8),
        ({}, (3, 4, 4), (2, 1, 1.005), 16),
        ({}, (4, 4, 3), (1, 1.02, 1), 8),  # no plane with equal voxels
        ({}, (3, 3, 3), (1, 1, 1), 48),
        ({"rotate": False}, (3, 3, 3), (1, 1, 1), 8),
        ({"rotate": False, "flip": ["width"]}, (3, 3, 3), (1, 1, 1), 2),
        ({"rotate": False, "flip": []}, (3, 3, 3), (1, 1, 1), 1),
        ({"flip": []}, (1, 1, 1), (1, 1, 1), 1),
    ],
)
def test_orientations(options, size, voxel_size, orientations):
    found = results(PatchAugmentation(**SAME, **options), size, voxel_size, 600)
    for image, labels in found:
        assert image.shape == (2, *size) and labels.shape == size and labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, image[0] % 7)
        np.testing.assert_array_equal(image[1], -image[0])
        assert image.flags.c_contiguous and labels.flags.c_contiguous
    assert len({image.tobytes() for image, _ in found}) == orientations


def test_intensities_change_as_far_as_asked():
    still = {"flip": [], "rotate": False}
    image, labels = patch(2, 3, 4)
    factors, offsets = [], []
    for changed, same in results(PatchAugmentation(scale=0.2, shift=0.5, **still), (2, 3, 4)):
        np.testing.assert_array_equal(same, labels)
        for one, other in zip(image, changed, strict=True):
            slope, offset = np.polyfit(one.ravel(), other.ravel(), 1)
            np.testing.assert_allclose(slope * one + offset, other, atol=1e-4)
            factors.append(slope)
            offsets.append(offset)
    assert 0.8 <= min(factors) < 0.82 and 1.18 < max(factors) <= 1.2001
    assert -0.501 <= min(offsets) < -0.45 and 0.45 < max(offsets) <= 0.501
    assert not np.isclose(factors[0], factors[1])  # of two channels
    noisy = results(PatchAugmentation(noise=2.0, **SAME, **still), (10, 10, 10), count=40)
    deviations = [float((changed - patch(10, 10, 10)[0]).std(axis=(1, 2, 3)).max()) for changed, _ in noisy]
    assert max(deviations) > 1.5 and max(deviations) < 2.2
    curves = results(PatchAugmentation(gamma=(0.5, 2.0), **SAME, **still), (2, 3, 4))
    for changed, _ in curves:
        assert (np.diff(changed[0].ravel()) > 0).all()  # the order stays
        np.testing.assert_allclose(changed[0].ravel()[[0, -1]], [0, 23], atol=1e-4)
    middle = [float(changed[0].ravel()[6]) for changed, _ in curves]
    assert min(middle) < 2 and max(middle) > 11  # 23 (6/23)^2 = 1.57, 23 (6/23)^0.5 = 11.7


def test_a_constant_patch_stays_finite():
    image = np.full((1, 4, 4, 4), 5, np.float32)
    augmentation = PatchAugmentation(gamma=(0.5, 2.0), **SAME)
    changed, _ = augmentation(image, image[0].astype(np.uint8), (1, 1, 1), np.random.default_rng(0))
    assert (changed == 5).all() and changed.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": ["x"]}, "flip"),
        ({"scale": 1.5}, "scale is 1.5"),
        ({"shift": -1}, "shift is -1"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"gamma": (0.0, 1.0)}, "gamma is .*0.0"),
        ({"gamma": (2.0, 1.0)}, r"gamma is \[2.0, 1.0\]: expected \[minimum, maximum\]"),
        ({"gamma": (float("nan"), 1.0)}, "gamma"),
        ({"gamma": (1.0,)}, "gamma"),
    ],
)
def test_other_arguments_are_refused(options, message):
    with pytest.raises(WavedilError, match=message):
        PatchAugmentation(**options)
