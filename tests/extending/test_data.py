"""A user-defined data module, a plain LightningDataModule, trains an audio generator by script and by recipe."""

import csv
import sys

import lightning as L
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from wavedil.audio import WaveNet, load
from wavedil.cli import main
from wavedil.train import AudioModule

TIME = 300


class Sines(L.LightningDataModule):
    """Sines as batches of codes and masks, in few lines."""

    def __init__(self, batch_size: int = 2):
        super().__init__()
        self.batch_size = batch_size

    def items(self, num):
        network = self.trainer.lightning_module.network
        time = torch.arange(TIME) / 8000
        sounds = [0.5 * torch.sin(2 * torch.pi * 110 * (i + 1) * time) for i in range(num)]
        return [{"codes": network.encode(sound), "mask": torch.ones(TIME, dtype=torch.bool)} for sound in sounds]

    def train_dataloader(self):
        return DataLoader(self.items(8), self.batch_size)

    def val_dataloader(self):
        return DataLoader(self.items(2), 1)


class TrainingOnly(L.LightningDataModule):
    """Without validation."""

    train_dataloader, items, batch_size = Sines.train_dataloader, Sines.items, 2


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Recipes name the classes by the path ``my_data``."""
    monkeypatch.setitem(sys.modules, "my_data", sys.modules[__name__])
    for cls in (Sines, TrainingOnly):
        monkeypatch.setattr(cls, "__module__", "my_data")


def recipe(tmp_path, data, **network):
    content = {
        "model": {
            "class_path": "wavedil.train.AudioModule",
            "init_args": {
                "network": {
                    "class_path": "wavedil.audio.WaveNet",
                    "init_args": {
                        "channels": 8,
                        "skip_channels": 8,
                        "dilations": "1,2",
                        "sample_rate": 8000,
                        **network,
                    },
                },
            },
        },
        "data": {"class_path": f"my_data.{data}"},
        "trainer": {"max_steps": 10, "val_check_interval": 5, "precision": "32-true", "accelerator": "cpu"},
        "previews": {"first": 3, "seconds": 0.02},
        "samples": {"num": 2, "seconds": 0.02},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return ["train", "-c", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and intervals
def test_a_script_trains_on_it():
    module = AudioModule(WaveNet(8, 8, "1,2", sample_rate=8000), warmup_steps=1)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=3, enable_model_summary=False, **options)
    trainer.fit(module, Sines())
    assert trainer.global_step == 12 and trainer.callback_metrics["valid/bits"] < 8.1
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0  # the budget of three epochs is used


def test_the_shell_trains_and_makes_unconditional_samples(tmp_path, capsys):
    assert main(recipe(tmp_path, "Sines")) == 0
    run, lines = tmp_path / "run", capsys.readouterr().err
    assert lines.count("previews of targets skipped: Sines has no method preview_sounds") == 1
    assert (run / "previews" / "step_000003_0.wav").exists() and not list(run.glob("previews/target*"))
    assert (run / "samples" / "sample_001.wav").exists() and (run / "report.html").exists()
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert 0 < float(rows[-1]["valid_bits"]) < 8.1
    load(run / "model")


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_shell_trains_without_validation(tmp_path):
    assert main(recipe(tmp_path, "TrainingOnly")) == 0
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_a_conditional_network_skips_previews_and_samples(tmp_path, monkeypatch, capsys):
    items = Sines.items
    monkeypatch.setattr(Sines, "items", lambda self, num: [i | {"speaker": torch.tensor(0)} for i in items(self, num)])
    assert main(recipe(tmp_path, "Sines", speakers=["ann", "ben"])) == 0
    run, lines = tmp_path / "run", capsys.readouterr().err
    for purpose in ("previews", "samples"):
        assert lines.count(f"{purpose} skipped: Sines has no method preview_conditioning") == 1
    assert not list(run.glob("samples/*")) and (run / "model" / "config.json").exists()


def test_validation_batches_of_several_sounds_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Sines, "val_dataloader", lambda self: DataLoader(self.items(2), 2))
    assert main(recipe(tmp_path, "Sines")) == 2
    assert "batch_size of the validation loader is 2: expected 1" in capsys.readouterr().err
