"""Diverged runs: they replace no good weights, name the batch, and restart if that is wanted."""

import csv
import math

import pytest
import torch
import yaml
from torch.utils.data import default_collate

from wavedil.bench.kills import RECIPES
from wavedil.errors import WavedilError
from wavedil.metrics import read_metrics
from wavedil.train import RestartOnDivergence
from wavedil.train.build import build
from wavedil.train.divergence import WINDOW, LossHistory, StopOnNaN
from wavedil.weights import load


def history(losses, factor=10.0):
    found = LossHistory(factor)
    for loss in losses:
        found.add(loss)
    return found


@pytest.mark.parametrize(
    ("losses", "exploded"),
    [
        ([5.5] * 40, False),
        ([5.5] * 40 + [56.0] * 10, False),  # half of the window
        ([5.5] * 40 + [56.0] * 11, True),
        ([5.5] * 40 + [54.0] * 40, False),
        ([5.5] * 5 + [1e4] * 20, True),
        ([5.5] + [1e3] * 30, True),  # in the first steps
        ([5.5] * 3 + [1e4] * 20, True),
        ([0.01] + [3.0] * 30, False),  # densities near 0 at the start
        ([0.0] * 2 + [99.0] * 30, False),
        ([1e9] * 3 + [5.5] * 200 + [1e9] * 9, False),  # a few batches
        ([1.0] * 10 + [1e-9] * 200 + [1e-7] * 20, False),  # noise after convergence
        ([1.0] * 10 + [1e-3] * 200 + [0.3] * 20, True),
        ([0.0] * 20 + [3.0] * 20, False),
        ([2.0] * 20 + [-5.0] * 200 + [2.0] * 20, False),  # negative log-likelihoods of densities
        ([2.0] * 20 + [-5.0] * 200 + [50.0] * 20, True),
        (([3.0] + [0.01] * 19) * 20 + [3.0] * 9, False),  # mostly silence
        (([1e4] * 12 + [0.001] * 12) * 20, False),  # half of the batches are quiet
    ],
)
def test_when_losses_have_exploded(losses, exploded):
    assert history(losses).has_exploded(WINDOW) is exploded
    assert not history(losses, math.inf).has_exploded(WINDOW)


@pytest.fixture
def from_step(task, monkeypatch):
    """Multiplies the loss of the task, and its gradients, by a factor from one step to another."""

    def from_step(first, factor, last=10**9):
        import line_task

        step = line_task.LineModule.training_step

        def training_step(self, batch, batch_idx):
            loss = step(self, batch, batch_idx)
            return loss * factor if first <= self.trainer.global_step <= last else loss

        monkeypatch.setattr(line_task.LineModule, "training_step", training_step)

    return from_step


LONG = ["--trainer.max_steps=48", "--trainer.val_check_interval=5"]


def test_an_explosion_in_the_first_steps_is_noticed(task, monkeypatch):
    import line_task

    step = line_task.LineModule.training_step
    late = lambda self: 1e4 if self.trainer.global_step > 1 else 0.0  # noqa: E731
    monkeypatch.setattr(line_task.LineModule, "training_step", lambda self, *batch: step(self, *batch) + late(self))
    with pytest.raises(WavedilError, match="the loss is .* since step 3, and was .*: training diverged"):
        task.train("--trainer.max_steps=48", "--trainer.val_check_interval=5")
    assert not (task.run / "checkpoints").exists()


@pytest.mark.parametrize(("factor", "accumulated", "first"), [(600.0, 2, 104), (math.inf, 1, 8)])
def test_diverged_weights_replace_nothing(task, from_step, factor, accumulated, first):
    words = [f"--trainer.accumulate_grad_batches={accumulated}", "--trainer.val_check_interval=5"]
    task.train(f"--trainer.max_steps={first - 4}", *words)
    checkpoints = {path: path.read_bytes() for path in (task.run / "checkpoints").iterdir()}
    from_step(first, factor)
    message = rf"loss is inf at step {first + 1}: |loss is .* since step 10[5-9], and was"
    with pytest.raises(WavedilError, match=message) as error:
        task.resume(f"--trainer.max_steps={first + 20}")
    assert "training diverged" in str(error.value) and "\n" not in str(error.value)
    assert abs(load(task.run / "model").slope.item()) < 4
    assert {path: path.read_bytes() for path in (task.run / "checkpoints").iterdir()} == checkpoints


def test_a_module_may_allow_explosions(task, from_step):
    import line_task

    line_task.LineModule.divergence_factor = math.inf
    from_step(24, 1e9, 24)  # once
    task.train("--trainer.max_steps=30")


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # as in a run
@pytest.mark.parametrize("kind", ["sound", "images", "effect", "rolls"])
def test_the_items_of_a_batch_are_known(tmp_path, monkeypatch, kind):
    recipe = {key: value for key, value in RECIPES[kind].items() if key in ("model", "data", "trainer")}
    arguments = recipe["data"]["init_args"] | {"batch_size": 2}
    if kind == "sound":
        arguments["built_in_seconds"] = 10
    recipe["data"] = recipe["data"] | {
        "init_args": {key: value for key, value in arguments.items() if key != "num_workers"}
    }
    recipe["trainer"] = recipe["trainer"] | {"logger": False, "accumulate_grad_batches": 2, "max_steps": 1}
    recipe["trainer"] |= {"limit_val_batches": 0}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(recipe))
    names = []

    def compare(self, trainer, module, outputs, batch, batch_idx):
        step = trainer.global_step - (batch_idx % 2)
        items = trainer.datamodule.batch_items(step, batch_idx % 2)
        values = [item for _, item in items]
        expected = values[0] if kind == "rolls" else default_collate(values)
        assert expected.keys() == batch.keys()
        assert all(torch.equal(expected[key], batch[key]) for key in expected)
        names.extend(name for name, _ in items)

    monkeypatch.setattr(StopOnNaN, "on_train_batch_end", compare)
    checkpoint = None
    for steps in (1, 2):
        cli = build(tmp_path / "a.yaml", tmp_path / "run", [f"--trainer.max_steps={steps}"])
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        checkpoint = str(tmp_path / "a.ckpt")
        cli.trainer.save_checkpoint(checkpoint)
    assert len(names) == (4 if kind == "rolls" else 8)
    expected = {"sound": "melody_", "images": ".png", "effect": ".wav", "rolls": "training pieces"}[kind]
    assert all(expected in name for name in names)


class Named(torch.utils.data.Dataset):
    """Points, of which number 50 is not finite."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return torch.tensor([math.nan if index == 50 else 1.0])

    def origin(self, index):
        return f"point_{index}.txt"


def test_the_file_that_is_not_finite_is_named(task):
    import line_task

    line_task.Points.train_dataloader = lambda self: self.endless_loader(Named())
    with pytest.raises(WavedilError, match=r"at step 13: .*; not finite: point_50.txt$"):
        task.train("--trainer.max_steps=20")


def test_all_files_of_a_diverged_batch_are_named(task, from_step):
    import line_task

    line_task.Points.train_dataloader = lambda self: self.endless_loader(Named())
    from_step(4, math.nan)
    with pytest.raises(WavedilError, match=r"at step 5: .*batch: point_16.txt, .*, point_19.txt$"):
        task.train("--trainer.max_steps=20")


# Restarts

RESTART = "--trainer.callbacks+=wavedil.train.RestartOnDivergence"


def restarts(folder):
    with (folder / "restarts.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_rate_that_is_too_high_is_lowered(task, tmp_path, caplog):
    source = tmp_path / "line_task.py"
    source.write_text(source.read_text().replace("lr=0.1", "lr=20.0"))
    task.train("--trainer.max_steps=120", RESTART)
    rows = restarts(task.run)
    assert [float(row["rate_factor"]) for row in rows] == [0.5 ** (i + 1) for i in range(len(rows))] and rows
    assert load(task.run / "model").slope.item() == pytest.approx(3.0, abs=1e-3)
    assert caplog.text.count("times the learning rate") == len(rows)
    page = (task.run / "report.html").read_text()
    assert "Restarts at a lower learning rate" in page and "training diverged" in page
    rates = [float(row["learning_rate"]) for row in read_metrics(task.run / "metrics.csv")]
    assert rates[-2] < 20 * 0.5 ** len(rows)


@pytest.mark.parametrize("factor", [math.nan, 150.0])
def test_a_resumed_run_restarts_as_an_uninterrupted_one(task, tmp_path, from_step, monkeypatch, factor):
    import line_task

    source = tmp_path / "line_task.py"
    source.write_text(source.read_text().replace("lr_decay=1.0)", "lr_decay=1.0, ema_decay=0.9)"))
    monkeypatch.setattr("wavedil.train.divergence.SNAPSHOT_EVERY", 10)
    words = [*LONG, "--trainer.accumulate_grad_batches=2", RESTART]
    from_step(23, factor, 24 if math.isnan(factor) else 43)
    interrupts = []
    hook = line_task.LineModule.on_train_batch_start

    def on_train_batch_start(self, batch, batch_idx):
        if interrupts and batch_idx % 2 and self.trainer.global_step == interrupts[-1]:
            interrupts.pop()
            raise KeyboardInterrupt
        return hook(self, batch, batch_idx)

    monkeypatch.setattr(line_task.LineModule, "on_train_batch_start", on_train_batch_start)
    task.train(*words)
    expected, rows = load(task.run / "model").slope.item(), restarts(task.run)
    assert rows and int(rows[0]["restored_step"]) == 20
    task.run.rename(tmp_path / "uninterrupted")
    interrupts += [45, 30] if math.isnan(factor) else [40]
    task.train(*words)
    while interrupts:
        task.resume()
    task.resume()
    assert load(task.run / "model").slope.item() == expected and restarts(task.run) == rows


def test_too_many_restarts_are_an_error(task, from_step):
    from_step(3, math.nan)
    with pytest.raises(WavedilError, match="at step .*training diverged.*; 2 restarts at lower rates did not help"):
        task.train(
            "--trainer.max_steps=30",
            "--trainer.callbacks=[{class_path: wavedil.train.RestartOnDivergence, init_args: {max_restarts: 2}}]",
        )


@pytest.mark.parametrize("arguments", [{"factor": 1.0}, {"factor": 0}, {"max_restarts": -1}, {"factor": "x"}])
def test_arguments_are_checked(arguments):
    with pytest.raises(WavedilError, match=next(iter(arguments))):
        RestartOnDivergence(**arguments)
