"""Loggers of a run: where they write, sounds and pictures, and errors, which do not end a training."""

import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.image import imread

from wavedil.audio.data.audio_files import read
from wavedil.errors import WavedilError, first_line
from wavedil.outputs import BestEffort
from wavedil.train.run_folder import process_rank

_METHODS = ("log_metrics", "log_hyperparams", "log_graph", "after_save_checkpoint", "save")


def with_folders(value: Any, folder: Path, recorded: Any = None) -> Any:
    """``trainer.logger`` of a recipe with the arguments that a logger of this run has by default.

    Args:
        value: a logger, as a class's name or a dictionary, or a list of them.
        folder: the run folder.
        recorded: the folder of the same run when its ``config.yaml`` was written.
    """
    if isinstance(value, list):
        return [with_folders(each, folder, recorded) for each in value]
    spec = {"class_path": value} if isinstance(value, str) else value
    name = spec.get("class_path") if isinstance(spec, dict) else None
    arguments = spec.get("init_args") or {} if isinstance(name, str) else None
    if not isinstance(arguments, dict):
        return value
    module, _, kind = name.rpartition(".")
    defaults = {
        "CSVLogger": {"save_dir": str(folder), "name": "", "version": "csv"},
        "TensorBoardLogger": {"save_dir": str(folder), "name": "", "version": "tensorboard"},
        "WandbLogger": {"save_dir": str(folder), "name": folder.name},
        # MLflow's own default; Lightning's, a folder, is refused by MLflow 3.
        "MLFlowLogger": {
            "experiment_name": "wavedil",
            "run_name": folder.name,
            "tracking_uri": os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
        },
        "TrackioLogger": {"name": folder.name},
    }.get(kind)
    if defaults is None or module not in ("", "lightning.pytorch.loggers", __name__):
        return value
    if recorded is not None and arguments.get("save_dir") == recorded:
        arguments = {**arguments, "save_dir": str(folder)}
    module = __name__ if kind == "TrackioLogger" else "lightning.pytorch.loggers"
    return {"class_path": f"{module}.{kind}", "init_args": defaults | arguments}


def log_recipe(trainer: L.Trainer, recipe: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
    """Logs the recipe as hyperparameters; TensorBoard shows them beside ``metrics``, which are known at the end."""
    flat = dict(_flat(recipe))
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            if metrics is None:
                logger.log_hyperparams(flat)
        elif metrics is not None:
            logger.log_hyperparams(flat, metrics)


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Keys, as command-line options, and values of a recipe; lists as texts."""
    if not isinstance(value, dict):
        yield place, value if isinstance(value, str | int | float) else str(value)
        return
    for key, item in value.items():
        own = {"init_args": place, "class_path": place}.get(key, f"{place}.{key}" if place else str(key))
        yield from _flat(item, own)


def log_file(trainer: L.Trainer, path: Path, tag: str, step: int) -> None:
    """Logs a sound (.wav) or picture (.png) that a run has written, with each logger that can."""
    for logger in trainer.loggers:
        log = next((log for cls, log in _LOG_FILE.items() if isinstance(logger, cls)), None)
        if log is not None:
            with best_effort(logger):
                log(logger, path, tag, step)


def _to_tensorboard(logger: Any, path: Path, tag: str, step: int) -> None:
    if path.suffix == ".wav":
        sound, rate = read(path)
        logger.experiment.add_audio(tag, sound[0], step, sample_rate=rate)
    else:
        logger.experiment.add_image(tag, imread(path), step, dataformats="HWC")


def _to_wandb(logger: Any, path: Path, tag: str, step: int) -> None:
    log = logger.log_audio if path.suffix == ".wav" else logger.log_image
    log(f"{tag}{path.suffix}", [str(path)], step)


def _to_mlflow(logger: Any, path: Path, tag: str, step: int) -> None:
    logger.experiment.log_artifact(logger.run_id, str(path), path.parent.name)


def _to_trackio(logger: Any, path: Path, tag: str, step: int) -> None:
    import trackio

    kind = trackio.Audio if path.suffix == ".wav" else trackio.Image
    logger.log_metrics({f"{tag}{path.suffix}": kind(str(path))}, step)


class TrackioLogger(Logger):
    """Logs to trackio, which has the interface of W&B and keeps its data on this machine.

    Args:
        project: name of the project.
        name: name of the run.
        options: further arguments of ``trackio.init``, e.g. ``space_id``.

    Raises:
        ModuleNotFoundError: trackio is not installed.
    """

    def __init__(self, project: str = "wavedil", name: str | None = None, options: dict[str, Any] | None = None):
        super().__init__()
        if find_spec("trackio") is None:
            raise ModuleNotFoundError("Requirement 'trackio' not met", name="trackio")
        self._project, self._name, self._options, self._run = project, name, options or {}, None

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._name

    @property
    def experiment(self) -> Any:
        import trackio

        if self._run is None and not process_rank():
            self._run = trackio.init(project=self._project, name=self._name, resume="allow", **self._options)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **options: Any) -> None:
        self.experiment.config.update(dict(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            import trackio

            trackio.finish()  # Run.finish would be called again at exit


_LOG_FILE = {
    TensorBoardLogger: _to_tensorboard,
    WandbLogger: _to_wandb,
    MLFlowLogger: _to_mlflow,
    TrackioLogger: _to_trackio,
}


def best_effort(logger: Logger) -> BestEffort:
    """The context of everything that a logger writes; the same at each call."""
    if not hasattr(logger, "best_effort"):
        logger.best_effort = BestEffort(logger.log_dir or type(logger).__name__)
    return logger.best_effort


@contextmanager
def loggers_may_fail(trainer: L.Trainer) -> Iterator[None]:
    """Guards the methods that write. Within the context, the threads of TensorBoard print no traceback.

    Loggers are closed at its end, and not by Lightning after training: the last validation and the samples come after.
    """
    closing = []
    for logger in trainer.loggers:
        closing.append((logger, logger.finalize))
        logger.finalize = lambda status: None
        for name in _METHODS:
            setattr(logger, name, _guarded(logger, getattr(logger, name)))
        try:
            with best_effort(logger):
                hasattr(logger, "experiment")  # which creates files
        except Exception as error:  # of many kinds, e.g. of a service without an account
            text = f"{type(logger).__name__} cannot start ({type(error).__name__}: {first_line(error)})"
            raise WavedilError(f"trainer.logger: {text}") from error
    trainer.loggers = [logger for logger in trainer.loggers if not best_effort(logger).failed]
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        # TensorBoard keeps the error and raises it in the next call.
        if type(arguments.thread).__name__ != "_AsyncWriterThread" or not isinstance(arguments.exc_value, OSError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        for logger, close in closing:
            with best_effort(logger):
                close("success" if trainer.state.finished else "failed")
        threading.excepthook = before


def _guarded(logger: Logger, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def guarded(*args: Any, **options: Any) -> Any:
        with best_effort(logger):
            try:
                return method(*args, **options)
            except OSError:
                raise
            except Exception as error:  # e.g. of a service that does not answer: no reason to end a training
                raise OSError(f"{type(error).__name__}: {first_line(error)}") from error

    return guarded
