"""Backbones defined outside the package: trained by a recipe, saved, loaded, and used for prediction."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.vision import Conv1x1Head, Segmenter, load, predict, save, to_dense
from wavedil.weights import register


@register
class StridedBackbone(nn.Module):
    """Two 3x3 convolutions of stride 2: ``(batch, 3, height, width) -> (batch, channels, height / 4, width / 4)``."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.channels = channels
        self.output_stride = 4
        self.receptive_field = 7  # pixels: 3 + 2 * 2; None would mean the full image
        self.align = "corner"  # odd kernels: cell i is centered on pixel 4 i

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


@register
class DenseClassifierBackbone(nn.Module):
    """A classifier defined here, converted by ``to_dense`` in the constructor."""

    def __init__(self, channels: int = 6, output_stride: int = 4):
        super().__init__()
        self.network = to_dense(make_classifier(channels), output_stride)
        self.channels, self.output_stride = channels, output_stride
        self.receptive_field, self.align = self.network.receptive_field, self.network.align

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image)


def make_classifier(channels: int) -> nn.Module:
    """An image classifier of stride 8."""
    convs = [nn.Conv2d(inputs, channels, 3, stride=2, padding=1) for inputs in (3, channels, channels)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("make", [StridedBackbone, DenseClassifierBackbone])
def test_save_load_and_predict(make, tmp_path):
    torch.manual_seed(0)
    backbone = make(channels=6)
    model = Segmenter(backbone, Conv1x1Head(backbone.channels, 3), num_classes=3).eval()
    loaded = load(save(model, tmp_path / "model"))
    assert type(loaded.backbone) is make and loaded.align == "corner"
    image = noise(50, 37)
    labels = predict(model, image)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(predict(loaded, image), labels)
    np.testing.assert_array_equal(predict(loaded, image, tile=16), labels)  # the receptive field is large enough


def test_a_bare_dense_backbone_is_not_saved_and_the_error_says_what_to_do(tmp_path):
    model = Segmenter(to_dense(make_classifier(6), 4), Conv1x1Head(6, 3), num_classes=3)
    message = (
        "cannot save Segmenter.backbone: a DenseBackbone is a traced graph.*in the constructor of a registered class"
    )
    with pytest.raises(WavedilError, match=message):
        save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_train_by_class_path(train_tiny):
    backbone = f"--model.backbone={__name__}.StridedBackbone"
    model = train_tiny(backbone, "--model.backbone.channels=8", "--model.context=null")
    assert isinstance(model.backbone, StridedBackbone) and model.backbone.channels == 8
    assert predict(model, noise(24, 20)).shape == (24, 20)
