"""A user-defined task: a network, a TrainingModule and a TrainingData train by recipe and resume exactly."""

import sys
from functools import partial

import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader

from wavedil.metrics import read_metrics
from wavedil.train import MetricNames, TrainingData, TrainingModule
from wavedil.train.run import train
from wavedil.weights import load, register


@register
class Line(nn.Module):
    def __init__(self, slope: float = 0.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([slope]))

    def forward(self, x):
        return self.slope * x


class LineModule(TrainingModule):
    metric_names = MetricNames("train_loss", "squared error", "valid_rmse", "RMSE {:.3f}", "points")

    def __init__(self, network: nn.Module):
        super().__init__(partial(torch.optim.SGD, lr=0.5), warmup_steps=1, lr_decay=1.0)
        self.network = network

    def summary(self):
        return "a line"

    def num_items(self, batch):
        return len(batch)

    def training_step(self, batch, batch_idx):
        return (self.network(batch) - 3 * batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("valid/rmse", (self.eval_network(batch) - 3 * batch).square().mean().sqrt())


class Points(TrainingData):
    def __init__(self, batch_size: int = 4):
        super().__init__(batch_size)

    def summary(self):
        return "endless points"

    def train_dataloader(self):
        return self.endless_loader(torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)))

    def val_dataloader(self):
        return DataLoader(torch.ones(3, 1))


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_task", sys.modules[__name__])
    for cls in (Line, LineModule, Points):
        monkeypatch.setattr(cls, "__module__", "my_task")
    register(Line)
    content = {
        "model": {"class_path": "my_task.LineModule", "init_args": {"network": {"class_path": "my_task.Line"}}},
        "data": {"class_path": "my_task.Points"},
        "trainer": {"max_steps": 12, "val_check_interval": 6, "precision": "32-true"},
    }
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "line.yaml")


def test_it_trains_without_previews_and_samples(tmp_path, recipe, capsys):
    folder = train(recipe, out=str(tmp_path / "run"), overrides=["--trainer.max_steps=60"])
    lines = capsys.readouterr().err
    assert "run: a line\nendless points\n" in lines and "skipped" not in lines and "points/s" in lines
    assert load(folder / "model").slope.item() == pytest.approx(3, abs=0.1)
    assert "RMSE, held-out data" in (folder / "report.html").read_text()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_resumes_exactly(tmp_path, recipe, monkeypatch, accumulate):
    """Also if it was interrupted between the batches of an optimizer step."""
    overrides = [f"--trainer.accumulate_grad_batches={accumulate}"]
    expected = load(train(recipe, out=str(tmp_path / "full"), overrides=overrides) / "model").slope
    step = LineModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.trainer.global_step == 7 and batch_idx % accumulate == accumulate - 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    out = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(LineModule, "training_step", interrupted)
        train(recipe, out=out, overrides=overrides)
    assert torch.equal(load(train(out=out, resume="auto", imports=["my_task"]) / "model").slope, expected)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_loss_in_the_metrics_is_that_of_one_batch(tmp_path, recipe, monkeypatch, accumulate):
    monkeypatch.setattr(LineModule, "training_step", lambda self, batch, index: self.network(batch).mean() * 0 + 5)
    overrides = [f"--trainer.accumulate_grad_batches={accumulate}"]
    folder = train(recipe, out=str(tmp_path / "run"), overrides=overrides)
    assert {row["train_loss"] for row in read_metrics(folder / "metrics.csv")} == {"5.0000"}
