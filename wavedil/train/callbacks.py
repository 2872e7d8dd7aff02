"""Callbacks of a run: progress and metrics.csv, the model folder, config.yaml, checks of metrics."""

import csv
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from wavedil.errors import WavedilError, one_of
from wavedil.metrics import read_metrics
from wavedil.progress import clock, say
from wavedil.train.about import write_about, write_validation
from wavedil.train.divergence import WINDOW, StopOnNaN
from wavedil.train.module import TrainingModule, is_finite
from wavedil.weights import CONFIG, WEIGHTS, save
from wavedil.writing import atomic_write, check_in_place, errors_name


class Progress(ProgressBar):
    """Progress line with step, loss, speed and remaining time: updated on a terminal, printed periodically elsewhere.

    Each print and each validation is also a row of ``metrics.csv``; a resumed run appends to the file. Loss and speed
    are those of all processes. (Lightning's CSVLogger deletes the file of an interrupted run, and its bars print one
    line per refresh without a terminal.)
    """

    def __init__(self, every_seconds: float = 5.0):
        super().__init__()
        self.every_seconds = every_seconds
        self.tty = sys.stderr.isatty()
        self._last_time, self._last_step = 0.0, 0  # of the last row
        self._items: int | torch.Tensor = 0
        self._losses: list[torch.Tensor] = []
        self._learning_rate = self._valid = math.nan
        self._training: tuple[float, float, float] | None = None  # loss, learning rate, items per second
        self._summary_printed = False
        self.validated = -1, math.nan  # step and metric of the last validation

    def print_summary(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Prints the summary of the module once: before the data are read if its network exists by then."""
        if trainer.is_global_zero and not self._summary_printed and getattr(module, "network", None) is not None:
            say(f"{Path(trainer.default_root_dir).name}: {module.summary()}")
            self._summary_printed = True

    def on_train_start(self, trainer: L.Trainer, module: TrainingModule) -> None:
        self._start = time.perf_counter()
        self._used_at_start = module.budget_used()
        self._last_time, self._last_step = self._start, trainer.global_step
        self._next_step = max(10, trainer.global_step + 10)  # of the next row, with several processes
        if not trainer.is_global_zero:
            return
        self.path = Path(trainer.default_root_dir) / "metrics.csv"
        self.print_summary(trainer, module)
        if hasattr(trainer.datamodule, "summary"):
            say(trainer.datamodule.summary(), is_detail=True)
        write_about(trainer, module)
        rows = []
        if self.path.exists() and trainer.global_step:
            rows = [row for row in read_metrics(self.path) if int(row["step"]) <= trainer.global_step]
        self._seconds_before = float(rows[-1]["seconds"]) if rows else 0.0
        with atomic_write(self.path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, module.metric_names.columns, restval="nan", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def on_train_batch_start(self, trainer: L.Trainer, module: TrainingModule, batch: Any, batch_idx: int) -> None:
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: L.Trainer, module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning has divided the loss by the number of batches in an optimizer step.
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        self._items = self._items + module.num_items(batch)
        if self.is_due(trainer):
            self._write_row(trainer, module)

    def is_due(self, trainer: L.Trainer) -> bool:
        """Whether a row is due, at the same step in all processes."""
        if trainer.world_size > 1:  # their clocks differ
            return trainer.global_step >= self._next_step
        first_row = trainer.global_step == 10 and self._last_step < 10
        return first_row or time.perf_counter() - self._last_time >= self.every_seconds

    def on_validation_end(self, trainer: L.Trainer, module: TrainingModule) -> None:
        if module.metric_names.valid_key in trainer.callback_metrics:
            self._valid = float(trainer.callback_metrics[module.metric_names.valid_key])
            self.validated = trainer.global_step, self._valid
            self._write_row(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: TrainingModule) -> None:
        if self.tty:
            say()

    def _write_row(self, trainer: L.Trainer, module: TrainingModule) -> None:
        now, step, names = time.perf_counter(), trainer.global_step, module.metric_names
        if self._losses:  # empty in the validation after training: the last values of training are repeated
            loss, items = self._reduce(trainer, module, now)
            self._training = (loss * names.scale, self._learning_rate, items / max(now - self._last_time, 1e-9))
        self._last_time, self._last_step, valid, self._valid = now, step, self._valid, math.nan
        self._items, self._losses = 0, []
        if not trainer.is_global_zero or self._training is None:
            return
        loss, learning_rate, speed = self._training
        seconds = now - self._start + self._seconds_before
        row = [step, f"{seconds:.1f}", f"{loss:.4f}", f"{valid:.4f}", f"{learning_rate:.3g}", f"{speed:.4g}"]
        check_in_place(self.path)
        with errors_name(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)
        for logger in trainer.loggers:
            logger.log_metrics({"learning_rate": learning_rate, f"{names.items}_per_second": speed}, step)
        used = module.budget_used()
        used_now = used - self._used_at_start
        left = "?" if used_now <= 0 else clock((now - self._start) * (1 - used) / used_now)
        valid = "" if math.isnan(valid) else f"  {names.valid_format.format(valid)}"
        rate = f"{speed / 1000:.1f} k" if speed >= 1000 else f"{speed:.1f}"
        line = f"step {step}  {loss:.3f} {names.unit}{valid}  {rate} {names.items}/s"
        line += f"  {clock(seconds)} elapsed, {left} left"
        say(f"\r{line:<110}" if self.tty else line, end="" if self.tty else "\n")

    def _reduce(self, trainer: L.Trainer, module: TrainingModule, now: float) -> tuple[float, float]:
        """Mean loss and sum of items of all processes since the last row. Sets the step of the next row."""
        loss, items = torch.stack(self._losses).mean().item(), float(self._items)
        if trainer.world_size == 1:
            return loss, items
        steps = trainer.global_step - self._last_step
        wait = max(1, round(steps * self.every_seconds / max(now - self._last_time, 1e-9)))
        values = [loss, items, wait if trainer.is_global_zero else 0]  # the clock of the first process counts
        values = torch.tensor(values, dtype=torch.float64, device=module.device)
        loss, items, wait = trainer.strategy.reduce(values, reduce_op="sum").tolist()
        self._next_step = trainer.global_step + int(wait) if trainer.global_step >= 10 else 10
        return loss / trainer.world_size, items

    # Required by ProgressBar.
    def disable(self) -> None: ...
    def enable(self) -> None: ...


class SaveModel(Callback):
    """Saves ``RUN/model`` after each validation and at the end of training. On Ctrl-C or an error it also saves a
    checkpoint, unless there are several processes.

    If the module has a ``best_metric``, a validation replaces the model only if it improves that metric. Weights that
    are not finite or have diverged (:class:`wavedil.train.divergence.LossHistory`) replace nothing.
    ``validation.json`` describes the saved model.
    (Lightning's ModelCheckpoint saves checkpoints, not model folders. Its OnExceptionCheckpoint would also make every
    new run look for a checkpoint to start from.)
    """

    def __init__(self):
        self.best, self.best_step = math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step = state_dict["best"], state_dict.get("best_step", 0)

    def on_validation_end(self, trainer: L.Trainer, module: TrainingModule) -> None:
        value = math.nan
        if module.best_metric is not None:
            value = float(trainer.callback_metrics[module.best_metric])
            if not value < self.best:
                return
        if self._save(trainer, module, 1):
            if module.best_metric is not None:
                self.best, self.best_step = value, trainer.global_step
            if trainer.is_global_zero:
                write_validation(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: TrainingModule) -> None:
        self.save_latest(trainer, module)

    def on_exception(self, trainer: L.Trainer, module: TrainingModule, exception: BaseException) -> None:
        # In a later validation or sampling the last checkpoint is saved already, and the trainer has no optimizer.
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if module.whole is not None:  # the other processes may have no error
            return
        module.undo_incomplete_step()
        try:
            # To save a checkpoint waits for the other processes, which may have no error.
            if self.save_latest(trainer, module) and trainer.world_size == 1:
                trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "interrupted.ckpt")
        except (OSError, WavedilError):
            if not isinstance(exception, Exception):  # else that one is reported
                raise

    def save_latest(self, trainer: L.Trainer, module: TrainingModule) -> bool:
        """Saves unless a better model is saved; returns whether the weights are trained and finite."""
        if math.isinf(self.best):
            return self._save(trainer, module)
        return self._is_good(trainer, module)

    def _save(self, trainer: L.Trainer, module: TrainingModule, window: int = WINDOW) -> bool:
        good = self._is_good(trainer, module, window)
        if module.whole is not None:
            good = trainer.strategy.reduce_boolean_decision(good)
        if good:
            with module.complete_network() as network:
                if trainer.is_global_zero:
                    folder = Path(trainer.default_root_dir) / "model"
                    _clear_damaged(folder)
                    save(network, folder)
        return good

    @staticmethod
    def _is_good(trainer: L.Trainer, module: TrainingModule, window: int = WINDOW) -> bool:
        """Whether the weights are trained, finite, of one step and not diverged, so that they may replace saved ones.

        Args:
            window: number of last losses that tell. One at a validation, since a later one saves too.
        """
        stops = [callback for callback in trainer.callbacks if isinstance(callback, StopOnNaN)]
        return (
            trainer.global_step > 0
            and not module.updating
            and is_finite(module.network)
            and not any(stop.problem(trainer, module, window) for stop in stops)
        )


class CheckMonitors(Callback):
    """Ends a run with an error if a callback monitors a metric that nothing logs."""

    def on_validation_end(self, trainer: L.Trainer, module: TrainingModule) -> None:
        known = sorted(trainer.callback_metrics)
        names = [(type(callback).__name__, getattr(callback, "monitor", None)) for callback in trainer.callbacks]
        for place, name in (*names, (type(module).__name__, module.best_metric)):
            if name is not None and name not in known:
                raise WavedilError(f"{place} monitors {name!r}, which is not logged: expected {one_of(name, known)}")


class SaveConfig(SaveConfigCallback):
    """Saves ``RUN/config.yaml`` when training starts, after a checkpoint to resume from has been loaded."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        pass

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            with atomic_write(Path(trainer.default_root_dir) / self.config_filename) as beside:
                beside.write_text(self.parser.dump(self.config), encoding="utf-8")


def _clear_damaged(folder: Path) -> None:
    """Removes the two files of a model folder whose config a power cut left empty or cut: ``save`` refuses such one."""
    paths = list(folder.iterdir()) if folder.is_dir() else []
    if {path.name for path in paths} <= {CONFIG, WEIGHTS}:
        try:
            json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            for path in paths:
                path.unlink()
