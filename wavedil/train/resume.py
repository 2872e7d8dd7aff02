"""A resumed run continues exactly where the checkpoint is, whatever ended the process."""

import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import RunningStage

from wavedil.train.module import TrainingModule


class Signals:
    """Makes SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, but not while the weights are being updated.

    Attributes:
        received: numbers of the signals, in order.
        module: of the training; None before there is one.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.module: TrainingModule | None = None

    def receive(self, number: int) -> None:
        self.received.append(number)
        is_updating = self.module is not None and self.module.updating
        if not is_updating and (number == signal.SIGINT or len(self.received) == 1):
            raise KeyboardInterrupt


class ExactResume(Callback):
    """Continues after the last complete step, and validates first if its validation is missing in the checkpoint.

    Lightning's counters include a batch that was only started, which moves later validations. It skips the validation
    of the step whose checkpoint was saved before it, and continues an interrupted one with the remaining batches only.
    Data with an end (loaders with a length) keep Lightning's counters.
    """

    def __init__(self, signals: Signals):
        self.signals, self.validated = signals, 0

    def state_dict(self) -> dict[str, Any]:
        return {"validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validated = state_dict["validated"]

    def on_train_start(self, trainer: L.Trainer, module: TrainingModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        if not loop.restarting or not math.isinf(trainer.num_training_batches):
            return
        batches = trainer.global_step * trainer.accumulate_grad_batches
        for counts in (loop.batch_progress.total, loop.batch_progress.current):
            counts.reset()
            counts.increment_by(batches)
        loop.batch_progress.is_last_batch = False
        loop.reset_restart_stage()
        loop.val_loop.reset_restart_stage()
        loop.val_loop.batch_progress.reset()
        if self.validated < trainer.global_step:
            # Lightning now validates before the next step if a validation is due after the last one.
            loop.val_loop.batch_progress.increment_ready()
            loop.val_loop.batch_progress.increment_started()
            loop.val_loop.update_restart_stage()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module.updating = False
        if self.signals.received:  # during the update, or in a function whose exceptions Python ignores
            raise KeyboardInterrupt

    def on_validation_end(self, trainer: L.Trainer, module: TrainingModule) -> None:
        if trainer.state.stage == RunningStage.VALIDATING:
            self.validated = trainer.global_step


@contextmanager
def signals_interrupt() -> Iterator[Signals]:
    """Handles SIGINT, SIGTERM and SIGHUP by :class:`Signals` within the context."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    process = os.getpid()

    def interrupt(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a forked child, which ends as if there was no handler
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        ending = signal.getsignal(signal.SIGINT) is signal.SIG_IGN is not before[signal.SIGINT]  # set by Lightning
        if not ending:
            signals.receive(number)

    numbers = [number for number in numbers if before[number] is not signal.SIG_IGN]  # nohup ignores SIGHUP
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield signals
    finally:
        for number in numbers:
            signal.signal(number, before[number] or signal.SIG_DFL)
