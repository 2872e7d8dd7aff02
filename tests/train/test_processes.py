"""Training with several processes: equal to one process, one run folder, refused strategies."""

import os
import socket
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


SCRIPT = """
import math, sys
from wavedil.errors import WavedilError
from wavedil.train import AudioModule, divergence, run
from wavedil.train.run import train

recipe, folder = sys.argv[1:]
two = ["--trainer.devices=2", "--data.batch_size=2"]
train(out=f"{folder}/whole", resume="auto", overrides=[*two, "--trainer.strategy=fsdp", "--trainer.max_steps=8"])

training_step, divergence.SNAPSHOT_EVERY = AudioModule.training_step, 2
def diverging_step(self, batch, batch_idx):
    loss = training_step(self, batch, batch_idx)
    return loss * math.nan if self.trainer.global_step == 5 and self.global_rank == 1 else loss
AudioModule.training_step = diverging_step
for strategy in ("ddp", "fsdp"):
    options = [f"--trainer.strategy={strategy}", "--trainer.callbacks+=wavedil.train.RestartOnDivergence"]
    train(recipe, out=f"{folder}/{strategy}", overrides=[*two, *options])

def failing_step(self, batch, batch_idx):
    if self.global_rank == 1:
        raise WavedilError("b.wav is damaged")
    return training_step(self, batch, batch_idx)
AudioModule.training_step, run.time.sleep = failing_step, lambda seconds: None
try:
    train(recipe, out=f"{folder}/failed", overrides=[*two, "--trainer.strategy=ddp"])
except WavedilError as error:
    print("error:", error, file=sys.stderr)
"""


def tensors(value, place=""):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: each for key, item in items for name, each in tensors(item, f"{place}/{key}").items()}
    return {place: value} if isinstance(value, torch.Tensor) else {}


def test_sharded_training_and_restarts(tmp_path, small_recipe):
    network = {"optimizer": {"class_path": "torch.optim.Adam"}, "lr_decay": 0.0, "ema_decay": 0.9}
    trainer = {"max_steps": 8, "val_check_interval": 4, "gradient_clip_val": 0.5}
    recipe = small_recipe(network, {"batch_size": 4}, trainer)
    train(recipe, out=str(tmp_path / "whole"), overrides=["--trainer.max_steps=4"])

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", SCRIPT, recipe, str(tmp_path)]
    processes = [
        subprocess.Popen(
            command, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    texts = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert "Warning" not in texts[0]
    assert "error: another process of this run has ended, see its message" in texts[0]
    assert "error: process 1: b.wav is damaged" in texts[1]

    one = ["--trainer.devices=1", "--trainer.strategy=auto", "--data.batch_size=4", "--trainer.max_steps=12"]
    train(out=str(tmp_path / "whole"), resume="auto", overrides=one)
    train(recipe, out=str(tmp_path / "expected"), overrides=one)
    found, expected = ({**load(tmp_path / name / "model").state_dict()} for name in ("whole", "expected"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    rows = [read_metrics(tmp_path / name / "metrics.csv")[-1] for name in ("whole", "expected")]
    assert float(rows[0]["valid_bits"]) == pytest.approx(float(rows[1]["valid_bits"]), abs=2e-4)

    for name in ("ddp", "fsdp"):
        rows = (tmp_path / name / "restarts.csv").read_text().splitlines()
        assert len(rows) == 2 and rows[1].startswith('6,4,0.5,"process 1: the loss is nan at step 6: training diverged')
    found, expected = (
        tensors(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True))
        for name in ("fsdp", "ddp")
    )
    assert found.keys() == expected.keys() and any("snapshot" in name for name in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--trainer.strategy=fsdp_cpu_offload"], "fsdp_cpu_offload"),
        (["--trainer.strategy=deepspeed_stage_2"], "deepspeed_stage_2"),
        (["--trainer.strategy=ddp_spawn", "--trainer.devices=2"], "ddp_spawn"),
        (["--trainer.strategy=lightning.pytorch.strategies.FSDPStrategy"], "lightning.pytorch.strategies.FSDPStrategy"),
        (["--trainer.strategy=DeepSpeedStrategy"], "DeepSpeedStrategy"),
        (["--trainer.strategy=DDPStrategy", "--trainer.strategy.start_method=spawn"], "DDPStrategy"),
    ],
)
def test_strategies_that_would_save_a_wrong_model_are_refused(tmp_path, recipe, options, name):
    with pytest.raises(WavedilError, match=f"trainer.strategy is .*{name}: expected auto, ddp or fsdp") as error:
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
