"""``wavedil train``: a recipe and LightningCLI make a run folder with model, samples and a report page."""

import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import yaml
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.utilities.model_helpers import is_overridden

from wavedil.errors import Interrupted, WavedilError, reason
from wavedil.ops.memory import is_out_of_memory, keep_freed_memory
from wavedil.outputs import BestEffort, check_outputs
from wavedil.report import write_report
from wavedil.train.build import RecipeCLI, build, check_same_recipe, print_changes, show_help
from wavedil.train.callbacks import SaveModel
from wavedil.train.checkpoints import newest_readable
from wavedil.train.loggers import log_file, log_recipe, loggers_may_fail
from wavedil.train.module import TrainingModule
from wavedil.train.parser_errors import with_option
from wavedil.train.previews import has_methods
from wavedil.train.recipes import find_recipes
from wavedil.train.resume import ExactResume, signals_interrupt
from wavedil.train.run_folder import (
    RUN_FOLDER_VARIABLE,
    claim_folder,
    is_finished,
    missing_out,
    process_rank,
    record_early_stop,
    record_finished,
)
from wavedil.weights import load


def train(
    recipe: str | Sequence[str] | None = None,
    out: str | None = None,
    resume: str | None = None,
    overrides: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Path:
    """Trains by a recipe and returns the run folder, also after Ctrl-C, SIGTERM or SIGHUP.

    Args:
        recipe: a YAML file or the name of a recipe of the package; None for the default recipe. Of several, later ones
            replace keys of earlier ones.
        out: run folder; default ``runs/<last recipe>``, with a number if that exists.
        resume: ``"auto"`` continues the run in ``out``, or the newest of this recipe, with its ``config.yaml``. Options
            may change anything but the network; what they change is printed.
        overrides: further options of LightningCLI, e.g. ``["--data.root", "speech/"]``. The last one of a key
            counts; the shell refuses two.
        imports: your own modules and packages that the ``config.yaml`` of a resumed run may name.

    Raises:
        WavedilError: a recipe, option, folder or data set that cannot be used.
    """
    return run_recipe(recipe, out, resume, overrides, imports)[0]


def run_recipe(
    recipe: str | Sequence[str] | None,
    out: str | None,
    resume: str | None,
    overrides: Sequence[str],
    imports: Sequence[str],
) -> tuple[Path, int]:
    """:func:`train` with an exit status: 0 if the run is finished, else 128 and the number of the signal."""
    paths = find_recipes(recipe)
    silence_lightning()
    if show_help(paths, overrides):
        return Path(), 0
    with (
        _reports_once(),
        claim_folder(paths[-1], out, resume) as (folder, checkpoints),
        signals_interrupt() as signals,
    ):
        os.environ[RUN_FOLDER_VARIABLE] = str(folder)
        handler = signal.getsignal(signal.SIGINT)
        cli = None
        try:
            keep_freed_memory()
            checkpoint, step = newest_readable(checkpoints)
            if checkpoint:
                if recipe is not None and out is not None:
                    check_same_recipe(paths, folder / "config.yaml")
                cli = build(folder / "config.yaml", folder, overrides, imports)
                print_changes(cli, folder / "config.yaml")
            else:
                cli = build(paths, folder, overrides)
            root = getattr(cli.datamodule, "root", None)
            if isinstance(root, str | os.PathLike):  # the next run would read this run's files as data
                check_outputs([folder / "model"], [root] if os.path.isdir(root) else [])
            if out is None and cli.trainer.num_nodes > 1:
                raise missing_out()
            signals.module = cli.model
            cli.trainer.callbacks.insert(0, ExactResume(signals))  # before the callbacks that take time
            with loggers_may_fail(cli.trainer):
                _fit_and_sample(cli, folder, checkpoint, step, imports)
            return folder, 0
        except (KeyboardInterrupt, SystemExit, RuntimeError, MemoryError) as error:
            # Lightning turns Ctrl-C into SystemExit.
            # After a signal, Lightning's cleanup raises RuntimeError for data workers that have ended or not started.
            if isinstance(error, RuntimeError | MemoryError) and not signals.received:
                if cli is not None and is_out_of_memory(error):
                    step = cli.trainer.global_step + 1
                    remedy = "reduce data.batch_size or data.crop, or set checkpoint_layers of the network"
                    raise WavedilError(f"memory ran out at step {step}: {remedy}") from None
                if cli is not None and cli.trainer.world_size > 1 and _is_lost_connection(error):
                    saved = any((folder / "checkpoints").glob("[!.]*.ckpt"))
                    remedy = f"; {_continuation(folder, imports)}" if saved else ""
                    raise WavedilError(f"another process of this run has ended, see its message{remedy}") from None
                raise
            if cli is None and isinstance(error, SystemExit):  # an option such as --trainer.help
                raise
            status = 128 + (signals.received[0] if signals.received else signal.SIGINT)
            if process_rank():
                return folder, status
            if cli is None or not (folder / "model").exists():
                text = f"{folder}: interrupted before the first step, there is no model yet"
                raise Interrupted(text, status) from None
            _try_report(folder)
            text = _continuation(folder, imports)
            if not any((folder / "checkpoints").glob("[!.]*.ckpt")):
                text = "the model is saved, but there is no checkpoint to continue from yet"
            print(f"\ninterrupted; {text}", file=sys.stderr)
            return folder, status
        except BaseException as error:
            for process in [] if cli is None else getattr(cli.trainer.strategy.launcher, "procs", []):
                process.kill()  # it may wait for this process without end
            if isinstance(error, OSError):
                raise _unwritable(error, folder) from error
            if type(error) is WavedilError and cli is not None:  # not its subclasses, which are no mistakes
                raise WavedilError(with_option(str(error), cli.config)) from error
            raise
        finally:
            os.environ.pop(RUN_FOLDER_VARIABLE, None)
            if threading.current_thread() is threading.main_thread() and handler is not None:
                signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored


def _is_lost_connection(error: BaseException) -> bool:
    """Whether an error is that of a process which waits for one that has ended."""
    return any(word in f"{type(error).__name__}: {error}" for word in ("gloo", "NCCL", "DistBackendError"))


def _continuation(folder: Path, imports: Sequence[str], options: str = "") -> str:
    modules = "".join(f" --import {name}" for name in imports)
    return f"continue with: wavedil train --out {folder} --resume auto{options}{modules}"


def _fit_and_sample(
    cli: RecipeCLI, folder: Path, checkpoint: Path | None, step: int, imports: Sequence[str] = ()
) -> None:
    """Trains, validates, and writes samples and report. Completes what an earlier process has not done."""
    trainer, model, started = cli.trainer, cli.model, time.perf_counter()
    trainer.progress_bar_callback.print_summary(trainer, model)
    log_recipe(trainer, yaml.safe_load(cli.parser.dump(cli.config)))  # trackio takes it before anything else only
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
        _saver(trainer).save_latest(trainer, model)
    else:
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    minutes, stopped = (time.perf_counter() - started) / 60, _early_stop(cli)
    if stopped:
        clock = " --trainer.max_time null" if "the clock" in stopped else ""
        stopped += f"; {_continuation(folder, imports, clock)}"
    progress = trainer.progress_bar_callback
    has_validation = is_overridden("val_dataloader", cli.datamodule, L.LightningDataModule)
    if has_validation and progress.validated[0] != trainer.global_step:
        trainer.validate(model, cli.datamodule, verbose=False)
    if trainer.is_global_zero:
        lines = _write_samples(cli, folder)
        _log_end(cli, folder)
        record_early_stop(folder, stopped)  # part of the report
        _try_report(folder)
        record_finished(folder, trainer.global_step)
        further = "".join(f"\n{line}" for line in (_best(trainer, model), stopped) if line)
        _print(trainer, f"{_amount(minutes)} of training. {lines}{further}")


def _log_end(cli: RecipeCLI, folder: Path) -> None:
    """Logs the samples, and the recipe together with the metric of the last validation."""
    trainer = cli.trainer
    for path in sorted((folder / "samples").glob("[!.]*.*")):
        if path.suffix in (".wav", ".png"):
            log_file(trainer, path, f"samples/{path.stem}", trainer.global_step)
    value = trainer.progress_bar_callback.validated[1]
    metrics = {} if math.isnan(value) else {f"final/{cli.model.metric_names.valid}": value}
    log_recipe(trainer, yaml.safe_load(cli.parser.dump(cli.config)), metrics)


def _best(trainer: L.Trainer, model: TrainingModule) -> str:
    """A line about the saved model if it is not that of the last step."""
    saver = _saver(trainer)
    if model.best_metric is None or not 0 < saver.best_step < trainer.global_step:
        return ""
    return f"the model is that of step {saver.best_step}: {model.metric_names.valid_format.format(saver.best)}"


def _saver(trainer: L.Trainer) -> SaveModel:
    return next(each for each in trainer.callbacks if isinstance(each, SaveModel))


def _amount(minutes: float) -> str:
    return f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.0f} seconds"


def _early_stop(cli: RecipeCLI) -> str:
    """Reason of an early end of the training, and the result that the recipe reaches; empty without an early end."""
    trainer = cli.trainer
    if not trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step:
        return ""
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]
    by_clock = any(left is not None and left <= 0 for left in (each.time_remaining() for each in timers))
    if by_clock and trainer.max_steps < 0 and (trainer.max_epochs or -1) < 0:
        return ""  # the time is the budget
    others = [type(each).__name__ for each in trainer.callbacks if isinstance(each, EarlyStopping)]
    cause = "the clock (trainer.max_time)" if by_clock else " or ".join(others) or "a callback"
    text = f"stopped by {cause} at step {trainer.global_step}"
    text += f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
    expected, data = cli.config.get("expected"), cli.config.data.get("init_args", {})
    return text if not expected or data.get("root") else f"{text} (with all steps: {expected})"


def _try_report(folder: Path) -> None:
    with BestEffort(folder / "report.html"):
        write_report(folder)


def _unwritable(error: OSError, folder: Path) -> Exception:
    """The error of a run that could not write to its folder; the same error if it is about another place."""
    place = Path(os.fsdecode(error.filename2 or error.filename or folder))
    if error.errno is None or not Path(os.path.abspath(place)).is_relative_to(os.path.abspath(folder)):
        return error
    saved = any((folder / "checkpoints").glob("[!.]*.ckpt"))
    return WavedilError(
        f"{place} cannot be written: {reason(error)}; free the disk or make the folder writable, and "
        + (
            f"continue from the last checkpoint with: wavedil train --out {folder} --resume auto"
            if saved
            else "start again: there is no checkpoint yet"
        )
    )


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


def silence_lightning() -> None:
    """Hides messages of Lightning that do not apply to a run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module="lightning", category=FutureWarning)
    # One process that crops in memory is faster than workers; recipes set num_workers where it is not.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # metrics.csv has rows whatever the interval of the loggers is.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
    # On the login node of a cluster, one process is what was asked for.
    warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")
    # A run is continued without its limit of time.
    warnings.filterwarnings("ignore", message=r".*Please add the following callbacks: \['Timer'\]")
    # The checkpoint folder of a resumed run is not empty.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    # A run folder may be moved.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # Batches are dictionaries with fixed keys; Lightning finds the batch size in them.
    warnings.filterwarnings("ignore", message=".*Trying to infer the `batch_size`.*")
    # DDP copies gradients of convolutions whose memory format is not that of its buffers: this costs little.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # On a machine with SLURM a run may also be started without it.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # The modules reduce their metrics, or each process validates on all data.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(.*sync_dist=True")
    # Frozen parts are in evaluation mode; the first line of the run names them.
    warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training.*")
