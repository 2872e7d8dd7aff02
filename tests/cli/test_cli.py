"""The shell: what it prints, what it writes, how it refuses."""

import json

import numpy as np
import pytest
import torch

from wavedil.audio import LogMel, NearestUpsampling, WaveNet, save
from wavedil.audio.data import audio_files
from wavedil.audio.models.vits import WN
from wavedil.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    return str(save(WaveNet(8, 8, "1..8", sample_rate=8000), tmp_path_factory.mktemp("models") / "model"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for index, frames in enumerate((900, 800, 70)):
        audio_files.write(folder / f"{index}.flac", 0.3 * torch.sin(torch.arange(frames) / 7).unsqueeze(0), 8000)
    return folder


def run(capsys, *argv, status=0):
    assert main([str(a) for a in argv]) == status
    return capsys.readouterr()


def refused(capsys, *argv):
    """The one line of an error."""
    try:
        status = main([str(a) for a in argv])
    except SystemExit as exit:
        status = exit.code
    out = capsys.readouterr()
    assert status == 2 and out.err.startswith("error: ") and out.err.count("\n") == 1, out.err
    assert "Traceback" not in out.err
    return out.err


def test_sample(capsys, tmp_path, model, sounds):
    result = json.loads(
        run(capsys, "sample", model, "--seconds", 0.05, "--num", 3, "--seed", 4, "--out", tmp_path / "a").out
    )
    assert result["engine"] == "numba" and result["precision"] == "fp32" and result["samples_per_second"] > 0
    assert result["real_time_factor"] == pytest.approx(result["samples_per_second"] / 8000, abs=1e-3)
    first = [audio_files.read(path) for path in result["files"]]
    assert [(sound.shape, rate) for sound, rate in first] == [((1, 400), 8000)] * 3
    again = json.loads(
        run(capsys, "sample", model, "--seconds", 0.05, "--num", 1, "--seed", 4, "--out", tmp_path / "b").out
    )
    assert (audio_files.read(again["files"][0])[0] == first[0][0]).all()
    primed = run(
        capsys, "sample", model, "--seconds", 0.01, "--out", tmp_path / "c", "--prime", sounds / "0.flac", "--top-k", 5
    )
    assert len(json.loads(primed.out)["files"]) == 1


def test_evaluate(capsys, model, sounds):
    result = json.loads(run(capsys, "evaluate", model, sounds, "--json").out)
    assert result["count"] == 1770 and 0 < result["bits_per_sample"] < 20 and "8000 Hz" in result["definition"]
    held = json.loads(run(capsys, "evaluate", model, sounds, "--json", "--held-out").out)
    alone = json.loads(run(capsys, "evaluate", model, sounds / "0.flac", "--json").out)
    assert held == alone and held["count"] == 900
    assert "bits per sample over 900 samples" in run(capsys, "evaluate", model, sounds / "0.flac").out


def test_evaluate_prepares_as_the_recipe_did(capsys, tmp_path, model, sounds):
    sound, rate = audio_files.read(sounds / "0.flac")
    loud = sound * (0.9 / abs(sound).max())
    audio_files.write(tmp_path / "quiet.wav", 0.25 * loud, rate, subtype="FLOAT")
    audio_files.write(tmp_path / "loud.wav", loud, rate, subtype="FLOAT")
    quiet, same, expected = (
        json.loads(run(capsys, "evaluate", model, tmp_path / name, "--json", *how).out)["bits_per_sample"]
        for name, how in [("quiet.wav", ()), ("quiet.wav", ("--normalize", "peak")), ("loud.wav", ())]
    )
    assert same == pytest.approx(expected, abs=1e-6) and abs(quiet - expected) > 1e-3
    assert "expected 'peak', 'rms' or None" in refused(capsys, "evaluate", model, sounds, "--normalize", "loud")
    assert "use it with --resynthesize" in refused(capsys, "evaluate", model, sounds, "--temperature", 0)


def test_there_is_no_figure_for_the_others(capsys, tmp_path, sounds):
    folder = save(WN(4, 3, 1, 1), tmp_path / "wn")
    assert "there is no figure for a WN: expected a WaveNet" in refused(capsys, "evaluate", folder, sounds)


def test_inspect(capsys, tmp_path, model):
    info = json.loads(run(capsys, "inspect", "1,2,4,8,16", "--ndim", 2, "--kernel-size", 3, "--json").out)
    assert info["receptive_field"] == 63 and info["holes"] == 0
    plain = json.loads(run(capsys, "inspect", "1 x7", "--kernel-size", 3, "--json").out)
    dilated = json.loads(run(capsys, "inspect", "1..64", "--kernel-size", 3, "--json").out)
    assert plain["parameters"] == dilated["parameters"]
    assert (plain["receptive_field"], dilated["receptive_field"]) == (15, 255)
    bad = json.loads(run(capsys, "inspect", "2,2,2", "--kernel-size", 3, "--json").out)
    assert (bad["holes"], bad["hdc_m2"]) == (6, 2)
    text = run(capsys, "inspect", "1..512", "--rate", 16000).out
    assert "1024" in text and "64" in text and "ms" in text
    of_model = json.loads(run(capsys, "inspect", model, "--json", "--plot", tmp_path / "field.png").out)
    assert of_model["dilations"] == [1, 2, 4, 8] and of_model["receptive_field"] == 16
    assert (tmp_path / "field.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sample", "nowhere"], "nowhere is not a model folder"),
        (["sample", "{model}", "--seconds", "0"], "--seconds is 0"),
        (["sample", "{model}", "--num", "0"], "num is 0"),
        (["sample", "{model}", "--engine", "warp"], "expected one of auto"),
        (["sample", "{model}", "--device", "abacus"], "abacus"),
        (["sample", "{model}", "--prime", "nowhere.wav"], "nowhere.wav"),
        (["sample", "{model}", "--sconds", "1"], "--sconds"),
        (["evaluate", "{model}", "nowhere"], "nowhere"),
        (["inspect", "1,0,2"], "0"),
        (["inspect", ""], "schedule"),
        (["inspect", "1..500"], "512"),
        (["inspect", "1,2", "--plot", "picture.gif"], "png"),
        (["report", "nowhere"], "not a run folder"),
        (["bench", "nothing"], "conv"),
        (["train", "-c", "nothing.yaml"], "does not exist"),
        (["dance"], "dance"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, tmp_path, monkeypatch, model, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *[a.format(model=model) for a in argv])
    assert not list(tmp_path.iterdir())


def test_conditioned_sampling_and_evaluation(capsys, tmp_path, sounds):
    torch.manual_seed(0)
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=64, hop_length=20))
    model = save(WaveNet(8, 8, "1..8", sample_rate=8000, condition=mel, speakers=["ann", "bob"]), tmp_path / "model")
    audio_files.write(tmp_path / "high.wav", 0.1 * torch.randn(1, 1601), 16000)
    ask = ["sample", model, "--condition", tmp_path / "high.wav", "--out", tmp_path / "out"]
    result = json.loads(run(capsys, *ask, "--speaker", "bob").out)
    assert (
        audio_files.read(result["files"][0])[0].shape == (1, 801) and result["engine"] == "numba"
    )  # resampled to 8000 Hz
    short = run(capsys, *ask, "--speaker", "ann", "--seconds", 0.01, "--guidance", 1.5, "--num", 2)
    assert json.loads(short.out)["engine"] == "numba" and json.loads(short.out)["seconds_each"] == 0.01
    np.save(tmp_path / "mels.npy", np.zeros((4, 3), np.float32))
    of_array = run(capsys, *ask[:3], tmp_path / "mels.npy", *ask[4:], "--speaker", "ann")
    assert json.loads(of_array.out)["seconds_each"] == 60 / 8000
    (tmp_path / "who.csv").write_text("file,speaker\n" + "".join(f"{i}.flac,ann\n" for i in range(3)))
    result = json.loads(run(capsys, "evaluate", model, sounds, "--json", "--speakers", tmp_path / "who.csv").out)
    assert result["count"] == 1770 and "its speaker" in result["definition"]
    assert json.loads(run(capsys, "inspect", model, "--json").out)["receptive_field"] == 16
    audio_files.write(tmp_path / "ann.wav", 0.1 * torch.randn(1, 1200), 8000)
    again = ["evaluate", model, tmp_path / "ann.wav", "--speakers", "^(...)", "--resynthesize", 1]
    first, second = (
        json.loads(run(capsys, *again, "--temperature", t, "--guidance", 2, "--json").out) for t in (1, 0.5)
    )
    assert first["distance_db"] != second["distance_db"] and first["griffin_lim_db"] == second["griffin_lim_db"]
    assert "this model knows ann, bob" in refused(capsys, *ask, "--speaker", "eve")
    assert "needs a speaker" in refused(capsys, *ask)
    assert "ask for less" in refused(capsys, *ask, "--speaker", "ann", "--seconds", 1)
    assert "needs a condition" in refused(capsys, "sample", model, "--speaker", "ann", "--seconds", 0.01)
    assert "speakers is not set" in refused(capsys, "evaluate", model, sounds)
    np.savez(tmp_path / "mels.npz", a=np.zeros((4, 3)), b=np.zeros(3))
    (tmp_path / "mels.npz").replace(tmp_path / "several.npy")
    assert "it has several arrays" in refused(capsys, *ask[:3], tmp_path / "several.npy", *ask[4:], "--speaker", "ann")
    np.save(tmp_path / "mels.npy", np.full((4, 3), np.nan, np.float32))
    assert "12 values that are NaN" in refused(capsys, *ask[:3], tmp_path / "mels.npy", *ask[4:], "--speaker", "ann")
