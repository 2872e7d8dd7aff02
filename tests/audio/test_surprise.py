"""Bits over time: their mean is that of evaluation, and planted clicks, cuts and noise are the largest."""

import csv
import json

import numpy as np
import pytest
import torch

from wavedil.audio import WaveNet, load, write
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.audio.evaluation import evaluate
from wavedil.audio.surprise import surprise, write_csv
from wavedil.errors import WavedilError


def make(**options):
    torch.manual_seed(0)
    return WaveNet(**{"channels": 6, "skip_channels": 6, "dilations": "1..4", "sample_rate": 8000, **options}).eval()


@pytest.mark.parametrize(("window_ms", "windows"), [(10, 13), (0.1, 1001), (1000, 1)])
def test_windows_have_the_mean_of_evaluation(window_ms, windows):
    sound = 0.1 * torch.randn(1001, generator=torch.Generator().manual_seed(0))
    result = surprise(make(), sound, window_ms=window_ms)
    assert len(result.bits) == len(result.seconds) == windows
    counts = np.diff(np.append(np.arange(0, 1001, result.window), 1001))
    assert (result.bits * counts).sum() / 1001 == pytest.approx(result.mean)
    assert result.mean == pytest.approx(evaluate(make(), [sound]).bits_per_sample, rel=1e-5)


@pytest.mark.parametrize("fault", ["click", "cut", "noise"])
def test_planted_faults_are_the_most_surprising_moment(fault):
    model = load("pluck")
    sound = render_melody(compose(1, np.random.default_rng(7)), model.sample_rate)[: model.sample_rate].copy()
    at = 5230
    if fault == "click":
        sound[at] += 0.1
    elif fault == "cut":
        sound = np.delete(sound, slice(at, at + 333))
    else:
        sound[at : at + 200] += 0.03 * np.random.default_rng(0).standard_normal(200)
    first = surprise(model, sound.astype(np.float32)).moments()[0]
    assert at / model.sample_rate - 0.011 < first["seconds"] < (at + 200) / model.sample_rate


def test_moments_are_apart_and_csv_has_every_window(tmp_path):
    result = surprise(make(), 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0)))
    seconds = sorted(each["seconds"] for each in result.moments(4))
    assert len(seconds) == 4 and np.diff(seconds).min() >= 0.03 - 1e-9
    assert len(surprise(make(), torch.zeros(30)).moments()) == 1
    write_csv(result, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["bits"]) for row in rows] == pytest.approx(result.bits.tolist(), rel=1e-5)
    assert float(rows[3]["seconds"]) == pytest.approx(0.03)


def test_odd_input_is_refused():
    with pytest.raises(WavedilError, match="no distribution of sound"):
        surprise(torch.nn.Linear(1, 1), torch.zeros(9))
    for sound in (torch.zeros(0), torch.zeros(1, 9)):
        with pytest.raises(WavedilError, match="expected \\(time,\\)"):
            surprise(make(), sound)
    for window in (0, -1, float("nan"), "x"):
        with pytest.raises(WavedilError, match="window_ms"):
            surprise(make(), torch.zeros(9), window_ms=window)


def test_the_command_writes_what_it_is_asked_for(capsys, tmp_path):
    from wavedil.cli import main

    write(tmp_path / "in.wav", 0.1 * torch.randn(1, 3000, generator=torch.Generator().manual_seed(0)), 16000)
    outputs = ["--csv", str(tmp_path / "a.csv"), "--plot", str(tmp_path / "a.png")]
    assert main(["surprise", "pluck", str(tmp_path / "in.wav"), "--json", *outputs]) == 0
    out = capsys.readouterr()
    result = json.loads(out.out)
    assert result["windows"] == 19 and result["bits_per_sample"] > 3 and out.err.count("wrote ") == 2
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "a.csv").exists()
    for words, message in [
        (["pluck", tmp_path / "none.wav"], "no such"),
        (["pluck", tmp_path / "in.wav", "--plot", tmp_path / "a.gif"], ".png"),
        (["pluck", tmp_path / "in.wav", "--csv", tmp_path / "in.wav"], "in.wav"),
        (["overdrive", tmp_path / "in.wav"], "expected a WaveNet"),
    ]:
        assert main(["surprise", *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert main(["surprise", "pluck", str(tmp_path / "in.wav")]) == 0
    assert "the most surprising moments" in capsys.readouterr().out
