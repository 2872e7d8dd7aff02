"""``wavedil train``: recipe → LightningCLI → run folder with model, samples and a page to listen to or look at."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from wavedil.errors import WavedilError
from wavedil.files import written_beside
from wavedil.ops.memory import keep_freed_memory
from wavedil.report import write_report
from wavedil.train.base import TrainingModule
from wavedil.train.callbacks import Progress, SaveModel, StopOnNaN
from wavedil.train.recipes import FOLDER, find_recipe, module_class, run_folder

CHECKPOINT_EVERY = timedelta(minutes=2)


class RecipeCLI(LightningCLI):
    """LightningCLI with the options that are about the run and not about a part: those of what the module shows."""

    def __init__(self, module: type[TrainingModule], **kwargs: Any):
        self.module = module
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self.module.previews, "previews")
        parser.add_class_arguments(self.module.samples, "samples")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Lightning's own warns when sys.argv holds something else, which behind a command it always does.
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = self.config.trainer
        if settings.accelerator == "auto":
            # Not Apple's: sampling needs float64, which it lacks.
            kwargs["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
        if settings.precision is None:
            kwargs["precision"] = fast_precision(kwargs.get("accelerator", settings.accelerator))
        if settings.logger is None:
            kwargs["logger"] = TensorBoardLogger(settings.default_root_dir, name="", version="tensorboard")
        return super().instantiate_trainer(**kwargs)


def train(
    recipe: str | None = None, out: str | None = None, resume: str | None = None, overrides: list[str] | None = None
) -> Path:
    """Trains by a recipe and returns the run folder.

    Args:
        recipe: a YAML file or the name of one that comes with the package; None for the default recipe.
        out: run folder; default ``runs/<recipe>``, with a number where that exists.
        resume: ``"auto"`` continues the run in ``out``, or the newest of this recipe; its own config.yaml is used.
        overrides: further options of LightningCLI, e.g. ``["--data.root", "speech/"]``.

    Raises:
        WavedilError: for a recipe, option, folder or data that cannot be used.
    """
    path = find_recipe(recipe)
    folder, checkpoints = run_folder(path, out, resume)
    fresh = not folder.exists()
    os.environ[FOLDER] = str(folder)
    _quiet()
    keep_freed_memory()
    config = folder / "config.yaml" if checkpoints else path
    options = ["-c", str(config), *(overrides or []), "--trainer.default_root_dir", str(folder)]
    cli = _build(options, folder, module_class(config))
    trainer = cli.trainer
    trainer.callbacks.append(_KeepConfig(cli, folder))
    started, handler = time.perf_counter(), signal.getsignal(signal.SIGINT)
    try:
        cli.model.prepare(cli.datamodule, folder)
        checkpoint, step = _usable(checkpoints, cli.model)
        _say(trainer, f"{folder.name}: {cli.model.describe()}")
        # weights_only: a checkpoint is data, and loading it never runs code from it.
        resumed = {"ckpt_path": checkpoint, "weights_only": True} if checkpoint else {}
        trainer.fit(cli.model, cli.datamodule, **resumed)
    except SystemExit:  # what Lightning makes of Ctrl-C, after its callbacks have saved model and checkpoint
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
        if not (folder / "model").exists():
            if fresh and trainer.is_global_zero:
                shutil.rmtree(folder, ignore_errors=True)
            raise WavedilError(f"{folder}: interrupted before the first step, there is no model yet") from None
        write_report(folder)
        _say(trainer, f"\ninterrupted; continue with: wavedil train --out {folder} --resume auto")
        return folder
    except WavedilError:
        if fresh and trainer.global_step == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)  # nothing was trained: the name is free again
        raise
    if checkpoint and trainer.global_step == step:
        _say(trainer, f"{folder} is finished: give it more with --trainer.max_steps or --trainer.max_time")
        return folder
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    minutes = (time.perf_counter() - started) / 60
    trainer.validate(cli.model, cli.datamodule, verbose=False)
    if trainer.is_global_zero:
        farewell = cli.config_init["samples"].leave(cli.model.result.eval(), cli.datamodule, folder)
        write_report(folder)
        _say(trainer, f"{minutes:.1f} minutes of training. {farewell}")
    return folder


class _KeepConfig(Callback):
    """Writes ``RUN/config.yaml`` when training begins: by then a checkpoint to resume from has been loaded and fits."""

    def __init__(self, cli: RecipeCLI, folder: Path):
        self.cli, self.path = cli, folder / "config.yaml"

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            with written_beside(self.path) as beside:
                beside.write_text(self.cli.parser.dump(self.cli.config), encoding="utf-8")


def _usable(checkpoints: list[Path], module: L.LightningModule) -> tuple[Path | None, int]:
    """The newest checkpoint that can be read and its step; it must fit the network."""
    for path in checkpoints:
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
            weights, step = content["state_dict"], content["global_step"]
        except Exception as error:  # torch.load fails in many ways on a file that was cut off
            print(f"{path} cannot be read ({type(error).__name__}): trying the one before", file=sys.stderr)
            continue
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise WavedilError(f"{path} does not fit these options, resume with the run's own: {reason}") from None
        return path, step
    if checkpoints:
        raise WavedilError(
            f"none of the {len(checkpoints)} checkpoints of {checkpoints[0].parents[1]} can be read: start a new run"
        )
    return None, 0


def _say(trainer: L.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        print(text, file=sys.stderr)


def fast_precision(accelerator: str) -> str:
    """bf16 autocast where the hardware multiplies bf16, else float32."""
    if accelerator in ("cuda", "gpu"):
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not public, and the only one who knows
        fast = accelerator == "cpu" and asked is not None and asked()
    return "bf16-mixed" if fast else "32-true"


def _build(args: list[str], folder: Path, module: type[TrainingModule]) -> RecipeCLI:
    callbacks = [
        Progress(),
        SaveModel(),
        StopOnNaN(),
        ModelCheckpoint(
            folder / "checkpoints", filename="last", train_time_interval=CHECKPOINT_EVERY, enable_version_counter=False
        ),
    ]
    try:
        return RecipeCLI(
            module,
            args=args,
            run=False,
            model_class=TrainingModule,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            trainer_defaults={
                "callbacks": callbacks,
                "check_val_every_n_epoch": None,  # validation is by steps: the only epoch has no end
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,  # data modules deal their crops out to the processes
            },
        )
    except (ArgumentError, MisconfigurationException, ValueError, TypeError) as error:
        raise WavedilError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """What is wrong with the options, out of a parser's account of all that it tried."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, WavedilError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    keys = [
        found[1] for found in (re.search(r'key "([^"]+)"', text), re.search(r"NestedArg\(key='([^']+)'", text)) if found
    ]
    said = re.search(r"Option '[^']*' is not accepted|Expected an? [^.]*\. Got value: \S+", text)
    if not keys or not said:
        return text
    what = re.sub(r"<class '([^']+)'>", r"\1", said[0])
    return f"--{'.'.join(keys)}: {what}"


def _quiet() -> None:
    """Lightning's remarks that say nothing about this run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="lightning", category=FutureWarning)
    # One process that crops from memory is faster than workers; recipes say otherwise where it is not.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The checkpoint folder of a resumed run is not empty, and should not be.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    # Batches are dictionaries of fixed keys; Lightning looks for a batch size in them and finds it.
    warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
    # Frozen parts are in evaluation mode, and the run's first line names them.
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training.*")
