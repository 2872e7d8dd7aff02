"""``wavedil train``: a recipe and LightningCLI make a run folder with model, samples and a report page."""

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
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden

from wavedil.errors import WavedilError
from wavedil.ops.memory import keep_freed_memory
from wavedil.report import write_report
from wavedil.train.callbacks import Progress, SaveConfig, SaveModel, StopOnNaN
from wavedil.train.module import TrainingModule
from wavedil.train.previews import has_methods
from wavedil.train.recipes import (
    RUN_FOLDER_VARIABLE,
    check_options,
    find_recipe,
    module_class,
    read_recipe,
    run_folder,
)
from wavedil.weights import load

CHECKPOINT_EVERY = timedelta(minutes=2)


class RecipeCLI(LightningCLI):
    """LightningCLI with two more keys, ``previews`` and ``samples``, whose arguments depend on the module."""

    def __init__(self, module: type[TrainingModule], **kwargs: Any):
        self.module = module
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.module.previews_class is not None:
            parser.add_lightning_class_args(self.module.previews_class, "previews")
        if self.module.samples_class is not None:
            parser.add_class_arguments(self.module.samples_class, "samples")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # The method of LightningCLI warns if sys.argv has other arguments, which it always has here.
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = self.config.trainer
        if settings.accelerator == "auto":
            # Not Apple's GPU: sampling needs float64, which it lacks.
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
        recipe: a YAML file or the name of a recipe of the package; None for the default recipe.
        out: run folder; default ``runs/<recipe>``, with a number if that exists.
        resume: ``"auto"`` continues the run in ``out``, or the newest of this recipe, with its ``config.yaml``.
        overrides: further options of LightningCLI, e.g. ``["--data.root", "speech/"]``.

    Raises:
        WavedilError: a recipe, option, folder or data set that cannot be used.
    """
    path = find_recipe(recipe)
    folder, checkpoints = run_folder(path, out, resume)
    new = not folder.exists()
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    _silence_lightning()
    keep_freed_memory()
    config = folder / "config.yaml" if checkpoints else path
    cli = _build(config, folder, overrides or [])
    trainer = cli.trainer
    checkpoint, step = _newest_readable(checkpoints)
    started, handler = time.perf_counter(), signal.getsignal(signal.SIGINT)
    trainer.progress_bar_callback.print_summary(trainer, cli.model)
    try:
        # weights_only: loading a checkpoint never runs code from it.
        resumed = {"ckpt_path": checkpoint, "weights_only": True} if checkpoint else {}
        trainer.fit(cli.model, cli.datamodule, **resumed)
    except SystemExit:  # raised by Lightning on Ctrl-C, after its callbacks have saved model and checkpoint
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
        if not (folder / "model").exists():
            if new and trainer.is_global_zero:
                shutil.rmtree(folder, ignore_errors=True)
            raise WavedilError(f"{folder}: interrupted before the first step, there is no model yet") from None
        write_report(folder)
        _print(trainer, f"\ninterrupted; continue with: wavedil train --out {folder} --resume auto")
        return folder
    except WavedilError:
        if new and trainer.global_step == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)  # nothing was trained
        raise
    if checkpoint and trainer.global_step == step:
        _print(trainer, f"{folder} is finished: extend it with --trainer.max_steps or --trainer.max_time")
        return folder
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    minutes = (time.perf_counter() - started) / 60
    if is_overridden("val_dataloader", cli.datamodule, L.LightningDataModule):
        trainer.validate(cli.model, cli.datamodule, verbose=False)
    if trainer.is_global_zero:
        lines = _write_samples(cli, folder)
        write_report(folder)
        _print(trainer, f"{minutes:.1f} minutes of training. {lines}")
    return folder


def _write_samples(cli: RecipeCLI, folder: Path) -> str:
    """Writes the samples of the saved model and returns the last lines of the run."""
    if not (folder / "model").exists():
        raise WavedilError(f"{folder}: training diverged, the weights are not finite; lower the learning rate")
    network, samples = load(folder / "model", str(cli.model.device)), cli.config_init.get("samples")
    if samples is not None and has_methods(cli.datamodule, samples.data_methods(network), "samples"):
        return samples.write(network, cli.datamodule, folder)
    return f"Report: {folder / 'report.html'}"


def _newest_readable(checkpoints: list[Path]) -> tuple[Path | None, int]:
    """The newest checkpoint that can be read, and its step; None and 0 without checkpoints."""
    for path in checkpoints:
        try:
            return path, torch.load(path, weights_only=True, map_location="cpu")["global_step"]
        except Exception as error:  # torch.load raises many kinds of errors for a truncated file
            print(f"{path} cannot be read ({type(error).__name__}): trying an older checkpoint", file=sys.stderr)
    if checkpoints:
        raise WavedilError(
            f"none of the {len(checkpoints)} checkpoints of {checkpoints[0].parents[1]} can be read: start a new run"
        )
    return None, 0


def _print(trainer: L.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        print(text, file=sys.stderr)


def fast_precision(accelerator: str) -> str:
    """``bf16-mixed`` if the hardware multiplies bf16, else ``32-true``."""
    if accelerator in ("cuda", "gpu"):
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Private: torch has no public query for bf16 support of CPUs.
        is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        fast = accelerator == "cpu" and is_supported is not None and is_supported()
    return "bf16-mixed" if fast else "32-true"


def _build(config: Path, folder: Path, overrides: list[str]) -> RecipeCLI:
    """Module, data module and trainer of a recipe and of command-line options."""
    recipe, renamed = read_recipe(config)
    check_options(overrides, recipe)
    text = str(config)
    if renamed:
        print(f"{config} has names of version 0.1, read as: {', '.join(renamed)}", file=sys.stderr)
        text = yaml.safe_dump(recipe, sort_keys=False)
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
            module_class(config),
            args=["-c", text, *overrides, "--trainer.default_root_dir", str(folder)],
            run=False,
            model_class=TrainingModule,
            datamodule_class=L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            trainer_defaults={
                "callbacks": callbacks,
                "check_val_every_n_epoch": None,  # validation is by steps: the first epoch is infinite
                "enable_model_summary": False,
                "num_sanity_val_steps": 0,
                "use_distributed_sampler": False,  # EndlessSampler distributes the items
            },
        )
    except (ArgumentError, MisconfigurationException, ValueError, TypeError) as error:
        raise WavedilError(_reason(error)) from None


def _reason(error: BaseException) -> str:
    """One line from the parser's error, which lists all types that it tried."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, WavedilError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    keys = [
        found[1] for found in (re.search(r'key "([^"]+)"', text), re.search(r"NestedArg\(key='([^']+)'", text)) if found
    ]
    found = re.search(r"Option '[^']*' is not accepted|Expected an? [^.]*\. Got value: \S+", text)
    if not keys or not found:
        return text
    reason = re.sub(r"<class '([^']+)'>", r"\1", found[0])
    return f"--{'.'.join(keys)}: {reason}"


def _silence_lightning() -> None:
    """Hides messages of Lightning that do not apply to a run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="lightning", category=FutureWarning)
    # One process that crops in memory is faster than workers; recipes set num_workers where it is not.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # metrics.csv has rows whatever the interval of the loggers is.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
    # The checkpoint folder of a resumed run is not empty.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    # Batches are dictionaries with fixed keys; Lightning finds the batch size in them.
    warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
    # Frozen parts are in evaluation mode; the first line of the run names them.
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training.*")
