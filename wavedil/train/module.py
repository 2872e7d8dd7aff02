"""The training step of an audio generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn
from torch.optim import Optimizer

from wavedil.audio.evaluate import nats_by_chunk
from wavedil.errors import WavedilError
from wavedil.weights import check_saveable


class AudioModule(L.LightningModule):
    """Trains a network by its own ``loss(codes, mask)``, logged in bits per sample.

    The learning rate warms up linearly and falls linearly to zero over the last ``decay`` of the budget; below 1 that
    is a trapezoid (Hägele et al. 2024, arXiv 2405.18392). The budget is ``trainer.max_steps`` or ``trainer.max_time``,
    whichever is nearer to its end, so a run that is stopped by the clock has still had its decay.

    Args:
        network: the model, e.g. :class:`wavedil.audio.WaveNet`.
        optimizer: makes the optimiser from the parameters; in a recipe, a class and its arguments.
        warmup_steps: steps until the full learning rate.
        decay: share of the budget over which the rate falls linearly to zero.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        warmup_steps: int = 100,
        decay: float = 1.0,
    ):
        super().__init__()
        check_saveable(network)
        self.network = network
        self.make_optimizer, self.warmup_steps, self.decay = optimizer, warmup_steps, decay

    def configure_optimizers(self) -> Optimizer:
        try:
            return self.make_optimizer(self.network.parameters())
        except ValueError as error:
            raise WavedilError(f"the optimizer refuses its settings: {error}") from None

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
        return warm * (min(1.0, left / self.decay) if self.decay > 0 else 1.0)

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:
            self.network.set_prior(self.trainer.datamodule.code_counts())

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # Each process has its own clock; one of them decides.
        factor = self.trainer.strategy.broadcast(self.rate_factor())
        for group in self.optimizers().optimizer.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * factor

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.network.loss(batch["codes"], batch["mask"])
        self.log("train/bits", loss.detach() / math.log(2))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        nats = torch.cat(list(nats_by_chunk(self.network, batch["codes"])))
        self.log("valid/bits", nats.mean() / math.log(2), batch_size=len(nats), on_epoch=True, sync_dist=True)
