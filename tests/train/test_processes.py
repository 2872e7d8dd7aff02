"""Training with several processes: equal to one process, one run folder, refused strategies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from wavedil.audio import load
from wavedil.errors import WavedilError
from wavedil.metrics import read_metrics
from wavedil.train import run
from wavedil.train.callbacks import Progress
from wavedil.train.run import train
from wavedil.train.run_folder import RUN_FOLDER_VARIABLE, claim_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(small_recipe):
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}
    trainer = {"max_steps": 8, "val_check_interval": 4}
    return small_recipe({"optimizer": optimizer, "lr_decay": 0.0}, {"batch_size": 4}, trainer)


def test_two_processes_equal_one_and_are_continued_by_one(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(Progress, "is_due", lambda *_: False)  # rows of validations only
    options = "--data.batch_size 2 --trainer.devices 2 --trainer.strategy ddp".split()
    command = [sys.executable, "-m", "wavedil", "train", "-c", recipe, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("parameters, ") == 1 and "Warning" not in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["small"]
    folder = tmp_path / "runs" / "small"
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["batch_size"] == 2

    one = ["--trainer.max_steps=12", "--trainer.devices=1", "--trainer.strategy=auto", "--data.batch_size=4"]
    train(out=str(folder), resume="auto", overrides=one)
    one = train(recipe, out=str(tmp_path / "one"), overrides=one)
    expected = load(one / "model").state_dict()
    for name, value in load(folder / "model").state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)
    metrics = [{row["step"]: row for row in read_metrics(each / "metrics.csv")} for each in (folder, one)]
    for step, row in metrics[1].items():
        for column in ("train_bits", "valid_bits", "learning_rate"):
            assert float(metrics[0][step][column]) == pytest.approx(float(row[column]), abs=2e-4)
    assert sorted(metrics[1], key=int) == ["4", "8", "12"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--trainer.strategy=fsdp"], "fsdp"),
        (["--trainer.strategy=deepspeed_stage_2"], "deepspeed_stage_2"),
        (["--trainer.strategy=ddp_spawn", "--trainer.devices=2"], "ddp_spawn"),
        (["--trainer.strategy=lightning.pytorch.strategies.FSDPStrategy"], "lightning.pytorch.strategies.FSDPStrategy"),
        (["--trainer.strategy=DeepSpeedStrategy"], "DeepSpeedStrategy"),
        (["--trainer.strategy=DDPStrategy", "--trainer.strategy.start_method=spawn"], "DDPStrategy"),
    ],
)
def test_strategies_that_would_save_a_wrong_model_are_refused(tmp_path, recipe, options, name):
    with pytest.raises(WavedilError, match=f"trainer.strategy is .*{name}: expected auto or ddp") as error:
        train(recipe, out=str(tmp_path / "run"), overrides=options)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_half_precision_on_a_cpu_is_refused(tmp_path, recipe):
    with pytest.raises(WavedilError, match="trainer.precision is 16-mixed: CPUs need bf16-mixed or 32-true"):
        train(recipe, out=str(tmp_path / "run"), overrides=["--trainer.precision=16-mixed"])


@pytest.mark.parametrize("resume", [None, "auto"])
@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
        {"NODE_RANK": "1"},
    ],
)
def test_processes_of_a_launcher_need_a_folder(tmp_path, monkeypatch, variables, resume):
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WavedilError, match="--out is missing"), claim_folder(Path("speech.yaml"), None, resume):
        pass
    assert not list(tmp_path.iterdir())


def test_several_nodes_need_a_folder(tmp_path, recipe, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WavedilError, match="--out is missing"):
        train(recipe, overrides=["--trainer.num_nodes=2", "--trainer.strategy=ddp"])
    assert not (tmp_path / "runs").exists() and RUN_FOLDER_VARIABLE not in os.environ


def test_an_error_of_another_process_waits_and_has_its_number(tmp_path, recipe, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    waits = []
    monkeypatch.setattr(run.time, "sleep", waits.append)
    with pytest.raises(WavedilError, match="process 3: .*max_step"):
        train(recipe, out=str(tmp_path / "run"), overrides=["--trainer.max_step=3"])
    assert waits and not (tmp_path / "run").exists()
