"""Runs: complete when they are called finished, one process per folder, exit status, damaged files, options."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
import yaml

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.report import write_report
from wavedil.train import run_folder
from wavedil.train.run import train
from wavedil.weights import load


def slope(folder):
    return load(folder / "model").slope.item()


# Finished


@pytest.mark.parametrize("place", ["validate", "_write_samples", "write_report", "record_finished"])
def test_a_run_that_ended_after_its_last_step_is_completed(task, monkeypatch, capsys, place):
    between = "--trainer.val_check_interval=5"  # so that the last step is validated after training
    expected = slope(task.train(between))
    shutil.rmtree(task.run)

    def killed(*args, **kwargs):
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("lightning.Trainer.validate" if place == "validate" else f"wavedil.train.run.{place}", killed)
        task.train(between)
    (task.run / "model" / "model.safetensors").unlink()  # of an earlier step, or none
    capsys.readouterr()
    task.resume()
    assert "completing" in capsys.readouterr().err
    assert slope(task.run) == expected
    assert float((task.run / "samples" / "slope.txt").read_text()) == expected
    assert "finished" not in (task.run / "report.html").read_text() and (task.run / "report.html").stat().st_size > 500
    task.resume()
    assert f"{task.run} is finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    "part", ["samples", "model", "report.html", "samples/slope.txt", ".finished", "model/config.json"]
)
def test_what_is_missing_of_a_finished_run_is_completed(task, capsys, part):
    expected = slope(task.train())
    path = task.run / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    capsys.readouterr()
    task.resume()
    assert "is finished" not in capsys.readouterr().err and path.exists() and slope(task.run) == expected


def test_a_damaged_model_of_a_run_is_written_again(task):
    expected = slope(task.train())
    (task.run / "model" / "config.json").write_bytes(b"\0" * 99)
    task.resume("--trainer.max_steps=12")
    assert slope(task.run) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"step": 12, "files": 3}', "\0\0\0", '{"step": 12, "files": {"a": 1}}']
)
def test_a_damaged_record_means_not_finished(task, capsys, text):
    task.train()
    (task.run / ".finished").write_text(text)
    capsys.readouterr()
    task.resume()
    assert "completing" in capsys.readouterr().err


def test_the_page_of_a_run_in_training_is_there_from_the_first_preview_on(task, tmp_path, at_step):
    previews = """
from wavedil.audio.data.audio_files import write
from wavedil.train.previews import Previews

class Tones(Previews):
    def __init__(self):
        super().__init__(2, 3)

    def write_outputs(self, trainer, module, step):
        write(self.folder(trainer) / f"step_{step:06d}_0.wav", torch.zeros(1, 100), 8000)
"""
    source = tmp_path / "line_task.py"
    source.write_text(source.read_text() + previews)
    import line_task

    importlib.reload(line_task)
    line_task.LineModule.previews_class = line_task.Tones
    pages = []
    at_step(4, lambda: pages.append((task.run / "report.html").read_text()))
    task.train()
    assert "data-running=" in pages[0] and "step 2" in pages[0] and "In training" in pages[0]
    last = (task.run / "report.html").read_text()
    assert "data-running=" not in last and "step 9" in last and "a line; endless points" in last


# One process per folder


def test_a_folder_in_use_is_refused(task, at_step):
    errors = []

    def others():
        for other in (task.train, task.resume):
            with pytest.raises(WavedilError) as error:
                other()
            errors.append(str(error.value))

    at_step(5, others)
    task.train()
    assert all(str(task.run) in error and "\n" not in error for error in errors) and len(errors) == 2
    assert "is in use by another training run" in errors[0]
    assert (task.run / "samples" / "slope.txt").exists()


def test_a_run_that_fails_early_does_not_touch_the_run_in_its_folder(task, at_step):
    def other():
        with pytest.raises(WavedilError):
            task.train("--trainer.max_step=3")
        with pytest.raises(WavedilError):
            task.train("--model.network.slope=x")

    at_step(1, other)
    task.train()
    assert slope(task.run)


def test_the_lock_of_a_killed_process_is_free(task, tmp_path):
    """Also while its data workers, which are forked, still run."""
    task.train()
    code = f"""
import os, runpy, sys
from pathlib import Path
module = runpy.run_path({run_folder.__file__!r})  # its package imports Lightning, which takes seconds
with module["claim_folder"](Path("line.yaml"), {str(task.run)!r}, "auto"):
    ready, ended = os.pipe()
    if os.fork() == 0:
        os.write(ended, b"1")
        sys.stdin.read()
        os._exit(0)
    os.read(ready, 1)
    os.kill(os.getpid(), 9)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert process.wait() == -9
    task.resume("--trainer.max_steps=14")
    process.stdin.close()


def test_runs_that_start_together_get_different_folders(task, tmp_path, monkeypatch):
    from pathlib import Path

    from wavedil.train.run_folder import claim_folder

    monkeypatch.chdir(tmp_path)
    barrier, folders = threading.Barrier(8), []

    def claim():
        barrier.wait()
        with claim_folder(Path("speech.yaml"), None, None) as (folder, _):
            (folder / "config.yaml").write_text("")
            folders.append(folder)
            barrier.wait()

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 8


def test_only_what_the_run_wrote_is_removed(task, at_step):
    def interrupt():
        (task.run / "notes.txt").write_text("mine")
        raise KeyboardInterrupt

    at_step(0, interrupt)
    with pytest.raises(WavedilError, match="interrupted before the first step"):
        task.train()
    assert [path.name for path in task.run.iterdir()] == ["notes.txt"]


def test_a_folder_that_was_there_is_kept(task, at_step):
    (task.run / "data").mkdir(parents=True)
    (task.run / "data" / "song.wav").write_text("mine")
    with pytest.raises(WavedilError):
        task.train("--trainer.max_step=3")
    assert (task.run / "data" / "song.wav").read_text() == "mine"


# Exit status


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_saves_and_is_the_exit_status(task, at_step, capsys, number, status):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    words = ["train", "--import", "line_task", "-c", task.recipe, "--out", str(task.run)]
    import line_task  # noqa: F401

    at_step(7, lambda: os.kill(os.getpid(), number))
    assert main(words) == status
    assert "interrupted; continue with" in capsys.readouterr().err and slope(task.run)
    checkpoint = torch.load(task.run / "checkpoints" / "interrupted.ckpt", weights_only=True)
    assert checkpoint["global_step"] in (7, 8)
    assert {each: signal.getsignal(each) for each in before} == before
    assert main([*words[:3], "--out", str(task.run), "--resume", "auto"]) == 0


def test_a_signal_before_the_first_step(task, at_step):
    words = ["train", "--import", "line_task", "-c", task.recipe, "--out", str(task.run)]
    at_step(0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(words) == 143 and not task.run.exists()


@pytest.mark.parametrize("place", ["lightning.Trainer.validate", "wavedil.train.run._write_samples"])
def test_a_signal_after_the_last_step(task, monkeypatch, capsys, place):
    with monkeypatch.context() as patch:
        patch.setattr(place, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
        words = ["train", "--import", "line_task", "-c", task.recipe, "--out", str(task.run)]
        assert main([*words, "--trainer.val_check_interval=5"]) == 143
    assert "Traceback" not in capsys.readouterr().err
    task.resume()
    assert (task.run / "samples" / "slope.txt").exists()


def test_a_signal_in_the_last_validation_leaves_the_last_checkpoint(task, monkeypatch):
    import line_task

    hook = line_task.LineModule.validation_step
    calls = []

    def validation_step(self, batch, batch_idx):
        calls.append(self.trainer.state.fn)
        if self.trainer.state.fn == "validate":
            monkeypatch.setattr(line_task.LineModule, "validation_step", hook)
            os.kill(os.getpid(), signal.SIGTERM)
        return hook(self, batch, batch_idx)

    monkeypatch.setattr(line_task.LineModule, "validation_step", validation_step)
    words = ["train", "--import", "line_task", "-c", task.recipe, "--out", str(task.run)]
    assert main([*words, "--trainer.val_check_interval=5"]) == 143
    assert not (task.run / "checkpoints" / "interrupted.ckpt").exists()
    task.resume("--trainer.max_steps=14")


# After a power cut


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-7],
        lambda content: content + b"\0" * 500,
        lambda content: content + b"12,3.",
        lambda content: content + b"12,x,1,2,3,4\r\n",
        lambda content: content + b"\xff\xfe\x80,1\r\n",
        lambda content: content + b"12,1,1,1,1,1,1\r\n",
        lambda content: b"",
        lambda content: b"\0" * len(content),
        lambda content: content[:20],
        lambda content: content + b"nan,inf,1,1,1,1\r\n",
        lambda content: content + b"1e400,1,1,1,1,1\r\n",
        lambda content: content + b'"12,1\r\n',
    ],
)
def test_damaged_metrics_are_dropped_with_one_message(task, capsys, damage):
    task.train()
    path = task.run / "metrics.csv"
    path.write_bytes(damage(path.read_bytes()))
    capsys.readouterr()
    assert main(["report", str(task.run)]) == 0
    messages = [line for line in capsys.readouterr().err.splitlines() if "dropped" in line]
    assert len(messages) == (1 if path.stat().st_size else 0)
    task.resume("--trainer.max_steps=14")
    write_report(task.run)
    rows = path.read_text().splitlines()
    assert rows[0].startswith("step,seconds") and rows[-1].startswith("14,")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\0" * 300, b"", b"model:\n  class_pa", b"model: [", b"a: \x80"])
def test_a_damaged_config_is_refused_in_one_line(task, capsys, content):
    task.train()
    (task.run / "config.yaml").write_bytes(content)
    capsys.readouterr()
    assert main(["train", "--import", "line_task", "--out", str(task.run), "--resume", "auto"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "config.yaml" in lines[0]
    assert main(["report", str(task.run)]) in (0, 2)
    assert (task.run / "model").exists()


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.default_root_dir=elsewhere"], "--trainer.default_root_dir .*--out"),
        (["--trainer.default_root_dir", "elsewhere"], "--trainer.default_root_dir .*--out"),
        (["--trainer.max_steps=0"], "max_steps"),
        (["--trainer.max_epochs=0", "--trainer.max_steps=-1"], "max_epochs"),
        (
            ["--trainer.max_time=00:00:00:00", "--trainer.max_steps=-1"],
            "max_time is .*above 0",
        ),
        (["--trainer.limit_train_batches=0"], "limit_train_batches is 0: expected"),
        (
            ["--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: vaild/rmse}}]"],
            "'vaild/rmse'.*valid/rmse",
        ),
        (
            ["--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {monitor: vaild/rmse}}]"],
            "'vaild/rmse'.*valid/rmse",
        ),
    ],
)
def test_options_without_effect_are_refused(task, options, message):
    with pytest.raises(WavedilError, match=message) as error:
        task.train(*options)
    assert "\n" not in str(error.value)


def test_max_steps_0_is_refused_for_a_resumed_run(task):
    task.train()
    with pytest.raises(WavedilError, match="max_steps"):
        task.resume("--trainer.max_steps=0")


def test_a_config_of_a_run_is_a_recipe(task, tmp_path):
    task.train()
    folder = train(str(task.run / "config.yaml"), out=str(tmp_path / "second"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["default_root_dir"] == str(folder)
    assert json.loads((folder / ".finished").read_text())["step"] == 12
