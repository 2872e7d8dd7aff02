"""Normalization of volumes: the formulas, constant volumes, and models that apply it to complete volumes."""

import numpy as np
import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.vision import (
    NormalizeIntensity,
    ScaleIntensityRange,
    VolumeSegmenter,
    label_volume,
    load,
    save,
    tile_exactly,
)
from wavedil.vision.volume_prediction import label_slice


def volumes(*shape):
    return 300 + 40 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_each_channel_of_each_volume_has_mean_0_and_deviation_1():
    x = volumes(2, 3, 4, 5, 6)
    x[1, 2] *= 1e-3
    x[1, 1] *= 1e25  # the square is not a number of 32 bits
    y = NormalizeIntensity()(x)
    assert y.dtype == x.dtype and y.shape == x.shape
    for one, other in zip(x.flatten(0, 1).double(), y.flatten(0, 1), strict=True):
        torch.testing.assert_close(other.double(), (one - one.mean()) / one.std(correction=0), rtol=0, atol=1e-4)
    torch.testing.assert_close(NormalizeIntensity()(x[1:]), y[1:], rtol=0, atol=0)  # other volumes do not matter


def test_integers_become_float32():
    x = torch.arange(24).view(1, 1, 2, 3, 4)
    for dtype in (torch.uint8, torch.int16, torch.int64):
        torch.testing.assert_close(NormalizeIntensity()(x.to(dtype)), NormalizeIntensity()(x.float()))


def test_voxels_of_0_are_left_out_and_stay_0():
    x = volumes(1, 1, 6, 6, 6)
    x[..., :2] = 0
    y, inside = NormalizeIntensity(nonzero=True)(x), x != 0
    assert (y[~inside] == 0).all()
    known = x[inside].double()
    torch.testing.assert_close(y[inside].double(), (known - known.mean()) / known.std(correction=0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.3, 40000.1, 3e-6, 1e30])
@pytest.mark.parametrize("nonzero", [False, True])
def test_a_constant_channel_becomes_0(value, nonzero):
    x = torch.full((1, 2, 5, 6, 7), value)
    x[0, 1, 0, 0, 0] = 0 if nonzero else value
    assert (NormalizeIntensity(nonzero)(x) == 0).all()


def test_a_window_is_mapped_to_0_to_1():
    x = torch.tensor([-1000.0, -160.0, 40.0, 240.0, 3000.0]).view(1, 1, 1, 1, 5)
    assert ScaleIntensityRange(-160, 240)(x).flatten().tolist() == [0, 0, 0.5, 1, 1]
    for a_min, a_max in ((3, 3), (3, 2), (float("nan"), 2), (0, float("inf"))):
        with pytest.raises(WavedilError, match="a_m(in|ax) is"):
            ScaleIntensityRange(a_min, a_max)


@pytest.mark.parametrize(
    "normalization", [NormalizeIntensity(), NormalizeIntensity(nonzero=True), ScaleIntensityRange(250, 350)]
)
def test_a_model_normalizes_the_complete_volume(tmp_path, normalization):
    torch.manual_seed(0)
    model = VolumeSegmenter(3, 1, 4, [(1, 2, 2)], normalization=normalization).double()
    for _ in range(20):
        model(volumes(4, 1, 8, 8, 8).double())  # statistics of the batch norms
    volume = volumes(1, 13, 12, 14).double()
    volume[:, :, :5] = 0
    with torch.no_grad():
        model.eval().final.bias -= model(volume[None]).mean((0, 2, 3, 4))
        labels = model(volume[None])[0].argmax(0).numpy()
    assert len(np.unique(labels)) == 3
    for tile in (None, 5):
        np.testing.assert_array_equal(label_volume(model, volume, tile), labels)
    for index in (0, 6, 12):
        np.testing.assert_array_equal(label_slice(model, volume, index), labels[index])
    stored = load(save(model.float(), tmp_path / "model"))
    assert vars(stored.normalization).items() >= {k: v for k, v in vars(normalization).items() if k[0] != "_"}.items()
    if isinstance(normalization, NormalizeIntensity):
        np.testing.assert_array_equal(label_volume(model.double(), 3 * volume), labels)


def test_mean_and_std_besides_a_normalization_are_refused():
    with pytest.raises(WavedilError, match="normalization is a NormalizeIntensity: leave them out"):
        VolumeSegmenter(2, mean=[1.0], normalization=NormalizeIntensity())


def test_tiles_of_a_model_that_normalizes_are_refused():
    """They would have other means and deviations."""
    model = VolumeSegmenter(2, 1, 2, [1], normalization=NormalizeIntensity()).eval()
    with pytest.raises(WavedilError, match="layer normalization depends on the full image"):
        tile_exactly(model, volumes(1, 1, 9, 9, 9), 5)
