"""A task that trains in a moment, as a module that recipes name."""

import sys

import pytest
import yaml

from wavedil.train.run import train

TASK = """
from functools import partial
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import DataLoader
from wavedil.train import MetricNames, TrainingData, TrainingModule
from wavedil.train.previews import Samples
from wavedil.weights import register

@register
class Line(nn.Module):
    def __init__(self, slope: float = 0.0):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([slope]))

    def forward(self, x):
        return self.slope * x

class TextSamples(Samples):
    def write(self, network, data, folder):
        (folder / "samples").mkdir(exist_ok=True)
        (folder / "samples" / "slope.txt").write_text(str(network.slope.item()))
        return "one text"

class LineModule(TrainingModule):
    metric_names = MetricNames("train_loss", "squared error", "valid_rmse", "RMSE {:.3f}", "points")
    samples_class = TextSamples

    def __init__(self, network: nn.Module):
        super().__init__(partial(torch.optim.SGD, lr=0.1, momentum=0.5), warmup_steps=1, lr_decay=1.0)
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
"""
RECIPE = {
    "model": {"class_path": "line_task.LineModule", "init_args": {"network": {"class_path": "line_task.Line"}}},
    "data": {"class_path": "line_task.Points"},
    "trainer": {
        "max_steps": 12,
        "val_check_interval": 6,
        "precision": "32-true",
        "accelerator": "cpu",
        "logger": False,
    },
}


class Task:
    """A recipe and a run folder that is not there yet."""

    def __init__(self, folder):
        self.recipe, self.run = str(folder / "line.yaml"), folder / "run"

    def train(self, *overrides):
        return train(self.recipe, out=str(self.run), overrides=overrides)

    def resume(self, *overrides, imports=("line_task",)):
        return train(out=str(self.run), resume="auto", overrides=overrides, imports=imports)


@pytest.fixture
def task(tmp_path, monkeypatch):
    (tmp_path / "line_task.py").write_text(TASK)
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Task(tmp_path)
    sys.modules.pop("line_task", None)


@pytest.fixture
def at_step(task, monkeypatch):
    """Calls a function once, when the training of the task reaches a step."""

    def at_step(step, function):
        import line_task

        hook = line_task.LineModule.training_step

        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == step:
                monkeypatch.setattr(line_task.LineModule, "training_step", hook)
                function()
            return hook(self, batch, batch_idx)

        monkeypatch.setattr(line_task.LineModule, "training_step", training_step)

    return at_step
