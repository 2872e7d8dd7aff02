"""Killed trainings end as if nothing had happened; ``wavedil bench kills`` does this hundreds of times."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.weights import load


def test_a_few_kills(tmp_path):
    words = ["--number", "2", "--kinds", "rolls", "--signals", "KILL", "TERM"]
    words += ["--folder", str(tmp_path / "runs"), "--json", str(tmp_path / "kills.json")]
    done = subprocess.run([sys.executable, "-m", "wavedil", "bench", "kills", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[1] == "2"
    rows = json.loads((tmp_path / "kills.json").read_text())["rows"]
    assert sum(row["kills"] for row in rows) == 2 and all(row["median"] == 0 for row in rows)


def final(folder):
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return load(folder / "model").slope.item(), last["optimizer_states"][0]["state"][0]["momentum_buffer"].item()


@pytest.fixture
def expected(task, tmp_path):
    task.train("--trainer.max_steps=12")
    found = final(task.run)
    task.run.rename(tmp_path / "uninterrupted")
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("place", ["update", "validation_step", "training_step"])
def test_a_signal_does_not_change_the_result(task, expected, monkeypatch, number, place):
    import line_task

    def send(self):
        if self.trainer.global_step == 6 and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    sent = []
    with monkeypatch.context() as patch:
        if place == "update":
            step = torch.optim.SGD.step

            def half_done(optimizer, closure=None):
                loss = step(optimizer, closure)
                send(modules[0])
                return loss

            modules = []
            hook = line_task.LineModule.on_train_start
            patch.setattr(line_task.LineModule, "on_train_start", lambda self: (modules.append(self), hook(self))[1])
            patch.setattr(torch.optim.SGD, "step", half_done)
        else:
            method = getattr(line_task.LineModule, place)
            patch.setattr(line_task.LineModule, place, lambda self, *args: (send(self), method(self, *args))[1])
        task.train("--trainer.max_steps=12")
    assert sent and (task.run / "checkpoints" / "interrupted.ckpt").exists()
    task.resume()
    assert final(task.run) == expected


@pytest.mark.parametrize("accumulated", [1, 2])
def test_statistics_of_batch_norm_are_those_of_complete_steps(task, tmp_path, monkeypatch, accumulated):
    source = tmp_path / "line_task.py"
    text = source.read_text().replace("return self.slope * x", "return self.slope * self.norm(x)")
    text = text.replace("        self.slope =", "        self.norm = nn.BatchNorm1d(1)\n        self.slope =")
    source.write_text(text)
    words = ["--trainer.max_steps=12", f"--trainer.accumulate_grad_batches={accumulated}"]

    def tensors():
        return load(task.run / "model").state_dict()

    task.train(*words)
    expected = tensors()
    task.run.rename(tmp_path / "uninterrupted")
    import line_task

    hook = line_task.LineModule.training_step

    def interrupted(self, batch, batch_idx):
        loss = hook(self, batch, batch_idx)
        if self.trainer.global_step == 6 and batch_idx % accumulated == accumulated - 1 and not interrupts:
            interrupts.append(True)
            raise KeyboardInterrupt
        return loss

    interrupts = []
    monkeypatch.setattr(line_task.LineModule, "training_step", interrupted)
    task.train(*words)
    task.resume()
    assert interrupts and all(torch.equal(value, expected[name]) for name, value in tensors().items())


def test_validation_goes_on_as_without_an_interrupt(task, monkeypatch):
    import line_task

    steps = []
    line_task.LineModule.on_validation_epoch_end = lambda self: steps.append(self.trainer.global_step)
    start = line_task.LineModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.trainer.global_step == 4 and not interrupts:
            interrupts.append(True)
            raise KeyboardInterrupt
        return start(self, batch, batch_idx)

    interrupts = []
    monkeypatch.setattr(line_task.LineModule, "training_step", interrupted)
    task.train("--trainer.max_steps=15", "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=6")
    task.resume()
    assert steps == [3, 6, 9, 12, 15]


def test_a_validation_that_a_kill_prevented_is_done_first(task, monkeypatch):
    import line_task

    steps, killed = [], []
    line_task.LineModule.on_validation_epoch_end = lambda self: steps.append(self.trainer.global_step)
    method = line_task.LineModule.validation_step

    def validation_step(self, batch, batch_idx):
        if not killed and self.trainer.global_step == 6 and batch_idx == 1:
            killed.append(True)
            raise KeyboardInterrupt
        method(self, batch, batch_idx)

    monkeypatch.setattr(line_task.LineModule, "validation_step", validation_step)
    task.train()
    assert killed and steps == []
    task.resume()
    assert steps == [6, 12]


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(task, at_step):
    import line_task

    task.train("--trainer.max_steps=6")
    before = {path.name: path.read_bytes() for path in (task.run / "checkpoints").iterdir()}

    def damage():
        forward = line_task.Line.forward
        line_task.Line.forward = lambda self, x: forward(self, x) * float("nan")

    at_step(7, damage)
    with pytest.raises(ValueError, match="not finite at step|loss is nan"):
        task.resume("--trainer.max_steps=12")
    assert {path.name: path.read_bytes() for path in (task.run / "checkpoints").iterdir()} == before


def test_what_a_killed_process_left_is_removed(task):
    task.train("--trainer.max_steps=6")
    (task.run / "checkpoints" / ".interrupted.ckpt.new").write_bytes(b"half")
    task.resume("--trainer.max_steps=8")
    assert not [path for path in task.run.rglob(".*") if path.name not in (".lock", ".finished")]


@pytest.mark.parametrize(
    ("step", "factor", "message"),
    [
        (13, "nan", "at step 14: .*loss before was"),
        (15, "inf", "at step 16: .*not finite"),
        (0, "nan", "at step 1: .*in the data"),
    ],
)
def test_the_first_bad_step_is_named(task, monkeypatch, step, factor, message):
    import line_task

    method = line_task.LineModule.training_step

    def training_step(self, batch, batch_idx):
        loss = method(self, batch, batch_idx)
        return loss * float(factor) if self.trainer.global_step >= step else loss

    monkeypatch.setattr(line_task.LineModule, "training_step", training_step)
    with pytest.raises(WavedilError, match=message) as error:
        task.train("--trainer.max_steps=40", "--trainer.val_check_interval=50")
    assert "\n" not in str(error.value)
