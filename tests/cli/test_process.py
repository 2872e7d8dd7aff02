"""``wavedil process`` and ``wavedil evaluate`` with effects."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, WaveNet, load, process_file, save
from wavedil.audio.data import audio_files
from wavedil.audio.models.nam import NAM, LayerArray, NAMContainer
from wavedil.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("effects")
    save(Effect(4, 4, "1,2,4", knobs={"gain": [0, 1]}, sample_rate=8000), folder / "model")
    save(WaveNet(4, 4, "1,2", sample_rate=8000), folder / "wavenet")
    sound = 0.1 * np.random.default_rng(0).standard_normal((2, 900)).astype(np.float32)
    audio_files.write(folder / "in.wav", sound, 8000)
    audio_files.write(folder / "in44.wav", sound, 44100)
    audio_files.write(folder / "short.wav", sound[:, :300], 8000)
    audio_files.write(folder / "silent.wav", 0 * sound, 8000)
    for name, target in (("pair", "in"), ("uneven", "short"), ("mute", "silent"), ("fast", "in44"), ("loud", "in")):
        gain = 2 if name == "loud" else 0.5
        (folder / f"{name}.csv").write_text(f"input,target,gain,skip\nin.wav,{target}.wav,{gain},100\n")
    (folder / "knobless.csv").write_text("input,target\nin.wav,in.wav\n")
    return folder


def test_process(run, folder, tmp_path):
    words = ["process", folder / "model", folder / "in.wav", tmp_path / "out.flac", "--knob", "gain=0.5"]
    result = json.loads(run(*words).out)
    assert result["file"] == f"{tmp_path}/out.flac" and result["real_time_factor"] > 0
    info = audio_files.info(tmp_path / "out.flac")
    assert (info.channels, info.frames) == (2, 900)
    options = ["--knob", "gain=0.5", "--resample", "--subtype", "FLOAT"]
    run("process", folder / "model", folder / "in44.wav", tmp_path / "b.wav", *options)
    info = audio_files.info(tmp_path / "b.wav")
    assert (info.frames, info.subtype) == (163, "FLOAT")


@pytest.fixture
def takes(tmp_path):
    """A folder with sounds in a subfolder, and a broken file."""
    sound = 0.1 * np.random.default_rng(0).standard_normal((2, 400)).astype(np.float32)
    audio_files.write(tmp_path / "takes/a.wav", sound, 8000, "PCM_24")
    audio_files.write(tmp_path / "takes/day 2/b.flac", sound[:1], 8000)
    audio_files.write(tmp_path / "takes/e.wav", sound[:, :200], 8000)
    audio_files.write(tmp_path / "solo.wav", 20 * sound[:, :50], 8000, "FLOAT")
    (tmp_path / "takes/c.wav").write_bytes(b"RIFF")
    return tmp_path


def test_folders_are_processed_file_by_file_and_a_broken_one_is_named(capsys, folder, takes):
    words = ["process", folder / "model", takes / "takes", takes / "solo.wav", takes / "out", "--knob", "gain=0.5"]
    with pytest.warns(UserWarning, match=r"solo.wav: \d+ of 100 samples are outside"):
        assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    result = {entry["input"].removeprefix(f"{takes}/"): entry for entry in json.loads(out)}
    message = "takes/c.wav: not a readable audio file"
    assert list(result) == ["takes/a.wav", "takes/c.wav", "takes/day 2/b.flac", "takes/e.wav", "solo.wav"]
    assert message in result["takes/c.wav"]["error"] and len(result["takes/c.wav"]) == 2
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    written = {path.relative_to(takes / "out").as_posix() for path in (takes / "out").rglob("*") if path.is_file()}
    assert written == {"a.wav", "day 2/b.flac", "e.wav", "solo.wav"}
    for name in ("takes/a.wav", "takes/day 2/b.flac", "takes/e.wav"):
        entry = result[name]
        run_alone = process_file(load(folder / "model"), takes / name, takes / Path(name).name, {"gain": 0.5})
        assert {"input", *run_alone} == set(entry) and entry["channels"] == run_alone["channels"]
        assert Path(entry["file"]).read_bytes() == Path(run_alone["file"]).read_bytes()
    (takes / "takes/c.wav").unlink()
    words = ["process", folder / "model", takes / "takes", takes / "takes/wet", "--knob", "gain=0.5"]
    for message in (
        "",
        f"{takes}/takes/wet: 3 of 3 files are replaced\n",
    ):  # the second time, its results are no inputs
        assert main([str(word) for word in words]) == 0
        out, err = capsys.readouterr()
        assert len(json.loads(out)) == 3 and err == message


def test_one_file_goes_to_a_folder_or_to_a_file(run, folder, tmp_path):
    for out, file in (("new", "new/in.wav"), ("v1.0/", "v1.0/in.wav"), ("new", "new/in.wav"), ("x.flac", "x.flac")):
        result = run("process", folder / "model", folder / "in.wav", f"{tmp_path}/{out}", "--knob", "gain=0.5")
        assert json.loads(result.out)["file"] == f"{tmp_path}/{file}" and (tmp_path / file).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["takes", "takes/a.wav", "out"], "would both be written as a.wav: write one elsewhere"),
        (["takes", "takes"], "a.wav is the input"),
        (["takes", "solo.wav", "other.wav"], "out other.wav looks like a file: expected a folder"),
        (["takes", "out", "--subtype", "VORBIS"], "out/a.wav: WAV has no subtype 'VORBIS'"),
        (["takes", "out", "--knob", "tone=1"], "knob 'tone' is unknown"),
        (["takes", "out", "--quality", "0.5"], "an Effect like this has only one"),
        (["empty", "out"], "no audio files in this folder"),
        (["takes", "takes/c.wav"], "out takes/c.wav is a file: expected a folder"),
        (["takes", "model"], "is in the input folder"),
        (["solo.wav", ""], "OUT is empty: expected a value"),
        (["solo.wav", "-"], "OUT is '-': expected a file or a folder"),
    ],
)
def test_several_files_are_refused_before_anything_is_written(refused, folder, takes, monkeypatch, words, message):
    (takes / "empty").mkdir()
    (takes / "model").symlink_to(folder / "model")
    before = sorted(takes.rglob("*"))
    knobs = [] if "--knob" in words else ["--knob", "gain=0.5"]
    monkeypatch.chdir(takes)
    assert message in refused("process", "model", *words, *knobs)
    assert sorted(takes.rglob("*")) == before


def test_quality_picks_a_network(run, refused, folder, tmp_path):
    torch.manual_seed(1)
    networks = [NAM([LayerArray(1, 2, 1, "1,2")], sample_rate=8000, head_scale=0.3) for _ in range(2)]
    save(NAMContainer(networks, [0.5, 1]), tmp_path / "pack")
    save(networks[0], tmp_path / "small")
    for name, model, words in (("a", "pack", ["--quality", 0.4]), ("b", "small", []), ("c", "pack", [])):
        run("process", tmp_path / model, folder / "in.wav", tmp_path / f"{name}.wav", *words)
    a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b != c
    words = ["process", tmp_path / "small", folder / "in.wav", tmp_path / "d.wav", "--quality"]
    assert "quality is 0.5: a NAM like this has only one" in refused(*words, 0.5)
    words[1] = tmp_path / "pack"
    found = [
        json.loads(run("evaluate", tmp_path / name, folder / "knobless.csv", "--json", *options).out)["esr_percent"]
        for name, options in (("pack", ["--quality", 0.4]), ("small", []), ("pack", []))
    ]
    assert found[0] == found[1] != found[2]
    evaluate = ["evaluate", tmp_path / "pack", folder / "knobless.csv", "--quality"]
    for value in ("1.5", "-1", "nan"):
        assert f"quality is {value}: expected a number from 0 to 1" in refused(*evaluate, value).replace("1.0", "1")
        assert f"quality is {value}: expected a number from 0 to 1" in refused(*words, value).replace("1.0", "1")
    assert not (tmp_path / "d.wav").exists()


def test_evaluate(run, folder):
    result = json.loads(run("evaluate", folder / "model", folder / "pair.csv", "--json").out)
    assert result["count"] == 800 and result["esr_percent"] > 0 and "first 100 samples" in result["definition"]
    text = run("evaluate", folder / "model", folder / "pair.csv").out
    assert f"ESR {result['esr_percent']:.3f} % over 800 samples of 1 segment" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.wav"], "error: --knob 'gain' is not set: give a value in 0..1"),
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.wav", "--knob", "gain=3"], "knob 'gain' is 3: expected"),
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.wav", "--knob", "tone=3"], "knob 'tone' is unknown"),
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.wav", "--knob", "gain"], "expected NAME=NUMBER"),
        (["process", "{0}/model", "{0}/in44.wav", "{1}/o.wav", "--knob", "gain=0"], "44100 Hz and the model 8000 Hz"),
        (["process", "{0}/model", "{0}/none.wav", "{1}/o.wav", "--knob", "gain=0"], "none.wav: no such file"),
        (["process", "{0}/model", "{0}/in.wav", "{1}/o.xyz", "--knob", "gain=0"], "unknown suffix '.xyz'"),
        (["process", "{0}/model", "{0}/in.wav", "{0}/in.wav", "--knob", "gain=0"], "is the input"),
        (
            ["process", "{0}/wavenet", "{0}/in.wav", "{1}/o.wav"],
            "holds a WaveNet: expected an Effect, NAM",
        ),
        (["sample", "{0}/model", "--out", "{1}/o"], "holds an Effect, which generates nothing: expected a WaveNet"),
        (["evaluate", "{0}/model", "{0}/uneven.csv"], "in.wav has 900 samples and {0}/short.wav 300"),
        (["evaluate", "{0}/model", "{0}/mute.csv"], "silent.wav is silent in all its 900 samples"),
        (["evaluate", "{0}/model", "{0}/fast.csv"], "in.wav has 8000 Hz and {0}/in44.wav 44100 Hz"),
        (["evaluate", "{0}/model", "{0}/loud.csv"], "knob 'gain' is 2"),
        (["evaluate", "{0}/model", "{0}/knobless.csv"], "knob 'gain' is not set"),
        (["evaluate", "{0}/model", "{1}"], "/input is not a folder: expected"),
        (["evaluate", "{0}/model", "{0}/none.csv"], "none.csv does not exist: expected"),
    ],
)
def test_bad_input_is_refused_in_one_line(refused, folder, tmp_path, words, message):
    before = (folder / "in.wav").read_bytes()
    assert message.format(folder) in refused(*[word.format(folder, tmp_path) for word in words])
    assert not list(tmp_path.iterdir()) and (folder / "in.wav").read_bytes() == before


def test_a_nam_model_is_processed_evaluated_and_inspected(run, refused, tmp_path):
    torch.manual_seed(0)
    array = LayerArray(1, 4, 1, "1,2,8", head_bias=True)
    model = NAM([array], sample_rate=8000)
    save(model, tmp_path / "model")
    sound = 0.2 * torch.randn(1, 3001)
    for name, y in (("input", sound), ("target", model(sound[None])[0].detach())):
        audio_files.write(tmp_path / "pairs" / name / "a.wav", y, 8000, subtype="FLOAT")
    source, out = tmp_path / "pairs/input/a.wav", tmp_path / "out.wav"
    run("process", tmp_path / "model", source, out, "--subtype", "FLOAT")
    found, _ = audio_files.read(out)
    torch.testing.assert_close(torch.from_numpy(found), model(sound[None])[0].detach())
    assert json.loads(run("evaluate", tmp_path / "model", tmp_path / "pairs", "--json").out)["esr_percent"] < 1e-8
    assert json.loads(run("inspect", tmp_path / "model", "--json").out)["receptive_field"] == 1 + 2 * 11
    words = ["process", tmp_path / "model", source, tmp_path / "o.wav", "--knob", "gain=1"]
    assert "knob 'gain' is unknown: expected none" in refused(*words)
