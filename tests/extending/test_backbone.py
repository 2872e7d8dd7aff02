"""Backbones defined outside the package: trained by a recipe, saved, loaded, and used for prediction."""

import copy
import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.trusted import trust
from wavedil.vision import Conv1x1Head, Segmenter, UNet, load, predict, save, to_dense
from wavedil.vision.data.images import read_mask, write_image
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


def test_a_dense_classifier_is_saved_without_its_class(tmp_path):
    """The graph is stored as plain values, with functions, parameters and layers of any torch network."""

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)
            self.body = nn.Conv2d(6, 6, 3, stride=2, padding=2, groups=2, dilation=2, padding_mode="replicate")
            self.scale = nn.Parameter(torch.randn(6, 1, 1))
            self.pool, self.drop, self.out = nn.AvgPool2d(3, 2, 1), nn.Dropout(0.3), nn.Linear(6, 4)

        def forward(self, x):
            x = nn.functional.gelu(self.norm(self.stem(x)), approximate="tanh")
            x = torch.cat([x[:, :3], x[:, 3:].relu()], 1) * self.scale
            return self.out(self.drop(self.pool(self.body(x))).mean((2, 3)))

    torch.manual_seed(0)
    for levels in ((), (2,)):
        dense = to_dense(Classifier(), 4, levels=levels)
        head = UNet(dense.level_channels, 3, channels=[4]) if levels else Conv1x1Head(6, 3)
        model = Segmenter(dense, head, num_classes=3).eval()
        loaded = load(save(model, tmp_path / "model"))
        again = load(save(loaded, tmp_path / "again"))
        for name in ("receptive_field", "align", "channels", "level_channels", "output_stride", "stride", "center"):
            assert getattr(again.backbone, name) == getattr(dense, name)
        image = torch.rand(1, 3, 50, 37)
        assert torch.equal(again(image), model(image)) and torch.equal(copy.deepcopy(again)(image), model(image))
    with pytest.raises(WavedilError, match="cannot save this Segmenter: .*backbone"):
        model.backbone.stem = nn.Conv2d(3, 6, 5, stride=2, padding=2)
        save(model, tmp_path / "model")


def test_a_graph_with_other_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = Segmenter(to_dense(make_classifier(6), 4), Conv1x1Head(6, 3), num_classes=3)
    path = save(model, tmp_path / "model") / "config.json"
    text = path.read_text()
    for old, new in (
        ('"0"', '"__class__"'),
        ('"0"', '"forward"'),
        ('"0"', json.dumps('0") + open("ran", "w", -1, "utf-8').replace("/", "")),
        ('"input"', "\"x=open('ran', 'w')\""),
        ('"input_1"', "\"x=open('ran', 'w')\""),
        ('"dict": {}', "\"dict\": {\"a=open('ran', 'w'), b\": 1}"),
        ('"_1"', '"class"'),
        ('"check_image"', '"os.system"'),
        ('"check_image"', '"torch.load"'),
        ('"check_image"', '"builtins.eval"'),
        ('"type": "DenseConv2d"', '"type": "_convolve"'),
        ('"nodes"', '"node"'),
        ('"call_module"', '"get_attr"'),
        ('"in": 6', '"in": 1000000000'),
        ('"output"', '"placeholder"'),
        ('"channels": 3', '"channels": 1000000000000'),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(WavedilError) as error:
            load(path.parent)
        assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()

    class Custom(nn.Module):
        def forward(self, x):
            return x + 1

    classifier = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), Custom(), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(WavedilError, match="cannot save Segmenter.backbone: the graph .* in the constructor of a"):
        save(Segmenter(to_dense(classifier, 2), Conv1x1Head(6, 3), num_classes=3), tmp_path / "other")


def test_train_a_dense_classifier_by_name(train_tiny, tmp_path, monkeypatch):
    (tmp_path / "plain_classifier.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    convs = [nn.Conv2d(c, 6, 3, stride=2, padding=1) for c in (3, 6, 6)]\n"
        "    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    backbone = "--model.backbone=wavedil.vision.dense_classifier"
    with pytest.raises(WavedilError, match="name is 'plain_classifier:build': expected timm:NAME .* with --import"):
        train_tiny(backbone, "--model.backbone.name=plain_classifier:build", "--model.context=null")
    trust(["plain_classifier"])
    options = ["--model.backbone.name=plain_classifier:build", "--model.backbone.output_stride=4"]
    model = train_tiny(backbone, *options, "--model.context=null")
    assert (model.backbone.output_stride, model.backbone.stride) == (4, 8)
    assert predict(model, noise(24, 20)).shape == (24, 20)


PARTS = """
from torch import nn

class Backbone(nn.Sequential):
    channels, output_stride, receptive_field = 5, 2, 3

    def __init__(self, width: int = 5):
        super().__init__(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU())

class Head(nn.Conv2d):
    receptive_field = 1

    def __init__(self, in_channels: int, num_classes: int, scale: float = 1.0):
        super().__init__(in_channels, num_classes, 1)
"""


def test_parts_that_are_not_registered(train_tiny, tmp_path, monkeypatch):
    """A recipe names them; a model folder may name them only if the user names their module."""
    (tmp_path / "plain_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["--model.backbone=plain_parts.Backbone", "--model.head=plain_parts.Head", "--model.head.scale=2"]
    model = train_tiny(*options, "--model.context=null")
    assert type(model.backbone).__name__ == "Backbone"
    labels = predict(model, noise(24, 20))
    script = "import sys; from wavedil.vision import load; load(sys.argv[1], imports=sys.argv[2:])"
    run = partial(subprocess.run, capture_output=True, text=True, cwd=tmp_path)
    refused = run([sys.executable, "-c", script, "run/model"])
    assert "plain_parts.Backbone', which is not registered: import the module" in refused.stderr
    assert run([sys.executable, "-c", script, "run/model", "plain_parts"]).returncode == 0
    write_image(tmp_path / "in.png", noise(24, 20))
    words = ["segment", "run/model", "in.png", "--out", "out"]
    assert run([sys.executable, "-m", "wavedil", *words]).returncode == 2
    assert run([sys.executable, "-m", "wavedil", "--import", "plain_parts", *words]).returncode == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "out/in.png", colors=False), labels)


def test_train_by_class_path(train_tiny):
    backbone = f"--model.backbone={__name__}.StridedBackbone"
    model = train_tiny(backbone, "--model.backbone.channels=8", "--model.context=null")
    assert isinstance(model.backbone, StridedBackbone) and model.backbone.channels == 8
    assert predict(model, noise(24, 20)).shape == (24, 20)
