"""The training step of an audio generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wavedil.audio.evaluate import nats_by_chunk
from wavedil.core.receptive_field import count_parameters
from wavedil.train.budget import BudgetModule, Figures
from wavedil.train.sound_previews import SoundPreviews, SoundSamples
from wavedil.weights import check_saveable


class AudioModule(BudgetModule):
    """Trains a network by its own ``loss(codes, mask)``, logged in bits per sample.

    With a ``decay`` below 1 the learning rate is a trapezoid (Hägele et al. 2024, arXiv 2405.18392).

    Args:
        network: the model, e.g. :class:`wavedil.audio.WaveNet`.
        optimizer: makes the optimiser from the parameters; in a recipe, a class and its arguments.
        warmup_steps: steps until the full learning rate.
        decay: share of the budget over which the rate falls linearly to zero.
    """

    figures = Figures("train_bits", "bits/sample", "valid_bits", "held out {:.3f}", "samples", factor=1 / math.log(2))
    previews, samples = SoundPreviews, SoundSamples

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        warmup_steps: int = 100,
        decay: float = 1.0,
    ):
        super().__init__(optimizer, warmup_steps, decay)
        check_saveable(network)
        self.network = network

    def describe(self) -> str:
        network = self.network
        field, rate = network.receptive_field, network.sample_rate
        return (
            f"{count_parameters(network):,} parameters, {len(network.dilations)} layers, receptive field {field} "
            f"samples = {1000 * field / rate:.1f} ms at {rate} Hz"
        )

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["mask"].sum()  # a tensor: asking for its number would wait for the device

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:
            self.network.set_prior(self.trainer.datamodule.code_counts())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.network.loss(batch["codes"], batch["mask"])
        self.log("train/bits", loss.detach() / math.log(2))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        nats = torch.cat(list(nats_by_chunk(self.network, batch["codes"])))
        self.log("valid/bits", nats.mean() / math.log(2), batch_size=len(nats), on_epoch=True, sync_dist=True)
