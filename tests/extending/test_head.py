"""Heads, context modules and refinements defined outside the package: trained by a recipe, saved, loaded, and used."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.core import DilatedConv
from wavedil.vision import Segmenter, SmallBackbone, load, predict, save
from wavedil.weights import register


@register
class DilatedHead(nn.Module):
    """A 3x3 convolution of dilation 2, and scores. Reads the last feature map of the backbone."""

    def __init__(self, in_channels: int | Sequence[int], num_classes: int, channels: int = 8):
        super().__init__()
        inputs = in_channels if isinstance(in_channels, int) else in_channels[-1]
        self.conv = DilatedConv(2, inputs, channels, 3, dilation=2)
        self.score = DilatedConv(2, channels, num_classes, 1)
        self.receptive_field = 5  # cells of the feature map; None would mean the full map

    def forward(self, features: Tensor | Sequence[Tensor]) -> Tensor:
        x = features if isinstance(features, Tensor) else features[-1]
        return self.score(self.conv(x).relu())


@register
class ResidualContext(nn.Module):
    """Adds a dilated convolution of the scores to the scores."""

    def __init__(self, num_classes: int, dilation: int = 4):
        super().__init__()
        self.conv = DilatedConv(2, num_classes, num_classes, 3, dilation=dilation)
        self.receptive_field = self.conv.receptive_field

    def forward(self, scores: Tensor) -> Tensor:
        return scores + self.conv(scores)


@register
class BrightnessBias(nn.Module):
    """A refinement: adds to the scores of each class a learned multiple of the brightness of the pixel."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, num_classes))

    def forward(self, image: Tensor, scores: Tensor) -> Tensor:
        brightness = image.to(scores.dtype).mean(1, keepdim=True) / 255  # uint8 (batch, 3, height, width)
        return scores + self.weight.view(-1, 1, 1) * brightness


def make_segmenter() -> Segmenter:
    torch.manual_seed(0)
    parts = SmallBackbone(8, 4), DilatedHead(8, 3), ResidualContext(3, dilation=3), BrightnessBias(3)
    return Segmenter(*parts, num_classes=3).eval()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_save_load_and_predict(tmp_path):
    model = make_segmenter()
    loaded = load(save(model, tmp_path / "model"))
    image = noise(70, 61)
    labels = predict(model, image)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(predict(loaded, image), labels)
    np.testing.assert_array_equal(predict(loaded, image, tile=16), labels)


def test_receptive_field_adds_head_and_context():
    model = make_segmenter()
    assert model.receptive_field == 21 + 4 * (5 - 1) + 4 * (7 - 1)  # pixels; SmallBackbone has 21 at stride 4


def test_the_refinement_gets_the_image_in_uint8():
    model = make_segmenter()
    pixels = torch.from_numpy(noise(12, 9)).permute(2, 0, 1).unsqueeze(0)
    plain = Segmenter(model.backbone, model.head, model.context, num_classes=3).eval()
    difference = model(pixels / 255) - plain(pixels / 255)
    brightness = pixels.float().mean(1, keepdim=True) / 255
    torch.testing.assert_close(difference, model.refinement.weight.view(-1, 1, 1) * brightness, atol=1e-5, rtol=1e-4)


def test_train_by_class_path(train_tiny):
    model = train_tiny(
        "--model.backbone.channels=8",
        f"--model.head={__name__}.DilatedHead",
        "--model.head.channels=6",
        f"--model.context={__name__}.ResidualContext",
        f"--model.refinement={__name__}.BrightnessBias",
    )
    parts = model.head, model.context, model.refinement
    assert [type(part) for part in parts] == [DilatedHead, ResidualContext, BrightnessBias]
    assert model.head.conv.out_channels == 6 and predict(model, noise(24, 20)).shape == (24, 20)
