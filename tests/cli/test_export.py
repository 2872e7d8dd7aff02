"""``wavedil export`` of streaming ONNX files: the lines that it prints, in onnxruntime, beside ``wavedil process``."""

import json

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, WaveNet, save
from wavedil.audio.data import audio_files
from wavedil.audio.effects.process import process_file
from wavedil.audio.models.nam import NAM, LayerArray

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the export extra")
pytest.importorskip("onnxscript", reason="needs the export extra")


def amp() -> NAM:
    torch.manual_seed(0)
    arrays = [LayerArray(1, 3, 2, "1,2"), LayerArray(3, 2, 1, "4", head_bias=True, head_kernel_size=3)]
    return NAM(arrays, head_scale=0.5, sample_rate=24000).eval()


def effect() -> Effect:
    torch.manual_seed(0)
    ranges = {"gain": [0, 2]}
    return Effect(3, 4, "1,2", 2, knobs=ranges, time_constants=[0.01], charges=[0.3], sample_rate=8000).eval()


@pytest.mark.parametrize(("make", "settings"), [(amp, {}), (effect, {"gain": 1.7})])
def test_the_printed_lines_do_what_process_does(make, settings, run, tmp_path):
    model, rate = make(), make().sample_rate
    save(model, tmp_path / "model")
    knobs = [f"--knob={name}={value}" for name, value in settings.items()]
    text = run("export", tmp_path / "model", tmp_path / "a.onnx", "--streaming", *knobs).out.splitlines()
    assert text[:2] == [str(tmp_path / "a.onnx"), str(tmp_path / "a.start.npz")] and len(text) == 5
    sound = np.random.default_rng(0).uniform(-1, 1, (1, 3000)).astype(np.float32)
    audio_files.write(tmp_path / "in.wav", sound, rate, "FLOAT")
    process_file(model, tmp_path / "in.wav", tmp_path / "out.wav", settings, subtype="FLOAT")
    names = {"onnxruntime": onnxruntime, "numpy": np}
    exec(text[2], names)
    parts = []
    for begin in range(0, 3000, 700):
        names["chunk"] = sound[None, :, begin : begin + 700]
        exec(text[3] + "\n" + text[4], names)
        parts.append(names["output"][0])
    expected = audio_files.read(tmp_path / "out.wav")[0]
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, rtol=0, atol=2e-6)
    with torch.no_grad():
        from_zero = model(torch.from_numpy(sound)[None], *([model.knob_values(settings)[None]] if settings else []))
    # NAM starts from zero input; the other one has a start-up transient.
    assert (np.abs(expected - from_zero[0].numpy()).max() > 1e-3) == bool(settings)
    found = names["session"].get_modelmeta().custom_metadata_map
    assert found["sample_rate"] == str(rate) and found["receptive_field"] == str(model.receptive_field)
    if settings:
        assert json.loads(found["knobs"]) == {"gain": [0, 2]} and json.loads(found["start_knobs"]) == settings


def test_bad_start_knobs_are_refused(refused, tmp_path):
    save(effect(), tmp_path / "effect")
    save(WaveNet(4, 4, "1"), tmp_path / "wavenet")
    words = ["export", tmp_path / "effect", tmp_path / "a.onnx"]
    assert "knob 'gain' is 3: expected a value in 0..2" in refused(*words, "--streaming", "--knob", "gain=3")
    assert "knob 'gain' is nan: expected a value in 0..2" in refused(*words, "--streaming", "--knob", "gain=nan")
    assert "knob 'tone' is unknown: expected one of gain" in refused(*words, "--streaming", "--knob", "tone=1")
    assert "--knob gain: expected NAME=NUMBER" in refused(*words, "--streaming", "--knob", "gain")
    assert "knobs are for the start state of a streaming" in refused(*words, "--knob", "gain=1")
    words[1] = tmp_path / "wavenet"
    assert "knob 'gain' is unknown: a WaveNet like this" in refused(*words, "--streaming", "--knob", "gain=1")
    assert not (tmp_path / "a.onnx").exists()
