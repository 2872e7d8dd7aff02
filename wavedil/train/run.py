"""``wavedil train``: a recipe and LightningCLI make a run folder with model, samples and a report page."""

import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentError
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden

from wavedil.errors import Interrupted, WavedilError
from wavedil.ops.memory import keep_freed_memory
from wavedil.outputs import check_outputs
from wavedil.report import write_report
from wavedil.train.callbacks import CheckMonitors, Progress, SaveConfig, SaveModel, StopOnNaN
from wavedil.train.checkpoints import SafeCheckpointIO, newest_readable
from wavedil.train.module import TrainingModule
from wavedil.train.previews import has_methods
from wavedil.train.recipes import (
    SAFE_PACKAGES,
    check_options,
    check_strategy,
    find_recipe,
    module_class,
    read_recipe,
    safe_classes_only,
    unsafe_class,
    wrong_strategy,
)
from wavedil.train.resume import ExactResume, signals_interrupt
from wavedil.train.run_folder import (
    RUN_FOLDER_VARIABLE,
    claim_folder,
    is_finished,
    missing_out,
    process_rank,
    record_finished,
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
        check_strategy(self.config.trainer.strategy)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = self.config.trainer
        if settings.accelerator == "auto":
            # Not Apple's GPU: sampling needs float64, which it lacks.
            kwargs["accelerator"] = "cuda" if torch.cuda.is_available() else "cpu"
        if settings.precision is None:
            kwargs["precision"] = fast_precision(kwargs.get("accelerator", settings.accelerator))
        elif str(settings.precision) in ("16", "16-mixed") and kwargs.get("accelerator", settings.accelerator) == "cpu":
            raise WavedilError(f"trainer.precision is {settings.precision}: CPUs need bf16-mixed or 32-true")
        if settings.logger is None:
            kwargs["logger"] = TensorBoardLogger(settings.default_root_dir, name="", version="tensorboard")
        trainer = super().instantiate_trainer(**kwargs)
        launcher = trainer.strategy.launcher
        if launcher is not None and not isinstance(launcher, _SubprocessScriptLauncher):  # auto in a notebook
            raise wrong_strategy(type(trainer.strategy).__name__)
        trainer.callbacks.insert(0, CheckMonitors())  # before the callbacks that look for their metric
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one of a strategy or a plugin
            trainer.strategy.checkpoint_io = SafeCheckpointIO()
        return trainer


def train(
    recipe: str | None = None,
    out: str | None = None,
    resume: str | None = None,
    overrides: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Path:
    """Trains by a recipe and returns the run folder, also after Ctrl-C, SIGTERM or SIGHUP.

    Args:
        recipe: a YAML file or the name of a recipe of the package; None for the default recipe.
        out: run folder; default ``runs/<recipe>``, with a number if that exists.
        resume: ``"auto"`` continues the run in ``out``, or the newest of this recipe, with its ``config.yaml``.
        overrides: further options of LightningCLI, e.g. ``["--data.root", "speech/"]``.
        imports: modules and packages of yours that the ``config.yaml`` of a resumed run may name.

    Raises:
        WavedilError: a recipe, option, folder or data set that cannot be used.
    """
    return run_recipe(recipe, out, resume, overrides, imports)[0]


def run_recipe(
    recipe: str | None, out: str | None, resume: str | None, overrides: Sequence[str], imports: Sequence[str]
) -> tuple[Path, int]:
    """:func:`train` with an exit status: 0 if the run is finished, else 128 and the number of the signal."""
    path = find_recipe(recipe)
    _silence_lightning()
    with (
        _reports_once(),
        claim_folder(path, out, resume) as (folder, checkpoints),
        signals_interrupt() as signals,
    ):
        os.environ[RUN_FOLDER_VARIABLE] = str(folder)
        handler = signal.getsignal(signal.SIGINT)
        cli = None
        try:
            keep_freed_memory()
            checkpoint, step = newest_readable(checkpoints)
            if checkpoint:
                cli = _build(folder / "config.yaml", folder, overrides, imports)
            else:
                cli = _build(path, folder, overrides)
            root = getattr(cli.datamodule, "root", None)
            if isinstance(root, str | os.PathLike):  # the next run would read this run's files as data
                check_outputs([folder / "model"], [root] if os.path.isdir(root) else [])
            if out is None and cli.trainer.num_nodes > 1:
                raise missing_out()
            signals.module = cli.model
            cli.trainer.callbacks.insert(0, ExactResume(signals))  # before the callbacks that take time
            _fit_and_sample(cli, folder, checkpoint, step)
            return folder, 0
        except (KeyboardInterrupt, SystemExit, RuntimeError) as error:  # Lightning turns Ctrl-C into SystemExit
            # After a signal, Lightning's cleanup raises RuntimeError for data workers that have ended or not started.
            if isinstance(error, RuntimeError) and not signals.received:
                raise
            if cli is None and isinstance(error, SystemExit):  # an option such as --trainer.help
                raise
            status = 128 + (signals.received[0] if signals.received else signal.SIGINT)
            if process_rank():
                return folder, status
            if cli is None or not (folder / "model").exists():
                text = f"{folder}: interrupted before the first step, there is no model yet"
                raise Interrupted(text, status) from None
            write_report(folder)
            modules = "".join(f" --import {name}" for name in imports)
            text = f"continue with: wavedil train --out {folder} --resume auto{modules}"
            if not any((folder / "checkpoints").glob("*.ckpt")):
                text = "the model is saved, but there is no checkpoint to continue from yet"
            print(f"\ninterrupted; {text}", file=sys.stderr)
            return folder, status
        except BaseException:
            for process in [] if cli is None else getattr(cli.trainer.strategy.launcher, "procs", []):
                process.kill()  # it may wait for this process without end
            raise
        finally:
            os.environ.pop(RUN_FOLDER_VARIABLE, None)
            if threading.current_thread() is threading.main_thread() and handler is not None:
                signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored


def _fit_and_sample(cli: RecipeCLI, folder: Path, checkpoint: Path | None, step: int) -> None:
    """Trains, validates, and writes samples and report. Completes what an earlier process has not done."""
    trainer, model, started = cli.trainer, cli.model, time.perf_counter()
    if 0 in (trainer.max_steps, trainer.max_epochs):
        raise WavedilError(
            "trainer.max_steps or trainer.max_epochs is 0: expected a positive integer, or -1 for no limit"
        )
    trainer.progress_bar_callback.print_summary(trainer, model)
    # weights_only: loading a checkpoint never runs code from it.
    resumed = {"ckpt_path": checkpoint, "weights_only": True} if checkpoint else {}
    trainer.fit(model, cli.datamodule, **resumed)
    if trainer.global_step == 0:
        raise WavedilError("no step was trained: check trainer.max_time, trainer.limit_train_batches and the data")
    if trainer.global_step == step:  # the checkpoint is that of the last step
        if is_finished(folder, step):
            _print(trainer, f"{folder} is finished: extend it with --trainer.max_steps or --trainer.max_time")
            return
        _print(trainer, f"{folder}: all steps are trained; completing its model, samples and report")
        next(each for each in trainer.callbacks if isinstance(each, SaveModel)).save_latest(trainer, model)
    else:
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    minutes = (time.perf_counter() - started) / 60
    if is_overridden("val_dataloader", cli.datamodule, L.LightningDataModule):
        trainer.validate(model, cli.datamodule, verbose=False)
    if trainer.is_global_zero:
        lines = _write_samples(cli, folder)
        write_report(folder)
        record_finished(folder, trainer.global_step)
        _print(trainer, f"{minutes:.1f} minutes of training. {lines}")


@contextmanager
def _reports_once() -> Iterator[None]:
    """Delays errors of other processes than the first, which usually reports the same error and ends the others."""
    try:
        yield
    except WavedilError as error:
        if not (rank := process_rank()):
            raise
        time.sleep(5)
        raise WavedilError(f"process {rank}: {error}") from None


def _write_samples(cli: RecipeCLI, folder: Path) -> str:
    """Writes the samples of the saved model and returns the last lines of the run."""
    if not (folder / "model").exists():
        raise WavedilError(f"{folder}: training diverged, the weights are not finite; lower the learning rate")
    network, samples = load(folder / "model", str(cli.model.device)), cli.config_init.get("samples")
    if samples is not None and has_methods(cli.datamodule, samples.data_methods(network), "samples"):
        return samples.write(network, cli.datamodule, folder)
    return f"Report: {folder / 'report.html'}"


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


def _build(config: Path, folder: Path, overrides: Sequence[str], imports: Sequence[str] | None = None) -> RecipeCLI:
    """Module, data module and trainer of a recipe and of command-line options.

    Args:
        config: the recipe.
        folder: the run folder.
        overrides: command-line options.
        imports: packages that may be named besides :data:`SAFE_PACKAGES`; None for all.
    """
    recipe, renamed = read_recipe(config)
    check_options(overrides, recipe)
    if any(option.partition("=")[0] == "--trainer.default_root_dir" for option in overrides):
        raise WavedilError("--trainer.default_root_dir is the run folder: name it with --out")
    text = str(config)
    if renamed and not process_rank():
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
    restricted = nullcontext() if imports is None else safe_classes_only(imports)
    try:
        with restricted:
            return RecipeCLI(
                module_class(config, None if imports is None else [*SAFE_PACKAGES, *imports]),
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
        denied = re.search(r"Importing '([^']+)' is not allowed", str(error))
        raise (unsafe_class(config, denied[1]) if denied else WavedilError(_reason(error))) from None


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
    # DDP copies gradients of convolutions whose memory format is not that of its buffers: this costs little.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Frozen parts are in evaluation mode; the first line of the run names them.
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training.*")
