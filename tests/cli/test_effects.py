"""The shell with effects: process, evaluate, and how they refuse."""

import json

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, WaveNet, save
from wavedil.audio.data import audio_files
from wavedil.audio.models.nam import NAM, LayerArray
from wavedil.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("effects")
    save(Effect(4, 4, "1,2,4", knobs={"gain": [0, 1]}, sample_rate=8000), folder / "model")
    save(WaveNet(4, 4, "1,2", sample_rate=8000), folder / "wavenet")
    sound = 0.1 * np.random.default_rng(0).standard_normal((2, 900)).astype(np.float32)
    audio_files.write(folder / "in.wav", sound, 8000)
    audio_files.write(folder / "in44.wav", sound, 44100)
    audio_files.write(folder / "short.wav", sound[:, :800], 8000)
    audio_files.write(folder / "silent.wav", 0 * sound, 8000)
    for name, target in (("pair", "in"), ("uneven", "short"), ("mute", "silent"), ("fast", "in44"), ("loud", "in")):
        gain = 2 if name == "loud" else 0.5
        (folder / f"{name}.csv").write_text(f"input,target,gain,skip\nin.wav,{target}.wav,{gain},100\n")
    (folder / "knobless.csv").write_text("input,target\nin.wav,in.wav\n")
    return folder


def test_process(capsys, folder, tmp_path):
    assert main(["process", f"{folder}/model", f"{folder}/in.wav", f"{tmp_path}/out.flac", "--knob", "gain=0.5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["file"] == f"{tmp_path}/out.flac" and result["real_time_factor"] > 0
    assert (
        audio_files.info(tmp_path / "out.flac").channels == 2 and audio_files.info(tmp_path / "out.flac").frames == 900
    )
    arguments = ["--knob", "gain=0.5", "--resample", "--subtype", "FLOAT"]
    assert main(["process", f"{folder}/model", f"{folder}/in44.wav", f"{tmp_path}/b.wav", *arguments]) == 0
    assert (audio_files.info(tmp_path / "b.wav").frames, audio_files.info(tmp_path / "b.wav").subtype) == (163, "FLOAT")


def test_evaluate(capsys, folder):
    assert main(["evaluate", f"{folder}/model", f"{folder}/pair.csv", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["count"] == 800 and result["esr_percent"] > 0 and "first 100 samples" in result["definition"]
    assert main(["evaluate", f"{folder}/model", f"{folder}/pair.csv"]) == 0
    assert f"ESR {result['esr_percent']:.3f} % over 800 samples of 1 segments" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.wav"], "knob 'gain' is not set: give a value in 0..1"),
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.wav", "--knob", "gain=3"], "knob 'gain' is 3: expected"),
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.wav", "--knob", "tone=3"], "knob 'tone' is unknown"),
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.wav", "--knob", "gain"], "expected NAME=NUMBER"),
        (["process", "{0}/model", "{0}/in44.wav", "{1}/o.wav", "--knob", "gain=0"], "44100 Hz and the model 8000 Hz"),
        (["process", "{0}/model", "{0}/none.wav", "{1}/o.wav", "--knob", "gain=0"], "none.wav: no such file"),
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.xyz", "--knob", "gain=0"], "unknown suffix '.xyz'"),
        (["process", "{0}/model", "{0}/in.wav", "{0}/in.wav", "--knob", "gain=0"], "is the input"),
        (["process", "{0}/wavenet", "{0}/in.wav", "{1}/o.wav"], "holds a WaveNet: expected an Effect or NAM"),
        (["sample", "{0}/model", "--out", "{1}/o"], "holds a Effect: expected a WaveNet"),
        (["evaluate", "{0}/model", "{0}/uneven.csv"], "in.wav has 900 samples and {0}/short.wav 800"),
        (["evaluate", "{0}/model", "{0}/mute.csv"], "silent.wav is silent from sample 100 on, so its ESR is"),
        (["evaluate", "{0}/model", "{0}/fast.csv"], "in44.wav has 44100 Hz and the model 8000 Hz"),
        (["evaluate", "{0}/model", "{0}/loud.csv"], "knob 'gain' is 2"),
        (["evaluate", "{0}/model", "{0}/knobless.csv"], "knob 'gain' is not set"),
        (["evaluate", "{0}/model", "{0}/pair.csv", "--crf"], "--crf is for images, not for a Effect"),
        (["evaluate", "{0}/model", "{0}/pair.csv", "--exclude", "x"], "--exclude is not for models of pairs"),
        (["evaluate", "{0}/wavenet", "{0}/in.wav", "--resample"], "--resample is for a model of Effect or NAM"),
        (["evaluate", "{0}/model", "{1}"], "expected input/ and target/"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, folder, tmp_path, argv, message):
    before = (folder / "in.wav").read_bytes()
    assert main([a.format(folder, tmp_path) for a in argv]) == 2
    out = capsys.readouterr().err
    assert out.startswith("error: ") and out.count("\n") == 1 and message.format(folder) in out
    assert not list(tmp_path.iterdir()) and (folder / "in.wav").read_bytes() == before


def test_an_amplifier_model_of_another_program_plays_and_is_measured(tmp_path, capsys):
    torch.manual_seed(0)
    array = LayerArray(1, 4, 1, "1,2,8", head_bias=True)
    model = NAM([array], sample_rate=8000)
    save(model, tmp_path / "model")
    sound = 0.3 * torch.randn(1, 3001)
    for name, y in (("input", sound), ("target", model(sound[None])[0].detach())):
        audio_files.write(tmp_path / "pairs" / name / "a.wav", y, 8000, subtype="FLOAT")
    source, out = tmp_path / "pairs/input/a.wav", tmp_path / "out.wav"
    assert main(["process", str(tmp_path / "model"), str(source), str(out), "--subtype", "FLOAT"]) == 0
    found, _ = audio_files.read(out)
    torch.testing.assert_close(torch.from_numpy(found), model(sound[None])[0].detach())
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "model"), str(tmp_path / "pairs"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["esr_percent"] < 1e-8
    assert main(["inspect", str(tmp_path / "model"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["receptive_field"] == 1 + 2 * 11
    knob = ["process", str(tmp_path / "model"), str(source), str(tmp_path / "o.wav"), "--knob", "gain=1"]
    assert main(knob) == 2 and "knob 'gain' is unknown: this model has none" in capsys.readouterr().err
