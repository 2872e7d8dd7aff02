"""Tiles of any network equal the full image, or the layer that prevents it is named."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil import DilatedStack
from wavedil.core import ConvBlock
from wavedil.errors import WavedilError
from wavedil.vision import tile_exactly
from wavedil.vision.exact_tiles import tile_margin


def conv(inputs, outputs, **options):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, **{"padding": 1} | options), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """Encoder and decoder: strides 2, 4 and 8 inside, output stride 1; 14 x 14 pixels or more."""

    def __init__(self, extra=None):
        super().__init__()
        self.one, self.two = conv(3, 4), conv(4, 6, stride=2)
        self.deep = conv(6, 6, dilation=2, padding=2, stride=2)
        self.extra = nn.Identity() if extra is None else extra
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.out = nn.Conv2d(16, 3, 3, padding=1, padding_mode="replicate")

    def forward(self, x):
        one = self.one(x)
        two = self.two(F.max_pool2d(one, 3, 1, 1))
        deep = self.extra(self.deep(two))
        up = F.pad(self.up(deep), (0, 1, 0, 1))[..., : two.shape[2], : two.shape[3]]
        both = F.interpolate(torch.cat([two, up], 1), scale_factor=2)[..., : x.shape[2], : x.shape[3]]
        return self.out(torch.cat([one, both], 1))


@pytest.mark.parametrize("tile", [16, 33])
@torch.no_grad()
def test_tiles_equal_the_full_image(tile):
    torch.manual_seed(0)
    for model in (
        Net(),
        nn.Sequential(conv(3, 4), nn.AvgPool2d(2), conv(4, 4, stride=2), conv(4, 2, dilation=3, padding=3)),
    ):
        model = model.double()
        model(torch.rand(4, 3, 32, 32, dtype=torch.float64))  # statistics of the batch norms
        model.eval()
        margin = tile_margin(model, torch.rand(1, 3, 8, 8, dtype=torch.float64))
        for size in ((120, 96), (97, 61)):
            image, calls = torch.rand(2, 3, *size, dtype=torch.float64), []
            found = tile_exactly(model, image, tile, margin=margin, progress=lambda *n, to=calls: to.append(n))
            torch.testing.assert_close(found, model(image), rtol=0, atol=1e-12)
            assert len(calls) > 5 and calls[-1][0] == calls[-1][1]
        image = torch.rand(1, 3, 96, 96, dtype=torch.float64)
        assert (tile_exactly(model, image, tile, margin=0) - model(image)).abs().max() > 1e-3


@torch.no_grad()
def test_outputs_with_other_strides_along_each_axis():
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(3, 4, stride=(2, 1)), nn.MaxPool2d((2, 1)), conv(4, 4, stride=2), conv(4, 2, dilation=2, padding=2)
    )
    model = model.double().eval()
    image = torch.rand(1, 3, 97, 61, dtype=torch.float64)
    found = tile_exactly(model, image, 24)
    assert found.shape == model(image).shape == (1, 2, 12, 31)
    torch.testing.assert_close(found, model(image), rtol=0, atol=1e-12)


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return x * self.fc(self.pool(x)).sigmoid()


@pytest.mark.parametrize(
    ("extra", "layer"), [(Squeeze(), "extra.pool"), (nn.GroupNorm(2, 6), "extra"), (nn.InstanceNorm2d(6), "extra")]
)
def test_the_layer_that_sees_the_full_image_is_named(extra, layer):
    torch.manual_seed(0)
    with pytest.raises(WavedilError, match=f"the output of layer {layer} depends on the full image"):
        tile_exactly(Net(extra).eval(), torch.rand(1, 3, 40, 40), 16)


def test_other_models_and_images_are_refused():
    image = torch.rand(1, 3, 40, 40)
    with pytest.raises(WavedilError, match="model is in training mode"):
        tile_exactly(Net(), image, 16)
    with pytest.raises(WavedilError, match=r"expected \(batch, channels, height, width\)"):
        tile_exactly(Net().eval(), image[0], 16)
    with pytest.raises(WavedilError, match="model maps 256 x 256 pixels to 254 x 254"):
        tile_exactly(nn.Conv2d(3, 3, 3).eval(), image, 16)
    with pytest.raises(WavedilError, match="model returns shape"):
        tile_exactly(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten()).eval(), image, 16)


def volume_network():
    """Receptive field (9, 9, 13)."""
    torch.manual_seed(0)
    stack = DilatedStack(3, [2, 4, 4, 4], [(1, 2, 2), (2, 1, 1), (1, 1, 3)], block=ConvBlock)
    return nn.Sequential(stack, nn.BatchNorm3d(4), nn.Conv3d(4, 3, 1)).double().eval()


@torch.no_grad()
def test_tiles_of_a_volume_equal_the_whole():
    model, volume = volume_network(), torch.rand(1, 2, 13, 16, 21, dtype=torch.float64)
    expected, calls = model(volume), []
    for tile, margin in ((6, 6), ((5, 16, 7), (4, 4, 6)), (40, 6), (1, 6)):
        if tile == 1:
            volume, expected = volume[..., :3, :3], model(volume[..., :3, :3])
        found = tile_exactly(model, volume, tile, margin=margin, progress=lambda *numbers: calls.append(numbers))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert calls[0] == (1, 3 * 3 * 4)
    volume = torch.rand(1, 2, 13, 16, 21, dtype=torch.float64)
    assert (tile_exactly(model, volume, 6, margin=(4, 4, 5)) - model(volume)).abs().max() > 1e-6


@torch.no_grad()
def test_tiles_of_a_volume_with_strides():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(1, 4, 3, stride=(1, 2, 2), padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, stride=2, padding=1)
    )
    model, volume = model.double().eval(), torch.rand(2, 1, 17, 30, 25, dtype=torch.float64)
    margin = tile_margin(model, volume)
    assert margin == 8
    found = tile_exactly(model, volume, 9, margin=margin)
    assert found.shape == (2, 2, 9, 8, 7)
    torch.testing.assert_close(found, model(volume), rtol=0, atol=1e-12)


def test_other_volumes_and_networks_are_refused():
    volume = torch.rand(1, 2, 8, 8, 8)
    with pytest.raises(WavedilError, match="output of layer 0 depends on the full image"):
        tile_exactly(nn.Sequential(nn.InstanceNorm3d(2), nn.Conv3d(2, 2, 1)).eval(), volume, 4)
    with pytest.raises(WavedilError, match="or a volume"):
        tile_exactly(volume_network().float(), volume[None], 4)
    with pytest.raises(WavedilError, match="tile is .*one for each of 3 axes"):
        tile_exactly(volume_network().float(), volume, (4, 4), margin=4)
