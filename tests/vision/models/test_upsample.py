"""Where a cell sits: both conventions by hand, and on a square that moves by their difference."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.vision import LearnedUpsample, upsample


@pytest.mark.parametrize(
    ("align", "first", "last"),
    [("center", 16, 39), ("corner", 13, 35)],  # half a cell from cells 2 and 4 at pixels 8 i + 3.5, or 8 i
)
def test_a_square_stays_where_its_cells_sit(align, first, last):
    cells = torch.zeros(1, 1, 8, 9)
    cells[..., 2:5, 3:6] = 1
    inside = upsample(cells, (64, 72), 8, align)[0, 0] > 0.5
    rows, columns = inside[:, 32].nonzero().flatten(), inside[24].nonzero().flatten()  # through the middle cell
    assert rows.tolist() == list(range(first, last + 1))
    assert columns.tolist() == list(range(first + 8, last + 9))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("align", ["center", "corner"])
def test_pixels_are_interpolated_between_the_cells_beside_them(ndim, stride, align):
    cells, size = (
        (4, 3, 2)[:ndim],
        (4 * stride - 1, 3 * stride, 2 * stride + 1)[:ndim],
    )  # rounded up, even, rounded down
    x = torch.randn(2, 3, *cells, dtype=torch.float64)
    want = x.numpy()
    for axis, (c, p) in enumerate(zip(cells, size, strict=True), 2):
        offset = (stride - 1) / 2 if align == "center" else 0
        place = np.clip((np.arange(p) - offset) / stride, 0, c - 1)
        want = np.apply_along_axis(lambda line, place=place: np.interp(place, np.arange(len(line)), line), axis, want)
    torch.testing.assert_close(upsample(x, size, stride, align), torch.as_tensor(want))


def test_nothing_is_stretched_and_the_stride_is_found():
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
        (((60, 64), 4), "a stride of 4 does not lead"),
        (((60, 120), None), "any power of two"),
        (((64, 64), 0), "a stride of 0"),
        (((64,), 8), "one size per axis"),
        (((64, 64), 8, "pixel"), "align is 'pixel': expected one of center, corner"),
    ],
)
def test_upsample_refuses(arguments, message):
    with pytest.raises(WavedilError, match=message):
        upsample(torch.zeros(1, 1, 8, 8), *arguments)


def test_the_learned_layer_starts_as_the_center_convention():
    layer = LearnedUpsample(19)
    assert sum(p.numel() for p in layer.parameters()) == 4864
    x = torch.randn(1, 19, 5, 6)
    y, want = layer(x), upsample(x, (40, 48), 8)
    assert y.shape == want.shape
    torch.testing.assert_close(y[..., 4:-4, 4:-4], want[..., 4:-4, 4:-4])
    assert torch.equal(layer(x, (33, 48)), y[..., :33, :])
    with pytest.raises(WavedilError, match=r"\(5, 6\) cells of 8 pixels are not those of \(41, 48\) pixels"):
        layer(x, (41, 48))
    assert (y[..., 0, 4:-4].abs() < want[..., 0, 4:-4].abs()).all()  # it pads with zeros
    weight = torch.randn(19, 1, 16, 16)
    layer.load_caffe_names({"ctx_upsample": (weight.numpy(),), "fc6": (1, 2)})
    torch.testing.assert_close(layer(x), F.conv_transpose2d(x, weight, stride=8, padding=4, groups=19))
    with pytest.raises(WavedilError, match="there is no ctx_upsample.weight"):
        layer.load_caffe_names({})
    with pytest.raises(WavedilError, match="expected a positive and an even"):
        LearnedUpsample(3, stride=5)
