"""A WaveNet with learned taps, defined outside the package: the shell samples, inspects and encodes with it."""

import json

import pytest
import torch

from wavedil.audio import generate, load
from wavedil.audio.data import audio_files
from wavedil.cli import main
from wavedil.core import fold_dilations
from wavedil.interop.onnx import _metadata
from wavedil.weights import save

MODULE = """
from wavedil import LearnedDilation, register
from wavedil.audio import WaveNet


@register
class LearnedWaveNet(WaveNet):
    def __init__(self, width: int = 8):
        super().__init__(width, width, "1..16", sample_rate=8000)
        for layer in self.stack.layers:
            layer.conv = LearnedDilation(1, width, 2 * width, 2, dilation=layer.conv.dilation, padding="causal")
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The model after training, snapped; in the working directory are its folder and one of the model before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_wavenet.py").write_text(MODULE)
    import my_wavenet

    torch.manual_seed(0)
    model = my_wavenet.LearnedWaveNet().eval()
    for layer in model.stack.layers:
        torch.nn.init.uniform_(layer.conv.positions, 0, layer.conv.span[0])
    save(model, "before")
    save(fold_dilations(model), "model")
    return model


def test_the_shell_uses_it(model, capsys):
    options = ["--import", "my_wavenet"]
    assert main(["sample", "model", "--seconds", "0.01", "--out", "clip.wav", *options]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "numba"
    found, expected = torch.from_numpy(audio_files.read("clip.wav")[0]), generate(load("model"), 80)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2**-15)  # a file of 16 bits
    assert main(["inspect", "model", "--json", "--plot", "field.svg", *options]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["receptive_field"] == model.receptive_field < 32 and "dilations" not in info and "holes" not in info
    assert main(["compress", "model", "clip.wav", "clip.wvd", *options]) == 0
    assert json.loads(_metadata(model, {})["quantizer"])["name"] == "mulaw"  # of an ONNX file


@pytest.mark.parametrize("command", ["sample before --seconds 0.01 --out clip.wav", "compress before a.wav a.wvd"])
def test_a_model_that_is_not_folded_is_refused_in_one_line(model, command, capsys):
    audio_files.write("a.wav", torch.zeros(1, 80), 8000)
    assert main([*command.split(), "--import", "my_wavenet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "taps are learned, not snapped: call fold_dilations(model)" in error
