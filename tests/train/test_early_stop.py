"""A training that ends before its last step says why, how to continue, and what the recipe reaches."""

import numpy as np
import pytest
from lightning.pytorch.callbacks import Timer

from wavedil.audio.data import audio_files
from wavedil.train.recipes import find_recipe, known_recipes, read_recipe
from wavedil.train.run import train

TINY = ["--model.network.channels=8", "--model.network.skip_channels=8", "--model.network.dilations=1..4"]
TINY += ["--data.crop=200", "--data.valid_seconds=0.1", "--trainer.max_steps=12", "--trainer.val_check_interval=3"]
TINY += ["--trainer.precision=32-true", "--previews.every=100", "--samples.num=1", "--samples.seconds=0.05"]


@pytest.fixture
def clock(monkeypatch):
    """A minute passes with each look at the clock."""

    def time_elapsed(timer, stage=None):
        timer.minutes = getattr(timer, "minutes", 0) + 1
        return 60.0 * timer.minutes

    monkeypatch.setattr(Timer, "time_elapsed", time_elapsed)


def test_a_run_that_the_clock_stopped_says_so(tmp_path, clock, capsys):
    run = tmp_path / "run"
    train(out=str(run), overrides=[*TINY, "--trainer.max_time=20min"])
    last = capsys.readouterr().err.splitlines()[-1]
    start = "stopped by the clock (trainer.max_time) at step "
    assert last.startswith(start) and 0 < int(last.removeprefix(start).split()[0]) < 12
    assert " of 12 (with all steps: 0.91 held-out bits per sample" in last
    assert last.endswith(f"; continue with: wavedil train --out {run} --resume auto --trainer.max_time null")
    assert (run / "stopped.txt").read_text() == last + "\n"
    assert start in (run / "report.html").read_text()
    train(out=str(run), resume="auto", overrides=["--trainer.max_time=null"])
    assert "stopped by" not in capsys.readouterr().err + (run / "report.html").read_text()
    assert not (run / "stopped.txt").exists()


@pytest.fixture
def recordings(tmp_path):
    """Data of which no recipe says what it reaches."""
    for index in range(2):
        sound = np.random.default_rng(index).uniform(-0.5, 0.5, (1, 1000)).astype(np.float32)
        audio_files.write(tmp_path / "data" / f"{index}.wav", sound, 8000)
    return f"--data.root={tmp_path / 'data'}"


def test_a_run_that_a_callback_stopped_says_so(tmp_path, recordings, capsys):
    options = [recordings, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=valid/bits"]
    train(out=str(tmp_path / "run"), overrides=[*TINY, *options, "--trainer.callbacks.stopping_threshold=1e9"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("stopped by EarlyStopping at step 3 of 12; continue with") and last.endswith("--resume auto")


def test_a_budget_of_time_ends_without_a_word(tmp_path, clock, recordings, capsys):
    options = [recordings, "--trainer.max_steps=-1", "--trainer.max_time=20min"]
    train(out=str(tmp_path / "run"), overrides=[*TINY, *options])
    assert "stopped by" not in capsys.readouterr().err


def test_recipes_have_one_budget():
    """With a clock beside the steps, a busy machine would end the recipe before it reaches its figures."""
    for name in known_recipes():
        trainer = read_recipe(find_recipe(name))[0]["trainer"]
        assert (trainer.get("max_time") is None) == (trainer["max_steps"] > 0), name
