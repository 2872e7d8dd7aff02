"""Diverged runs: recognized by their loss, ended with an error, or restarted at a lower learning rate."""

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from wavedil.core.schema import Range, checked
from wavedil.errors import Diverged, shortened
from wavedil.train.data import OptionalCount
from wavedil.train.module import TrainingModule, is_finite
from wavedil.train.run_folder import RESTARTS
from wavedil.train.sharding import for_checkpoint
from wavedil.writing import atomic_write

FIRST_STEPS, WINDOW, MEAN_STEPS = 5, 20, 100
SNAPSHOT_EVERY = 100  # steps
_log = logging.getLogger("wavedil")


class LossHistory:
    """Statistics of the losses of a run, to detect that they explode.

    They have if their median over 20 steps is more than ``factor`` times the lowest mean of 100 steps so far, and has
    risen from there by more than a tenth of what the mean fell. Single batches have no effect on the median, and those
    with an unusually low loss little on the mean. A median of more than ``10 * factor`` times the first loss, or times
    1 if that is less, is an explosion, too: one in the first steps is part of all means.
    """

    STATE = ("start", "first", "lowest", "recent", "above")

    def __init__(self, factor: float = 10.0) -> None:
        self.factor = factor
        self.start = math.nan  # loss of the first step
        self.first, self.lowest = math.nan, math.inf  # means of the first 5, and of up to 100 steps
        self.recent: list[float] = []
        self.above = 0  # number of losses above the limit since the last one below it

    def add(self, loss: float) -> None:
        if not self.recent and math.isinf(self.lowest):
            self.start = loss
        self.recent = [*self.recent[1 - MEAN_STEPS :], loss]
        self.above = self.above + 1 if loss > self.limit() else 0
        if len(self.recent) >= FIRST_STEPS:
            mean = sum(self.recent) / len(self.recent)
            self.first = mean if math.isnan(self.first) else self.first
            self.lowest = min(self.lowest, mean)

    def limit(self) -> float:
        """Value above which the median means an explosion."""
        early = math.inf if math.isnan(self.start) else 10 * self.factor * max(1.0, abs(self.start))
        if math.isnan(self.first) or math.isinf(self.factor) or self.first == self.lowest == 0:
            return early
        return min(early, self.lowest + (self.factor - 1) * abs(self.lowest) + (self.first - self.lowest) / 10)

    def has_exploded(self, window: int) -> bool:
        """Whether the losses of the last ``window`` steps have exploded."""
        return len(self.recent) >= window and median(self.recent[-window:]) > self.limit()


class StopOnNaN(Callback):
    """Ends a diverged run, with an error that names the step, the files of its batch, and what came before it.

    A run has diverged if a loss is not finite, or as :class:`LossHistory` describes. Diverged weights are not saved.
    """

    EVERY = 20  # steps, because reading the losses waits for the device
    state_key = "StopOnNaN"

    def __init__(self) -> None:
        self.history = LossHistory()
        self._losses: list[torch.Tensor] = []  # of the batches from step _start on
        self._start, self._bad = 0, ""

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self.history, name) for name in LossHistory.STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in LossHistory.STATE:
            setattr(self.history, name, state_dict.get(name, math.nan))  # 0.2.0 has no start

    def on_train_start(self, trainer: L.Trainer, module: TrainingModule) -> None:
        self._start, self._losses = trainer.global_step, []
        self.history.factor = module.divergence_factor

    def on_train_batch_end(
        self, trainer: L.Trainer, module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())
        if trainer.global_step % self.EVERY == 0 and trainer.global_step > self._start:
            problem = in_any_process(trainer, self.problem(trainer, module))
            if problem:
                raise Diverged(problem)

    def on_save_checkpoint(self, trainer: L.Trainer, module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        problem = in_any_process(trainer, self.problem(trainer, module))
        if problem:
            raise Diverged(f"{problem}; the last good checkpoint is kept")
        checkpoint["callbacks"][self.state_key] = self.state_dict()  # with all losses

    def problem(self, trainer: L.Trainer, module: TrainingModule, window: int = WINDOW) -> str:
        """How the run has diverged; empty if it has not."""
        history, parts = self.history, trainer.accumulate_grad_batches
        losses = (torch.stack(self._losses) * parts).tolist() if self._losses else []  # Lightning has divided them
        for index, loss in enumerate(losses):
            if not math.isfinite(loss) and not self._bad:
                step, part = self._start + index // parts, index % parts
                self._bad = f"the loss is {loss} at step {step + 1}: training diverged; {_cause(losses[:index])}"
                self._bad += _batch(trainer, step, part)
        complete = len(losses) // parts * parts
        for index in range(0, complete, parts):
            history.add(sum(losses[index : index + parts]) / parts)
        self._start, self._losses = self._start + complete // parts, self._losses[complete:]
        if not self._bad and history.has_exploded(window):
            step = self._start - max(history.above, 1)
            now, before = median(history.recent[-window:]), min(history.lowest, history.start)
            return (
                f"the loss is {now:.4g} since step {step + 1}, and was {before:.4g}: training diverged; lower the "
                f"learning rate{_batch(trainer, step, 0)}"
            )
        return self._bad


class RestartOnDivergence(StopOnNaN):
    """Callback that restores the last good weights when a run diverges, and continues at a lower learning rate.

    Weights, batch norm statistics, EMA and optimizer state are restored from up to 100 steps before, when there was no
    sign of divergence. Steps, data and budget continue, so that the batches that diverged are not repeated. Checkpoints
    also contain the last good weights, so a resumed run behaves like an uninterrupted one. Each restart is logged and
    listed in ``RUN/restarts.csv`` and the report. The loss is read at each step.

    Args:
        factor: of the learning rate, at each restart.
        max_restarts: number of restarts; the next divergence ends the run.
    """

    EVERY = 1

    @checked
    def __init__(
        self,
        factor: Annotated[float, Range(0, 1, exclude_low=True, exclude_high=True)] = 0.5,
        max_restarts: OptionalCount = 3,
    ):
        super().__init__()
        self.factor, self.max_restarts = factor, max_restarts
        self.restarts: list[dict[str, Any]] = []
        self.snapshot: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"restarts": self.restarts, "snapshot": for_checkpoint(self.snapshot)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.restarts, self.snapshot = state_dict.get("restarts", []), state_dict.get("snapshot")

    def on_train_start(self, trainer: L.Trainer, module: TrainingModule) -> None:
        super().on_train_start(trainer, module)
        module.rate_scale = self.restarts[-1]["rate_factor"] if self.restarts else 1.0
        self._write(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, module: TrainingModule, batch: Any, batch_idx: int) -> None:
        if self.snapshot is None:  # not in on_train_start, where modules still change their weights
            self._take_snapshot(trainer, module)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: TrainingModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["loss"].detach())
        if trainer.global_step == self._start:  # the step is not complete
            return
        problem = in_any_process(trainer, self.problem(trainer, module))
        if not problem and not is_finite(module.network):  # of all processes
            problem = f"the weights are not finite after step {trainer.global_step}: training diverged"
            problem += _batch(trainer, trainer.global_step - 1, 0)
        if problem:
            self._restart(trainer, module, problem)
        elif trainer.global_step % SNAPSHOT_EVERY == 0 and not in_any_process(
            trainer, self.problem(trainer, module, 1)
        ):
            self._take_snapshot(trainer, module)

    def _take_snapshot(self, trainer: L.Trainer, module: TrainingModule) -> None:
        copied = [_copy(each.state_dict()) for each in (module, trainer.optimizers[0])]
        self.snapshot = {"step": trainer.global_step, "module": copied[0], "optimizer": copied[1]}

    def _restart(self, trainer: L.Trainer, module: TrainingModule, problem: str) -> None:
        if len(self.restarts) >= self.max_restarts:
            raise Diverged(f"{problem}; {len(self.restarts)} restarts at lower rates did not help")
        trainer.strategy.load_model_state_dict({"state_dict": self.snapshot["module"]})
        optimizer = _copy(self.snapshot["optimizer"])  # which keeps the tensors
        trainer.strategy.load_optimizer_state_dict({"optimizer_states": [optimizer]})
        module.on_restart()
        module.rate_scale *= self.factor
        module.update_rate()
        self.history.recent, self.history.above, self._bad = [], 0, ""
        event = {"step": trainer.global_step, "restored_step": self.snapshot["step"]}
        self.restarts.append(event | {"rate_factor": module.rate_scale, "reason": problem})
        self._write(trainer)
        module.log("restarts", float(len(self.restarts)))
        if trainer.is_global_zero:
            _log.warning(
                "restart %d of at most %d at step %d with the weights of step %d and %g times the learning rate: %s",
                len(self.restarts),
                self.max_restarts,
                *event.values(),
                module.rate_scale,
                problem,
            )

    def _write(self, trainer: L.Trainer) -> None:
        """Writes all restarts, so that those after the checkpoint of a resumed run are dropped."""
        path = Path(trainer.default_root_dir) / RESTARTS
        if not trainer.is_global_zero or not (self.restarts or path.exists()):
            return
        with atomic_write(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ("step", "restored_step", "rate_factor", "reason"))
            writer.writeheader()
            writer.writerows(self.restarts)


def in_any_process(trainer: L.Trainer, problem: str) -> str:
    """The problem of the first process that has one; empty if none has. All processes call it together."""
    if trainer.world_size == 1 or not trainer.strategy.reduce_boolean_decision(bool(problem), all=False):
        return problem
    problems: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(problems, problem)
    return next(f"process {rank}: {text}" if rank else text for rank, text in enumerate(problems) if text)


def _copy(value: Any) -> Any:
    """A copy of a state, on the CPU if it is not sharded."""
    if isinstance(value, DTensor):
        return value.detach().clone()
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _cause(losses: Sequence[float]) -> str:
    """The advice of the error, from the losses between the last check and the first that is not finite."""
    if not losses:
        return "look for values in the data that are not finite, or lower the learning rate"
    if abs(losses[-1]) > 10 * abs(losses[0]):
        return f"the loss grew from {losses[0]:.4g} to {losses[-1]:.4g} before: lower the learning rate"
    return (
        f"the loss before was {losses[-1]:.4g}, so the gradients or the data of this step are not finite: set "
        "trainer.precision to 32-true, lower the learning rate, or look for such values in the data"
    )


def _batch(trainer: L.Trainer, step: int, part: int) -> str:
    """The items of a batch for a message: only items with values that are not finite, or all if there are none."""
    data = trainer.datamodule
    items = data.batch_items(step, part) if hasattr(data, "batch_items") else []
    bad = [name for name, item in items if item is not None and not _is_finite_item(item)]
    if bad:
        return shortened(f"; not finite: {', '.join(bad)}", 2000)
    return shortened(f"; batch: {', '.join(name for name, _ in items)}", 2000) if items else ""


def _is_finite_item(item: Any) -> bool:
    values = item.values() if isinstance(item, dict) else [item]
    return all(bool(torch.isfinite(value).all()) for value in values if isinstance(value, torch.Tensor))
