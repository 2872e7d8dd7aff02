"""The training step of a model of polyphonic music."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wavedil.audio.piano_rolls import KEYS, roll_nll
from wavedil.core.receptive_field import count_parameters
from wavedil.errors import WavedilError
from wavedil.train.base import MetricNames, TrainingModule
from wavedil.train.piano_roll_previews import RollPreviews, RollSamples
from wavedil.weights import check_savable


class MusicModule(TrainingModule):
    """Trains a network on piano rolls by the likelihood of each step given those before, in nats per step.

    The run leaves the network of the validation that was best, not the last one.

    Args:
        network: ``(batch, 88, time) -> (batch, 88, time)`` logits, with ``step``: e.g.
            :class:`wavedil.audio.models.tcn.TCN`.
        optimizer: makes the optimizer from the parameters; in a recipe, a class and its arguments.
        warmup_steps: steps until the full learning rate.
        decay: share of the budget over which the rate falls linearly to zero.
        average: decay of a moving average of the weights, which the run leaves in their place, e.g. 0.999; 0 for none.
    """

    metric_names = MetricNames("train_nll", "nats/step", "valid_nll", "held out {:.3f}", "frames")
    previews, samples = RollPreviews, RollSamples

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        warmup_steps: int = 100,
        decay: float = 1.0,
        average: float = 0.0,
    ):
        super().__init__(optimizer, warmup_steps, decay, average=average)
        check_savable(network)
        for name in ("in_channels", "out_channels"):
            if (found := network.config.get(name)) != KEYS:
                raise WavedilError(
                    f"{type(network).__name__}: {name} is {found}: expected {KEYS}, the keys, as of a TCN"
                )
        self.network = network
        self.best = deepcopy(network).requires_grad_(False)
        self.register_buffer("best_nll", torch.tensor(math.inf))

    @property
    def result(self) -> nn.Module:
        return self.eval_network if self.best_nll.isinf() else self.best

    def describe(self) -> str:
        network = self.network
        return (
            f"{count_parameters(network):,} parameters, {len(network.dilations)} dilated convolutions, "
            f"receptive field {network.receptive_field} steps"
        )

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["mask"].sum()

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:
            self.network.set_prior(self.trainer.datamodule.key_shares())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        nats, steps = roll_nll(self.network, batch["roll"], batch["mask"])
        loss = nats / steps
        self.log("train/nll", loss.detach(), batch_size=1)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.nats, self.steps = 0.0, 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        nats, steps = roll_nll(self.eval_network, batch["roll"], batch["mask"])
        self.nats += nats.item()
        self.steps += int(steps)

    def on_validation_epoch_end(self) -> None:
        # Every process has seen all pieces: there is nothing to add up.
        nll = self.nats / self.steps
        self.log("valid/nll", nll)
        if nll < self.best_nll:
            self.best_nll.fill_(nll)
            self.best.load_state_dict(self.eval_network.state_dict())
