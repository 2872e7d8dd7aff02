"""ONNX files of dense predictors in onnxruntime, and torch.export, at sizes that no stride divides."""

import importlib
import json

import pytest
import torch
from torch import nn

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.interop.onnx import export_onnx
from wavedil.vision import (
    CRFRNN,
    ContextModule,
    Conv1x1Head,
    NonLocal,
    PyramidPooling,
    Regressor,
    Segmenter,
    SmallBackbone,
    UNet,
    VGGFrontEnd,
    save,
    to_dense,
)

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the export extra")
pytest.importorskip("onnxscript", reason="needs the export extra")

SIZES = ((130, 90), (97, 97), (64, 200), (41, 19))


def segmenter(backbone, head, *others, **options) -> Segmenter:
    torch.manual_seed(0)
    channels = getattr(backbone, "level_channels", None) or backbone.channels
    return Segmenter(backbone, head(channels, 3), *others, num_classes=3, **options).eval()


def classifier() -> nn.Module:
    convs = [nn.Conv2d(inputs, 6, 3, stride=2, padding=1) for inputs in (3, 6, 6)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))


def same_classifier() -> nn.Module:
    """Padding as in TensorFlow, which depends on the size."""
    layers = pytest.importorskip("timm.layers")
    convs = [layers.Conv2dSame(inputs, 6, 3, stride=2) for inputs in (3, 6, 6)]
    return nn.Sequential(
        *convs, importlib.import_module("timm.layers.pool2d_same").MaxPool2dSame(3, 1), nn.AdaptiveAvgPool2d(1)
    )


MODELS = {
    "same": lambda: segmenter(to_dense(same_classifier(), 4), Conv1x1Head),
    "once": lambda: segmenter(
        SmallBackbone(8, 4), Conv1x1Head, ContextModule(3, dilations="1,2", padding="once", pad_mode="reflect")
    ),
    "unet": lambda: segmenter(to_dense(classifier(), 8, levels=[2, 4]), lambda *a: UNet(*a, channels=[8, 8])),
    "vgg": lambda: segmenter(VGGFrontEnd(None, widths=[4] * 5, hidden_channels=8), Conv1x1Head),
    "psp": lambda: segmenter(SmallBackbone(8, 4), lambda *a: PyramidPooling(*a, channels=8)),
    "attention": lambda: segmenter(SmallBackbone(8, 4), lambda *a: NonLocal(*a, channels=8)),
    "depth": lambda: Regressor(SmallBackbone(8, 4), Conv1x1Head(8, 1), target_mean=3.0, target_std=2.0).eval(),
}


@pytest.mark.parametrize("name", ["once", "vgg", "psp", "attention", "same"])
@torch.no_grad()
def test_traced_at_every_size(name):
    model = MODELS[name]()
    axes = ({axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)},)
    traced = torch.export.export(model, (torch.rand(2, 3, 96, 128),), dynamic_shapes=axes, strict=False).module()
    for height, width in SIZES:
        image = torch.rand(1, 3, height, width)
        torch.testing.assert_close(traced(image), model(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet", "depth"])
@torch.no_grad()
def test_onnx_at_every_size(name, tmp_path):
    model = MODELS[name]()
    path = export_onnx(model, tmp_path / "sub" / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for height, width in (*SIZES, (3, 7)):
        image = torch.rand(2, 3, height, width)
        (found,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(image), rtol=1e-3, atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["wavedil_class"] == type(model).__name__
    assert name == "depth" or json.loads(metadata["classes"]) == ["0", "1", "2"]
    assert [each.name for each in (tmp_path / "sub").iterdir()] == ["model.onnx"]


def test_what_cannot_be_exported_is_refused(tmp_path, capsys):
    model = segmenter(SmallBackbone(8, 4), Conv1x1Head, None, CRFRNN(3))
    with pytest.raises(WavedilError, match=r"with a refinement \(CRFRNN\) cannot be exported to ONNX"):
        export_onnx(model, tmp_path / "a.onnx")

    class Odd(SmallBackbone):
        def forward(self, image):
            x = super().forward(image)
            return x + int(x.shape[-1])  # a size that the trace fixes

    with pytest.raises(WavedilError, match="torch cannot export this Segmenter|pixels differs from torch's"):
        export_onnx(segmenter(Odd(8, 4), Conv1x1Head), tmp_path / "a.onnx")
    save(MODELS["depth"](), tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "a.onnx"), "--streaming"]) == 2
    assert "a Regressor has no streaming step" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
