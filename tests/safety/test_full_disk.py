"""A full disk, a folder that cannot be written, and one that vanishes while a training writes to it."""

import errno
import os
import resource
import shutil
import signal
import threading
from pathlib import Path

import lightning as L
import pytest
import torch

from wavedil.audio import Effect
from wavedil.audio.data import audio_files
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.outputs import BestEffort, claim_folder
from wavedil.train import loggers
from wavedil.train.checkpoints import SafeCheckpointIO
from wavedil.weights import load, save
from wavedil.writing import atomic_write

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def words(task, *more):
    return ["train", "--import", "line_task", "-c", task.recipe, "--out", str(task.run), *more]


def error(capsys):
    """The last line on standard error; the ones before it are no traceback."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.splitlines()[-1]


@pytest.fixture
def small_files():
    """A function that limits the size of files: the system refuses what exceeds it, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [2000])
def test_what_exceeds_the_disk_ends_a_run_with_its_folder_in_one_line(task, at_step, small_files, capsys, size):
    task.train("--trainer.max_steps=6")
    at_step(7, lambda: small_files(size))
    assert main([*words(task)[:3], "--out", str(task.run), "--resume", "auto", "--trainer.max_steps=12"]) == 2
    small_files(resource.RLIM_INFINITY)
    line = error(capsys)
    assert line.startswith(f"error: {task.run}") and "saving-" not in line and ".new" not in line
    assert "File too large" in line and f"wavedil train --out {task.run} --resume auto" in line
    assert load(task.run / "model").slope.item()
    task.resume("--trainer.max_steps=12")
    assert not [path for path in task.run.rglob(".*") if path.name not in (".lock", ".finished")]


@pytest.mark.parametrize("name", ["last.ckpt", "model", "metrics.csv"])
def test_each_file_that_a_run_needs_is_named(task, monkeypatch, capsys, name):
    replace, rename = os.replace, Path.rename

    def fails(move):
        def moved(source, target):
            if Path(target).name == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(source), None, os.fspath(target))
            return move(source, target)

        return moved

    monkeypatch.setattr(os, "replace", fails(replace))
    monkeypatch.setattr(Path, "rename", fails(rename))
    assert main(words(task)) == 2
    line = error(capsys)
    assert name in line and line.startswith(f"error: {task.run}") and "saving-" not in line
    assert "No space left on device" in line


@pytest.mark.parametrize("flushes", [0, 1])
def test_what_a_run_can_do_without_is_logged_once(task, tmp_path, monkeypatch, caplog, flushes):
    source = tmp_path / "line_task.py"
    preview = """
from wavedil.audio.data.audio_files import write
from wavedil.train.previews import Previews

class Clips(Previews):
    def __init__(self):
        super().__init__(2, 3)

    def write_outputs(self, trainer, module, step):
        self.write_clip(trainer, torch.zeros(100), 8000, f"step_{step}", "step", step)

class LineModule(LineModule):
    previews_class = Clips
"""
    source.write_text(source.read_text() + preview)
    from tensorboard.compat.tensorflow_stub.io.gfile import GFile

    def full(*args):
        raise FULL

    flush, left = GFile.flush, iter(range(flushes))
    monkeypatch.setattr(GFile, "flush", lambda file: full() if next(left, None) is None else flush(file))
    write = audio_files.written_blocks
    monkeypatch.setattr(
        audio_files, "written_blocks", lambda *args: full() if "previews" in str(args) else write(*args)
    )
    monkeypatch.setattr("wavedil.train.run.write_report", full)
    assert main(words(task, "--trainer.logger=null", "--trainer.log_every_n_steps=1")) == 0
    for name in ("previews", "tensorboard", "report.html"):
        (record,) = [record for record in caplog.records if str(task.run / name) in record.message]
        assert "No space left on device" in record.message and "going on" in record.message
    monkeypatch.undo()
    task.resume()
    assert (task.run / "report.html").exists()


def test_a_thread_of_tensorboard_is_silent_and_others_are_not(capsys):
    def fail():
        raise FULL

    class _AsyncWriterThread(threading.Thread): ...

    seen = []
    before, threading.excepthook = threading.excepthook, seen.append
    try:
        with loggers.loggers_may_fail(L.Trainer(logger=False, accelerator="cpu")):
            for kind in (_AsyncWriterThread, threading.Thread):
                thread = kind(target=fail)
                thread.start()
                thread.join()
    finally:
        threading.excepthook = before
    assert [type(each.thread) for each in seen] == [threading.Thread]


def test_other_errors_are_raised():
    with pytest.raises(ZeroDivisionError), BestEffort("x"):
        raise ZeroDivisionError
    with pytest.raises(WavedilError), BestEffort("x"):
        raise WavedilError("no file")


@pytest.mark.parametrize(("how", "step"), [("removed", 2), ("renamed", 7), ("replaced", 7)])
def test_a_folder_that_vanishes_is_not_made_again(task, tmp_path, at_step, capsys, how, step):
    def vanish():
        if how == "removed":
            shutil.rmtree(task.run)
        else:
            task.run.rename(tmp_path / "moved")
        if how == "replaced":
            task.run.mkdir()
            (task.run / "config.yaml").write_text("mine")

    at_step(step, vanish)
    assert main(words(task)) == 2
    line = error(capsys)
    assert line.startswith(f"error: {task.run} was removed or renamed")
    if how == "replaced":
        assert [path.name for path in task.run.iterdir()] == ["config.yaml"]
    else:
        assert not task.run.exists()
    if how != "removed" and step == 7:
        assert load(tmp_path / "moved" / "model").slope.item()


def test_a_folder_that_cannot_be_written_is_refused(task, monkeypatch, capsys):
    def denied(path, *args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))

    monkeypatch.setattr("wavedil.train.run_folder.lock_file", denied)
    assert main(words(task)) == 2
    refused = f"error: --out: {task.run}"
    assert error(capsys).startswith(refused)
    monkeypatch.setattr(Path, "mkdir", denied)
    assert main(words(task)) == 2
    line = error(capsys)
    assert line.startswith("error: --out: ") and line.endswith("Read-only file system; choose another folder")
    assert not task.run.exists()


def test_outputs_of_commands_are_not_made_again_either(tmp_path):
    with pytest.raises(WavedilError, match="removed or renamed"), claim_folder(tmp_path / "clips", ["a.wav"]):
        audio_files.write(tmp_path / "clips" / "a.wav", torch.zeros(9), 8000)
        (tmp_path / "clips").rename(tmp_path / "moved")
        audio_files.write(tmp_path / "clips" / "b.wav", torch.zeros(9), 8000)
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize("write", ["atomic_write", "save", "checkpoint"])
def test_errors_of_the_system_name_the_file_and_not_the_temporary_one(tmp_path, small_files, write):
    path = tmp_path / "model"
    small_files(5)
    with pytest.raises((OSError, WavedilError), match="File too large") as found:
        if write == "save":
            save(Effect(4, 4, "1,2", sample_rate=8000), path)
        elif write == "checkpoint":
            SafeCheckpointIO().save_checkpoint({"a": torch.zeros(99)}, path)
        else:
            with atomic_write(path) as beside:
                beside.write_text("too long")
    small_files(resource.RLIM_INFINITY)
    assert str(path) in str(found.value) and "saving-" not in str(found.value) and not list(tmp_path.iterdir())
