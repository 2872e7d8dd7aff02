"""What the training of sound and of images have in common: a budget that the learning rate follows, and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Timer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from wavedil.errors import WavedilError


@dataclass(frozen=True)
class MetricNames:
    """What a run is told by: columns of ``metrics.csv``, and the words that progress prints.

    Args:
        train: column of the training loss, times ``factor``; its unit is ``unit``.
        valid: column of what validation logs as ``valid/…``, printed as ``valid_text`` puts it.
        counted: what :meth:`TrainingModule.count` counts; the column is ``<counted>_per_second``.
    """

    train: str
    unit: str
    valid: str
    valid_text: str
    counted: str
    factor: float = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        return "step", "seconds", self.train, self.valid, "learning_rate", f"{self.counted}_per_second"

    @property
    def logged(self) -> str:
        """The name that validation logs its figure by."""
        return self.valid.replace("_", "/", 1)


class TrainingModule(L.LightningModule):
    """A module with a ``network``, whose learning rate follows the budget of the run.

    The rate warms up linearly; over the last ``decay`` of the budget it falls to zero, by the share that is left to the
    power ``power``. The budget is ``trainer.max_steps`` or ``trainer.max_time``, whichever is nearer to its end, so a
    run that is stopped by the clock has still had its decay.

    With an ``average`` the run validates, shows and leaves an exponential moving average of the weights, of this decay
    a step, or less in the first steps. It is what a slower rate would have found (Polyak & Juditsky 1992).

    A subclass says what it shows: ``figures``, the callback ``previews`` and the class ``samples``, whose arguments
    are the recipe's keys of these names.
    """

    metric_names: MetricNames
    previews: type[Callback]
    samples: type
    network: nn.Module

    def __init__(
        self,
        optimizer: Callable[[Iterable], Optimizer],
        warmup_steps: int,
        decay: float,
        power: float = 1.0,
        average: float = 0.0,
    ):
        super().__init__()
        if not 0 <= average < 1:
            raise WavedilError(f"average is {average}: expected a decay, e.g. 0.999, or 0 for none")
        self.average, self.averaged = average, None
        self.make_optimizer, self.warmup_steps, self.decay, self.power = optimizer, warmup_steps, decay, power
        self.seed = torch.initial_seed()  # the recipe's seed_everything

    @property
    def eval_network(self) -> nn.Module:
        """The network that is validated and shown: the one that is training, or its average."""
        return self.network if self.averaged is None else self.averaged.module

    @property
    def result(self) -> nn.Module:
        """The network that the run leaves: the one that is shown, unless a subclass keeps a better one."""
        return self.eval_network

    def prepare(self, data: L.LightningDataModule, folder: Path) -> None:
        """Called before anything else, with the run's folder: where the network has to know the data to be built.

        A subclass that builds it calls this when it is there.
        """
        if self.average:
            self.averaged = AveragedModel(self.network, multi_avg_fn=self._approach, use_buffers=True)
            self.averaged.requires_grad_(False)

    @torch.no_grad()
    def _approach(self, averages: list[Tensor], values: list[Tensor], updates: Tensor | int) -> None:
        share = 1 - min(self.average, (1 + int(updates)) / (10 + int(updates)))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, share)
            else:
                average.copy_(value)

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def describe(self) -> str:
        """What is about to be trained, in a line."""
        raise NotImplementedError

    def count(self, batch: dict[str, Tensor]) -> int | Tensor:
        """How much of what ``figures.counted`` names a batch holds."""
        raise NotImplementedError

    def parameter_groups(self) -> Iterable[Any]:
        """What the optimizer gets; a group's own ``rate`` is a factor of the learning rate."""
        return self.network.parameters()

    def configure_optimizers(self) -> Optimizer:
        try:
            optimizer = self.make_optimizer(self.parameter_groups())
        except ValueError as error:
            raise WavedilError(f"the optimizer refuses its settings: {error}") from None
        for group in optimizer.param_groups:
            group["lr"] *= group.get("rate", 1.0)
        # A checkpoint has settings, too; those that this run was given are the ones that hold.
        self.settings = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        return optimizer

    def budget_used(self) -> float:
        """The share of the budget that is spent, 0 to 1: by steps or by time, whichever is more."""
        trainer = self.trainer
        used = trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 0.0
        for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):
            left = timer.time_remaining()
            if left is not None:
                used = max(used, timer.time_elapsed() / (timer.time_elapsed() + left))
        return min(used, 1.0)

    def rate_factor(self) -> float:
        warm = min(1.0, (self.trainer.global_step + 1) / max(1, self.warmup_steps))
        left = 1.0 - self.budget_used()
        return warm * (min(1.0, left / self.decay) ** self.power if self.decay > 0 else 1.0)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # Each process has its own clock; one of them decides.
        factor = self.trainer.strategy.broadcast(self.rate_factor())
        for group, settings in zip(self.optimizers().optimizer.param_groups, self.settings, strict=True):
            group.update(settings, lr=settings["lr"] * factor)
        # What dropout drops in a step depends on the seed and the step alone, so a resumed run drops the same.
        place = [self.seed, self.trainer.global_step, batch_idx % self.trainer.accumulate_grad_batches]
        torch.manual_seed(int(np.random.SeedSequence([*place, self.trainer.global_rank]).generate_state(1)[0]))
