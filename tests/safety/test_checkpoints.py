"""Checkpoints: whatever happens while one is written, there is one that loads; a damaged one is not used."""

import errno
import os

import pytest
import torch

from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train.checkpoints import SafeCheckpointIO, is_intact, newest_readable


def save(path, step):
    SafeCheckpointIO().save_checkpoint({"global_step": step, "weights": torch.full((500,), float(step))}, path)


def newest(folder):
    paths = [path for path in folder.glob("*.ckpt") if not path.name.startswith(".")]
    return newest_readable(sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("name", ["replace", "fsync", "link", "unlink"])
@pytest.mark.parametrize("call", range(4))
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=str)
def test_a_failure_while_saving_leaves_a_checkpoint(path, monkeypatch, name, call, error):
    save(path, 1)
    save(path, 2)
    function, calls = getattr(os, name), []

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == call + 1:
            raise error
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fails)
        try:
            save(path, 3)
        except (OSError, KeyboardInterrupt):
            pass
    assert path.exists() and newest(path.parent)[1] in (2, 3)
    save(path, 4)
    assert newest(path.parent)[1] == 4
    assert sorted(each.name for each in path.parent.iterdir()) == ["last.ckpt", "last.previous.ckpt"]


def test_a_full_disk_ends_the_training_in_one_line(task, at_step, monkeypatch, capsys):
    task.train("--trainer.max_steps=6")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    at_step_7 = lambda: monkeypatch.setattr(os, "fsync", full)  # noqa: E731
    at_step(7, at_step_7)
    words = ["train", "--import", "line_task", "--out", str(task.run), "--resume", "auto", "--trainer.max_steps=12"]
    assert main(words) == 2 and "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert newest(task.run / "checkpoints")[1] == 6


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(path, capsys, part):
    save(path, 1)
    save(path, 2)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert newest(path.parent) == (path.with_name("last.previous.ckpt"), 1)
    assert f"{path} cannot be read (the file is damaged): trying an older" in capsys.readouterr().err


def test_a_flipped_bit_is_found_or_changes_nothing(path):
    save(path, 1)
    content = path.read_bytes()
    found = 0
    for place in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            step = newest([path] and path.parent)[1]
            assert step == 1 and torch.load(path, weights_only=True)["weights"].eq(1).all()
        except WavedilError:
            found += 1
    assert found > len(range(0, len(content), 41)) / 3
    start = content.index(torch.full((9,), 1.0).numpy().tobytes())
    for place in range(start, start + 36):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert not is_intact(path)


def test_a_damaged_checkpoint_does_not_replace_the_previous_one(path, monkeypatch):
    save(path, 1)
    save(path, 2)
    path.write_bytes(path.read_bytes()[:300])
    replace = os.replace

    def killed(source, target):
        if target == path:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        save(path, 3)
    assert newest(path.parent)[1] == 1


def test_training_writes_checkpoints_this_way(task, capsys):
    task.train()
    task.resume("--trainer.max_steps=14")
    last = task.run / "checkpoints" / "last.ckpt"
    assert torch.load(last.with_name("last.previous.ckpt"), weights_only=True)["global_step"] == 12
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 4
    last.write_bytes(content)
    capsys.readouterr()
    task.resume("--trainer.max_steps=16")
    assert "last.ckpt cannot be read" in capsys.readouterr().err
    assert torch.load(last, weights_only=True)["global_step"] == 16


def test_without_a_readable_checkpoint_the_error_says_so(task):
    task.train()
    for path in (task.run / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(WavedilError, match="none of the . checkpoints"):
        task.resume()
    assert (task.run / "model").exists()


def test_pipes_and_folders_among_checkpoints_are_skipped(task):
    task.train()
    os.mkfifo(task.run / "checkpoints" / "pipe.ckpt")
    (task.run / "checkpoints" / "folder.ckpt").mkdir()
    task.resume("--trainer.max_steps=14")
