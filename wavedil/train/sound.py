"""The training step of an audio generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wavedil.audio.evaluation import nll_by_chunk
from wavedil.audio.models.wavenet import WaveNet
from wavedil.core.receptive_field import count_parameters
from wavedil.errors import WavedilError
from wavedil.train.base import MetricNames, TrainingModule
from wavedil.train.sound_previews import SoundPreviews, SoundSamples
from wavedil.weights import check_savable


class AudioModule(TrainingModule):
    """Trains a network by its own ``loss(codes, mask)``, logged in bits per sample.

    With a ``decay`` below 1 the learning rate is a trapezoid (Hägele et al. 2024, arXiv 2405.18392).

    Args:
        network: the model, e.g. :class:`wavedil.audio.WaveNet`.
        optimizer: makes the optimizer from the parameters; in a recipe, a class and its arguments.
        warmup_steps: steps until the full learning rate.
        decay: share of the budget over which the rate falls linearly to zero.
        drop_condition: share of the crops that are learned without their conditioning (zeros in its place), so that
            sampling has a guidance scale (Ho & Salimans 2022, arXiv 2207.12598); 0.1 is usual.
        average: decay of a moving average of the weights, which the run leaves in their place, e.g. 0.999; 0 for none.
    """

    metric_names = MetricNames(
        "train_bits", "bits/sample", "valid_bits", "held out {:.3f}", "samples", factor=1 / math.log(2)
    )
    previews, samples = SoundPreviews, SoundSamples

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        warmup_steps: int = 100,
        decay: float = 1.0,
        drop_condition: float = 0.0,
        average: float = 0.0,
    ):
        super().__init__(optimizer, warmup_steps, decay, average=average)
        check_savable(network)
        if not isinstance(network, WaveNet):
            raise WavedilError(
                f"network is a {type(network).__name__}: expected a WaveNet, which makes sound of its own"
            )
        if not 0 <= drop_condition <= 1:
            raise WavedilError(f"drop_condition is {drop_condition}: expected a share of the crops, 0 to 1")
        self.network, self.drop_condition = network, drop_condition

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
        loss = self.network.loss(batch["codes"], batch["mask"], self.condition(batch))
        self.log("train/bits", loss.detach() / math.log(2))
        return loss

    def condition(self, batch: dict[str, Tensor]) -> Tensor | None:
        """What the crops are conditioned on, with some left out; None for a model without conditioning."""
        condition = self.network.conditioner.crop_condition(batch)
        if condition is None or self.drop_condition == 0:
            return condition
        # By the step, not by the global generator: a resumed run leaves out what it would have left out.
        draw = torch.Generator().manual_seed(self.trainer.global_step * self.trainer.world_size + self.global_rank)
        kept = torch.rand(len(condition), 1, 1, generator=draw) >= self.drop_condition
        return condition * kept.to(condition.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        speaker = batch["speaker"].tolist() if "speaker" in batch else None
        features = batch["features"] if "features" in batch else self.eval_network.features(batch["sound"])
        conditioning = self.eval_network.conditioning(features, speaker)
        nats = torch.cat(list(nll_by_chunk(self.eval_network, batch["codes"], conditioning)))
        self.log("valid/bits", nats.mean() / math.log(2), batch_size=len(nats), on_epoch=True, sync_dist=True)
