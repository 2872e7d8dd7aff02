"""Upsampling: both alignments of cells and pixels, sizes that the stride does not divide, and the learned layer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.vision import LearnedUpsample, upsample


@pytest.mark.parametrize(
    ("align", "first", "last"),
    [("center", 16, 39), ("corner", 13, 35)],  # cells 2 to 4 are at pixels 8 i + 3.5 or 8 i
)
def test_a_square_is_upsampled_in_place(align, first, last):
    cells = torch.zeros(1, 1, 8, 9)
    cells[..., 2:5, 3:6] = 1
    inside = upsample(cells, (64, 72), 8, align)[0, 0] > 0.5
    rows, columns = inside[:, 32].nonzero().flatten(), inside[24].nonzero().flatten()  # through the central cell
    assert rows.tolist() == list(range(first, last + 1))
    assert columns.tolist() == list(range(first + 8, last + 9))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("align", ["center", "corner"])
def test_upsampling_equals_numpys_linear_interpolation(ndim, stride, align):
    cells, size = (
        (4, 3, 2)[:ndim],
        (4 * stride - 1, 3 * stride, 2 * stride + 1)[:ndim],
    )  # pixels / stride is rounded up, exact, rounded down
    x = torch.randn(2, 3, *cells, dtype=torch.float64)
    want = x.numpy()
    for axis, (c, p) in enumerate(zip(cells, size, strict=True), 2):
        offset = (stride - 1) / 2 if align == "center" else 0
        place = np.clip((np.arange(p) - offset) / stride, 0, c - 1)
        want = np.apply_along_axis(lambda line, place=place: np.interp(place, np.arange(len(line)), line), axis, want)
    torch.testing.assert_close(upsample(x, size, stride, align), torch.as_tensor(want))


@pytest.mark.parametrize("align", ["center", "corner"])
def test_strides_of_each_axis(align):
    x = torch.randn(1, 2, 5, 7, dtype=torch.float64)
    y = upsample(x, (19, 13), (4, 2), align)
    rows = upsample(x.permute(0, 3, 1, 2).reshape(7, 2, 5), (19,), 4, align).reshape(1, 7, 2, 19)
    columns = upsample(rows.permute(0, 3, 2, 1).reshape(19, 2, 7), (13,), 2, align)
    torch.testing.assert_close(y, columns.reshape(1, 19, 2, 13).transpose(1, 2))
    assert torch.equal(upsample(x, (19, 13), align=align), y)  # found
    assert torch.equal(upsample(x, (20, 28), align=align), upsample(x, (20, 28), 4, align))


def test_the_stride_is_found_and_the_map_is_cropped_not_stretched():
    x = torch.randn(1, 2, 15, 8, dtype=torch.float64)
    for size in ((29, 15), (30, 16), (31, 17)):  # 31: a network that rounds down
        y = upsample(x, size)
        assert torch.equal(y[..., 1:29, 1:15], F.interpolate(x, scale_factor=2, mode="bilinear")[..., 1:29, 1:15])
        assert y.shape[2:] == size
    assert upsample(x, (15, 8)) is x
    assert upsample(x, (113, 64)).shape[2:] == (113, 64)  # 15 cells of 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((60, 64), 4), "stride is 4: expected size / stride cells"),
        (((60, 20), None), "stride is a power of two: expected"),
        (((64, 64), 0), "stride is 0: expected"),
        (((64,), 8), "one size per axis"),
        (((64, 64), 8, "pixel"), "align is 'pixel': expected one of center, corner"),
    ],
)
def test_invalid_sizes_raise(arguments, message):
    with pytest.raises(WavedilError, match=message):
        upsample(torch.zeros(1, 1, 8, 8), *arguments)


def test_learned_upsample_starts_as_bilinear_interpolation_with_center_alignment():
    layer = LearnedUpsample(19)
    assert sum(p.numel() for p in layer.parameters()) == 4864
    x = torch.randn(1, 19, 5, 6)
    y, want = layer(x), upsample(x, (40, 48), 8)
    assert y.shape == want.shape
    torch.testing.assert_close(y[..., 4:-4, 4:-4], want[..., 4:-4, 4:-4])
    assert torch.equal(layer(x, (33, 48)), y[..., :33, :])
    with pytest.raises(WavedilError, match=r"x has \(5, 6\) cells, size is \(41, 48\): expected size / 8"):
        layer(x, (41, 48))
    assert (y[..., 0, 4:-4].abs() < want[..., 0, 4:-4].abs()).all()  # it pads with zeros
    nn.init.normal_(layer.up.weight)
    torch.testing.assert_close(layer(x), F.conv_transpose2d(x, layer.up.weight, stride=8, padding=4, groups=19))
    with pytest.raises(WavedilError, match="expected a positive and an even"):
        LearnedUpsample(3, stride=5)
