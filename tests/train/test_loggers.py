"""Loggers of a run: named in a line, with sounds, pictures, learning rate and recipe."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
import yaml
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger

from wavedil.audio.data import audio_files
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.extras import install
from wavedil.metrics import read_metrics
from wavedil.train.callbacks import Progress
from wavedil.train.loggers import TrackioLogger, log_file, log_recipe, loggers_may_fail, with_folders

LOGGERS = "lightning.pytorch.loggers"


def test_loggers_write_to_the_run_folder(monkeypatch):
    folder = Path("runs/a")
    csv = {"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": "runs/a", "name": "", "version": "csv"}}
    assert with_folders("CSVLogger", folder) == csv == with_folders(f"{LOGGERS}.CSVLogger", folder)
    wandb = {"class_path": "WandbLogger", "init_args": {"project": "p", "name": "n"}}
    assert with_folders([wandb], folder)[0]["init_args"] == {"save_dir": "runs/a", "name": "n", "project": "p"}
    for other in (
        "Other",
        "mine.CSVLogger",
        True,
        False,
        None,
        {"class_path": 3},
        {"class_path": "CSVLogger", "init_args": 3},
    ):
        assert with_folders(other, folder) == other
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert with_folders("MLFlowLogger", folder)["init_args"]["tracking_uri"] == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a.b")
    assert with_folders("MLFlowLogger", folder)["init_args"]["tracking_uri"] == "http://a.b"
    assert with_folders(csv, Path("runs/moved"), "runs/a")["init_args"]["save_dir"] == "runs/moved"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    network = {"channels": 8, "skip_channels": 8, "dilations": "1,2", "num_codes": 64, "sample_rate": 4000}
    recipe = {
        "model": {
            "class_path": "wavedil.train.AudioModule",
            "init_args": {"network": {"class_path": "wavedil.audio.WaveNet", "init_args": network}},
        },
        "data": {
            "class_path": "wavedil.train.AudioData",
            "init_args": {"crop": 200, "built_in_seconds": 20, "valid_seconds": 0.2},
        },
        "trainer": {"max_steps": 12, "val_check_interval": 6, "precision": "32-true", "accelerator": "cpu"},
        "previews": {"first": 5, "seconds": 0.05},
        "samples": {"num": 1, "seconds": 0.05},
    }
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def test_tensorboard_and_csv_get_all_of_a_run(recipe, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(Progress, "is_due", lambda *_: False)  # rows of validations only
    option = "--trainer.logger=[CSVLogger, TensorBoardLogger]"
    assert main(["train", "-c", recipe, "--out", str(run), option]) == 0
    assert [row["step"] for row in read_metrics(run / "metrics.csv")] == ["6", "12"]
    assert capsys.readouterr().err.count("step 12 ") == 1
    (events,) = (run / "tensorboard").glob("events*")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tags = accumulator.EventAccumulator(str(events)).Reload().Tags()
    assert {"learning_rate", "samples_per_second", "valid/bits", "final/valid_bits"} <= set(tags["scalars"])
    samples = {"samples/sample_000", "samples/sample_000_recording"}
    assert set(tags["audio"]) == {"target", "step", *samples} and {"target", "step"} <= set(tags["images"])
    assert "data.crop: 200" in (run / "csv" / "hparams.yaml").read_text()
    assert "learning_rate" in (run / "csv" / "metrics.csv").read_text()


@pytest.mark.parametrize("name", ["WandbLogger", "MLFlowLogger", "TrackioLogger"])
def test_a_logger_that_is_not_installed_is_one_line(recipe, tmp_path, capsys, name):
    package = name.removesuffix("Logger").lower()
    if find_spec(package):
        pytest.skip("it is installed")
    for words in (
        [f"--trainer.logger={name}"],
        ["--trainer.logger", f"{LOGGERS}.{name}".replace(f"{LOGGERS}.Tr", "Tr")],
    ):
        assert main(["train", "-c", recipe, "--out", str(tmp_path / "run"), *words]) == 2
        message = f"--trainer.logger: {name} needs {package}, which is not installed: {install(package)}\n"
        assert capsys.readouterr().err == f"error: {message}" and not (tmp_path / "run").exists()


def test_sounds_and_pictures_go_to_each_logger(tmp_path, monkeypatch):
    audio_files.write(tmp_path / "a.wav", torch.zeros(1, 10), 8000)
    trackio = MagicMock()
    monkeypatch.setattr("wavedil.train.loggers.find_spec", lambda name: name)
    monkeypatch.setitem(__import__("sys").modules, "trackio", trackio)
    wandb, mlflow, own = MagicMock(spec=WandbLogger), MagicMock(spec=MLFlowLogger), TrackioLogger(name="run")
    mlflow.experiment, mlflow.run_id = MagicMock(), "7"
    trainer = SimpleNamespace(loggers=[wandb, mlflow, own, object()])
    log_file(trainer, tmp_path / "a.wav", "step", 3)
    log_file(trainer, tmp_path / "a.png", "step", 4)
    wandb.log_audio.assert_called_once_with("step.wav", [str(tmp_path / "a.wav")], 3)
    wandb.log_image.assert_called_once_with("step.png", [str(tmp_path / "a.png")], 4)
    mlflow.experiment.log_artifact.assert_called_with("7", str(tmp_path / "a.png"), tmp_path.name)
    trackio.Audio.assert_called_once_with(str(tmp_path / "a.wav"))
    trackio.init.assert_called_once_with(project="wavedil", name="run", resume="allow")
    trainer.loggers.pop()
    log_recipe(trainer, {"data": {"class_path": "X", "init_args": {"seed": 3, "crop": [1, 2]}}})
    wandb.log_hyperparams.assert_called_once_with({"data": "X", "data.seed": 3, "data.crop": "[1, 2]"})
    own.finalize("success")
    trackio.finish.assert_called_once_with()


def test_trackio_gets_the_recipe_first(recipe, tmp_path, monkeypatch):
    trackio = MagicMock()  # keeps only the config of the time of the first log
    monkeypatch.setattr("wavedil.train.loggers.find_spec", lambda name: name)
    monkeypatch.setitem(__import__("sys").modules, "trackio", trackio)
    assert main(["train", "-c", recipe, "--out", str(tmp_path / "run"), "--trainer.logger", "TrackioLogger"]) == 0
    calls = [call for call in trackio.init.return_value.mock_calls if call[0] in ("config.update", "log")]
    assert calls[0][0] == "config.update" and calls[0].args[0]["data.crop"] == 200
    assert {"target.wav", "step.png", "samples/sample_000.wav", "valid/bits"} <= {
        name for call in calls[1:] if call[0] == "log" for name in call.args[0]
    }


@pytest.mark.parametrize("name", ["WandbLogger", "MLFlowLogger", "TrackioLogger"])
def test_services_on_this_machine(recipe, tmp_path, monkeypatch, name):
    package = name.removesuffix("Logger").lower()
    if find_spec(package) is None:  # not imported here: trackio reads its folder while it is imported
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    for variable, value in {"WANDB_MODE": "offline", "TRACKIO_DIR": "trackio"}.items():
        monkeypatch.setenv(variable, value)
    assert main(["train", "-c", recipe, "--out", "run", "--trainer.logger", name]) == 0
    place = {"WandbLogger": "run/wandb", "MLFlowLogger": "mlruns", "TrackioLogger": "trackio/media"}[name]
    assert {path.suffix for path in Path(place).rglob("*") if path.is_file()} >= {".wav", ".png"}


class Failing(Logger):
    """A logger of a service that does not answer."""

    def __init__(self, starts):
        super().__init__()
        self.starts = starts

    name = version = log_dir = None

    def log_hyperparams(self, params, *args, **options): ...

    @property
    def experiment(self):
        if not self.starts:
            raise RuntimeError("no account")
        return self

    def log_metrics(self, metrics, step=None):
        raise RuntimeError("no answer")


def test_a_service_that_fails(caplog):
    trainer = SimpleNamespace(loggers=[Failing(False)], state=SimpleNamespace(finished=True))
    with pytest.raises(WavedilError, match=r"^trainer.logger: Failing cannot start \(RuntimeError: no account\)$"):
        with loggers_may_fail(trainer):
            pass
    trainer.loggers = [Failing(True)]
    with loggers_may_fail(trainer):
        for step in range(2):
            trainer.loggers[0].log_metrics({"a": 1.0}, step)
    assert [record.message for record in caplog.records] == [
        "Failing is not written, going on without: RuntimeError: no answer"
    ]


def test_an_error_of_a_constructor_is_shown(recipe, tmp_path, capsys):
    words = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=x", "--trainer.callbacks.mode=bad"]
    assert main(["train", "-c", recipe, "--out", str(tmp_path / "run"), *words]) == 2
    assert capsys.readouterr().err == (
        "error: --trainer.callbacks[0]: ModelCheckpoint cannot be built: `mode` can be min, max but got bad\n"
    )
