"""ONNX files in onnxruntime: the model, and the streaming step over two seconds of chunks."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wavedil.audio import WaveNet
from wavedil.audio.models.effect import Effect
from wavedil.audio.models.nam import NAM, NAMLSTM
from wavedil.audio.models.tcn import TCN
from wavedil.core import DilatedStack
from wavedil.errors import WavedilError
from wavedil.interop import onnx as interop

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the export extra")
pytest.importorskip("onnxscript", reason="needs the export extra")


def wavenet() -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(6, 5, "1..4", input_kernel_size=2, num_codes=32, speakers=["a", "b"], speaker_channels=3).eval()


def tcn() -> TCN:
    torch.manual_seed(0)
    return TCN(5, 4, channels=6, dilations="1,2", kernel_size=3, gated=True).eval()


def inputs(model, batch, time):
    """Inputs by their names in the ONNX file."""
    if isinstance(model, Effect):
        return {"sound": torch.randn(batch, 1, time), "knobs": torch.rand(batch, 1)}
    if isinstance(model, TCN):
        return {"features": torch.randn(batch, 5, time)}
    if isinstance(model, NAM):
        return {"sound": torch.randn(batch, 1, time)}
    return {"codes": torch.randint(32, (batch, time)), "condition": torch.randn(batch, 3, time)}


def stream(path, feed, chunk):
    """The streaming loop in onnxruntime alone: the state is read from the .npz file and passed on by name."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    start = np.load(path.with_suffix(".start.npz"))
    batch, time = len(next(iter(feed.values()))), next(iter(feed.values())).shape[-1]
    state = {name: start[name].repeat(batch, axis=0) for name in start.files}
    assert {i.name for i in session.get_inputs()} == {*feed, *state}
    parts = []
    for begin in range(0, time, chunk):
        chunks = {name: (x if name == "knobs" else x[..., begin : begin + chunk]).numpy() for name, x in feed.items()}
        found = dict(zip(outputs, session.run(None, chunks | state), strict=True))
        parts.append(found.pop("output"))
        state = {name.removeprefix("next."): value for name, value in found.items()}
    return np.concatenate(parts, axis=-1)


@pytest.mark.parametrize("make", [wavenet, tcn])  # effects: tests/cli/test_export.py
@torch.no_grad()
def test_streaming_over_two_seconds(make, tmp_path):
    model = make()
    path = interop.export_onnx(model, tmp_path / "step.onnx", streaming=True)
    feed = inputs(model, 1, 2 * getattr(model, "sample_rate", 500))
    expected = model(*feed.values()).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(stream(path, feed, 1999), expected, rtol=0, atol=2e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step.onnx", "step.start.npz"]
    if make is wavenet:
        found = metadata(path)
        assert json.loads(found["quantizer"]) == {"name": "mulaw", "num_codes": 32, "pre_emphasis": 0.0}
        assert found["sample_rate"] == str(model.sample_rate) and "start_knobs" not in found


def metadata(path) -> dict[str, str]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map


@torch.no_grad()
def test_model_at_any_batch_size_and_length(tmp_path, monkeypatch):
    model = Effect(3, 4, "1,2", knobs={"gain": [0, 2]}, time_constants=[0.01], sample_rate=8000).eval()
    path = interop.export_onnx(model, tmp_path / "sub" / "whole.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 1), (4, 333)):  # one-pole filters run in blocks of 128
        feed = inputs(model, *shape)
        (found,) = session.run(None, {name: x.numpy() for name, x in feed.items()})
        np.testing.assert_allclose(found, model(*feed.values()).numpy(), rtol=0, atol=2e-6)
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["whole.onnx"]
    assert json.loads(metadata(path)["knobs"]) == {"gain": [0, 2]} and "start_knobs" not in metadata(path)

    class Written:
        """As if the exporter were wrong: the same file again, for other weights."""

        model = SimpleNamespace(metadata_props={})

        def save(self, target):
            shutil.copy(path, target)

    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: Written())
    model.out.bias += 1
    with pytest.raises(WavedilError, match="onnxruntime's output differs from torch's by .* of the largest"):
        interop.export_onnx(model, tmp_path / "wrong" / "whole.onnx")
    assert not list((tmp_path / "wrong").iterdir())


def test_other_models_are_refused(tmp_path):
    with pytest.raises(
        WavedilError, match="a DilatedStack cannot be exported to ONNX: expected a WaveNet, Effect, NAM"
    ):
        interop.export_onnx(DilatedStack(1, 2, [1]), tmp_path / "a.onnx")
    with pytest.raises(WavedilError, match="a NAMLSTM cannot be exported to ONNX"):
        interop.export_onnx(NAMLSTM(2), tmp_path / "a.onnx")
