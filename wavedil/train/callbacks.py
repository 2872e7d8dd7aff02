"""What a run shows and leaves behind while it works: progress, metrics.csv, previews, the model folder."""

from __future__ import annotations

import csv
import math
import sys
import time
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.progress import ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from wavedil.errors import WavedilError
from wavedil.files import written_beside
from wavedil.train.base import TrainingModule
from wavedil.weights import save


class Progress(ProgressBar):
    """One line that tells step, loss, speed and time left: rewritten on a terminal, printed now and then elsewhere.

    It also writes ``metrics.csv``, a row for each print and each validation. A resumed run goes on in the same file.
    """

    def __init__(self, every_seconds: float = 5.0):
        super().__init__()
        self.every_seconds = every_seconds
        self.tty = sys.stderr.isatty()
        self._last = (0.0, 0)  # time and step of the last row
        self._counted: int | torch.Tensor = 0
        self._losses: list[torch.Tensor] = []
        self._valid = math.nan
        self._training: tuple[float, float, float] | None = None  # loss, learning rate, counted per second

    def on_train_start(self, trainer: L.Trainer, module: TrainingModule) -> None:
        self._start = time.perf_counter()
        self._used_at_start = module.budget_used()
        self._last = (self._start, trainer.global_step)
        if not trainer.is_global_zero:
            return
        self.path = Path(trainer.default_root_dir) / "metrics.csv"
        print(trainer.datamodule.note, file=sys.stderr)
        rows = []
        if self.path.exists() and trainer.global_step:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= trainer.global_step]
        self._before = float(rows[-1]["seconds"]) if rows else 0.0
        with written_beside(self.path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, module.metric_names.columns)
            writer.writeheader()
            writer.writerows(rows)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self._losses.append(outputs["loss"].detach())
        self._counted = self._counted + module.count(batch)
        since = time.perf_counter() - self._last[0]
        # On a terminal the line is alive; elsewhere, a row now and then. The first row comes early either way.
        first = trainer.global_step == 10 and self._last[1] < 10
        if since >= self.every_seconds or first:
            self._row(trainer, module)

    def on_validation_end(self, trainer, module) -> None:
        if module.metric_names.logged in trainer.callback_metrics:
            self._valid = float(trainer.callback_metrics[module.metric_names.logged])
            self._row(trainer, module)

    def on_train_end(self, trainer, module) -> None:
        if self.tty:
            print(file=sys.stderr)

    def _row(self, trainer: L.Trainer, module: TrainingModule) -> None:
        now, step, figures = time.perf_counter(), trainer.global_step, module.metric_names
        if not trainer.is_global_zero or (self._training is None and not self._losses):
            return  # another process writes, or there was no training to tell of
        if self._losses:  # else the validation after the last step: what is known of training stands
            loss = torch.stack(self._losses).mean().item() * figures.factor
            rate = float(self._counted) / max(now - self._last[0], 1e-9)
            self._training = (loss, trainer.optimizers[0].param_groups[0]["lr"], rate)
        loss, learning_rate, rate = self._training
        seconds = now - self._start + self._before
        row = [step, f"{seconds:.1f}", f"{loss:.4f}", f"{self._valid:.4f}", f"{learning_rate:.3g}", f"{rate:.4g}"]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)
        used = module.budget_used()
        fresh = used - self._used_at_start
        left = "?" if fresh <= 0 else _clock((now - self._start) * (1 - used) / fresh)
        valid = "" if math.isnan(self._valid) else f"  {figures.valid_text.format(self._valid)}"
        speed = f"{rate / 1000:.1f} k" if rate >= 1000 else f"{rate:.1f}"
        line = f"step {step}  {loss:.3f} {figures.unit}{valid}  {speed} {figures.counted}/s"
        line += f"  {_clock(seconds)} gone, {left} left"
        print(f"\r{line:<110}" if self.tty else line, end="" if self.tty else "\n", file=sys.stderr, flush=True)
        self._last, self._counted, self._losses, self._valid = (now, step), 0, [], math.nan

    # Lightning's own switches; the line costs nothing worth switching off.
    def disable(self) -> None: ...
    def enable(self) -> None: ...


class Previews(Callback):
    """Shows what the network has learned: targets at the start, then at step ``first`` and every ``every`` steps.

    Files go to ``RUN/previews``; with a TensorBoard logger they are there as well.
    """

    def __init__(self, first: int, every: int):
        self.first, self.every = first, every

    def on_train_start(self, trainer: L.Trainer, module: TrainingModule) -> None:
        self._done = trainer.global_step
        if trainer.is_global_zero:
            self.show_targets(trainer, module)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        step = trainer.global_step
        due = step == self.first or (step > self.first and step % self.every == 0)
        if not due or step == self._done or not trainer.is_global_zero:  # a step may be several batches
            return
        self._done = step
        module.eval()
        self.show(trainer, module, step)
        module.train()

    def show_targets(self, trainer: L.Trainer, module: TrainingModule) -> None:
        raise NotImplementedError

    def show(self, trainer: L.Trainer, module: TrainingModule, step: int) -> None:
        raise NotImplementedError

    @staticmethod
    def folder(trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "previews"

    @staticmethod
    def boards(trainer: L.Trainer) -> list:
        """TensorBoard's writers."""
        return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


class SaveModel(Callback):
    """Keeps ``RUN/model`` current: at each validation and when training ends; by Ctrl-C or an error, a checkpoint too.

    (Lightning's OnExceptionCheckpoint would also make every fresh run look for a checkpoint to start from.)
    """

    def on_validation_end(self, trainer, module) -> None:
        self._save_model(trainer, module)

    def on_train_end(self, trainer, module) -> None:
        self._save_model(trainer, module)

    def on_exception(self, trainer, module, exception) -> None:
        if self._save_model(trainer, module):
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "interrupted.ckpt")

    def _save_model(self, trainer, module) -> bool:
        # Neither untrained nor diverged weights replace good ones.
        good = trainer.global_step > 0 and all(bool(torch.isfinite(p).all()) for p in module.network.parameters())
        if good and trainer.is_global_zero:
            save(module.result, Path(trainer.default_root_dir) / "model")
        return good


class StopOnNaN(Callback):
    """Ends a diverged run with the reason and the remedy, before it can replace good weights."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        # Asking costs a wait for the device, so not at each step.
        if trainer.global_step % 20 == 0 and not torch.isfinite(outputs["loss"]):
            raise WavedilError(
                f"the loss is {outputs['loss'].item()} at step {trainer.global_step}: training diverged; lower the "
                "learning rate, or set trainer.precision to 32-true"
            )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")
