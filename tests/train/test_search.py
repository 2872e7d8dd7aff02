"""``wavedil search -c RECIPE``: costs of the recipe's network, trainings, resumption."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from wavedil import WavedilError
from wavedil.audio import load, write
from wavedil.cli import main
from wavedil.core.cost import count_parameters
from wavedil.errors import Diverged, Interrupted
from wavedil.train import run, search
from wavedil.train.search import search_schedules
from wavedil.train.sound import AudioModule


@pytest.fixture
def small(small_recipe, tmp_path, monkeypatch):
    """Arguments of a search whose trainings take a moment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_write_samples", lambda *_: "")
    monkeypatch.setattr(run, "write_report", lambda folder: (folder / "report.html").touch())
    recipe = small_recipe({}, {}, {"max_time": "00:01:00:00"})
    return {"recipe": recipe, "out": "found", "steps": 2, "candidates": 2, "kernel_sizes": [2, 3]}


def test_trainings_are_finished_once_and_describe_their_model(small, capsys):
    result = search_schedules(**small)
    trained = [each for each in result["candidates"] if each["run"]]
    assert len(trained) == 2 and trained[0]["schedule"] != trained[1]["schedule"]
    for each in trained:
        model = load(Path(each["run"], "model"))
        assert each["parameters"] == count_parameters(model) and model.dilations == each["dilations"]
        assert model.receptive_field == each["receptive_field"] >= result["field"]
        assert (model.kernel_size, model.config["channels"]) == (each["kernel_size"], each["channels"])
        assert model.config["skip_channels"] == model.config["channels"]  # in proportion to those of the recipe
        assert 0 < each["error"] < 20 and each["note"] == ""
    assert "training 2 of 2: " in capsys.readouterr().err
    saved = json.loads(Path("found/search.json").read_text())
    assert [each["error"] for each in saved["candidates"]] == [each["error"] for each in result["candidates"]]
    times = {path: path.stat().st_mtime_ns for path in Path("found").rglob("*.csv")}
    again = search_schedules(**small)
    assert again["candidates"] == result["candidates"] and "training" not in capsys.readouterr().err
    assert times == {path: path.stat().st_mtime_ns for path in Path("found").rglob("*.csv")}
    with pytest.raises(
        WavedilError, match=r"found holds a search with other options or data, data.crop \(200, now 100\), steps .*"
    ):
        search_schedules(**small | {"overrides": ["--data.crop", "100"], "steps": 3})


def test_an_interrupted_search_continues(small, interrupted_at):
    with pytest.raises(Interrupted, match="interrupted in training found/1.*the same command continues"):
        interrupted_at(AudioModule, 1, lambda: search_schedules(**{**small, "candidates": 1}))
    assert list(Path("found").glob("*/checkpoints/*.ckpt"))
    killed = next(Path("found").glob("*/checkpoints"))
    for path in killed.iterdir():  # as SIGKILL before the first checkpoint
        path.unlink()
    result = search_schedules(**{**small, "candidates": 1})
    assert [each["error"] is not None for each in result["candidates"] if each["run"]] == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12, for threads of torch
def test_a_killed_search_continues_with_the_same_recipe_and_data_only(small, monkeypatch):
    for name in ("sounds/a.wav", "sounds/b.wav"):
        write(name, np.sin(np.arange(4000) / 9).astype(np.float32) / 2, 4000)
    small |= {"candidates": 1, "overrides": ["--data.root", "sounds", "--data.valid_seconds", "0.2"]}
    if not (child := os.fork()):
        monkeypatch.setattr(AudioModule, "training_step", lambda *_: os._exit(9))  # as SIGKILL: nothing is cleaned up
        search_schedules(**small)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert list(Path("found").glob("*/config.yaml"))
    recipe = Path(small["recipe"]).read_text()
    Path(small["recipe"]).write_text(recipe.replace("crop: 200", "crop: 300"))
    with pytest.raises(WavedilError, match=r"^found holds .* options or data, data.crop \(200, now 300\): choose"):
        search_schedules(**small)
    Path(small["recipe"]).write_text(recipe)
    write("sounds/c.wav", np.zeros(4000, np.float32), 4000)
    with pytest.raises(WavedilError, match=r"^found holds .* data, files \('2 files .*', now '3 files .*'\): choose"):
        search_schedules(**small)
    Path("sounds/c.wav").unlink()
    assert [each["error"] is not None for each in search_schedules(**small)["candidates"] if each["run"]] == [True]


def test_a_diverged_training_does_not_end_the_search(small, monkeypatch):
    def run_recipe(paths, out, resume, overrides, imports):
        if "kernel3" in out:
            raise Diverged("the loss is nan at step 1")
        Path(out).mkdir(parents=True)
        Path(out, "metrics.csv").write_text("step,seconds,valid_bits\n2,1.0,nan\n2,1.0,0.5\n")
        return Path(out), 0

    monkeypatch.setattr(search, "run_recipe", run_recipe)
    trained = [each for each in search_schedules(**{**small, "candidates": 4})["candidates"] if each["run"]]
    assert {(each["kernel_size"], each["error"], each["note"]) for each in trained} == {
        (2, 0.5, ""),
        (3, None, "the loss is nan at step 1"),
    }


def test_without_steps_nothing_is_written(small, run_search):
    before = sorted(Path().iterdir())
    result = run_search("-c", small["recipe"], "--parameters", "9000", "--json")
    assert {each["parameters"] <= 9000 for each in result["candidates"]} == {True}
    own = [each for each in result["candidates"] if each["kind"] == "given"]
    assert [(each["schedule"], each["kernel_size"]) for each in own] == [("1,2", 2)]
    assert sorted(Path().iterdir()) == before


@pytest.fixture
def run_search(capsys):
    def run(*words):
        assert main(["search", *words]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "tiny"}, "recipe tiny has no network: expected one with dilations"),
        ({"recipe": "nam"}, "recipe nam has a NAM without dilations and kernel_size and channels"),
        ({"recipe": "ampp"}, "did you mean amp?"),
        ({"steps": -1}, "steps is -1"),
        ({"candidates": 1.5}, "candidates is 1.5"),
        (
            {"overrides": ["--trainer.max_steps", "3"]},
            "--trainer.max_steps is given twice: a search sets it from its st",
        ),
        ({"overrides": ["--trainer={max_time: 9s}"]}, "leave --trainer.max_time out, or leave steps out"),
        ({"overrides": ["--data.root=nowhere"]}, "--data.root: nowhere does not exist"),
        ({"budgets": [1]}, "multiply_adds is 1: too small"),
        ({"out": "small.yaml"}, "out small.yaml is a file"),
    ],
)
def test_bad_arguments(small, change, message):
    with pytest.raises(WavedilError, match="^[^\n]+$") as error:
        search_schedules(**{**small, **change})
    assert message in str(error.value)
    assert not Path("found").exists()
