"""The training step of a paired model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wavedil.audio.effects.losses import ESR, compute_loss
from wavedil.audio.effects.process import apply_model
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core.receptive_field import count_parameters
from wavedil.train.base import MetricNames, TrainingModule
from wavedil.train.effect_previews import EffectPreviews, EffectSamples
from wavedil.weights import check_savable


class EffectModule(TrainingModule):
    """Trains a model from sound to sound on pairs of input and target; validation is ESR in percent.

    Args:
        network: e.g. :class:`wavedil.audio.Effect` or :class:`wavedil.audio.models.nam.NAM`.
        optimizer: makes the optimizer from the parameters; in a recipe, a class and its arguments.
        loss: of output and target, ``(batch, 1, time)`` each; default ESR. See :mod:`wavedil.audio.effects.losses`.
        warmup_steps: steps until the full learning rate.
        decay: share of the budget over which the rate falls to zero.
        power: of the decay.
        average: decay of a moving average of the weights, which the run leaves in their place, e.g. 0.999; 0 for none.
    """

    metric_names = MetricNames("train_loss", "loss", "valid_esr", "held-out ESR {:.3f} %", "samples")
    previews, samples = EffectPreviews, EffectSamples

    def __init__(
        self,
        network: EffectModel,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.Adam,
        loss: nn.Module | None = None,
        warmup_steps: int = 100,
        decay: float = 1.0,
        power: float = 1.0,
        average: float = 0.0,
    ):
        super().__init__(optimizer, warmup_steps, decay, power, average)
        check_savable(network)
        self.network, self.loss = network, ESR() if loss is None else loss

    def prepare(self, data: L.LightningDataModule, folder: Path) -> None:
        data.open(folder, self.network)
        super().prepare(data, folder)

    def describe(self) -> str:
        network = self.network
        field, rate = network.receptive_field, network.sample_rate
        knobs = f", knobs {', '.join(network.knobs)}" if network.knobs else ""
        return (
            f"{count_parameters(network):,} parameters, {len(network.dilations)} layers, receptive field {field} "
            f"samples = {1000 * field / rate:.1f} ms at {rate} Hz{knobs}"
        )

    def count(self, batch: dict[str, Tensor]) -> int:
        return batch["target"].numel()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        knobs = batch["knobs"] if self.network.knobs else None
        output = self.network(batch["input"], knobs, skip=batch["input"].shape[2] - batch["target"].shape[2])
        return compute_loss(self.loss, output.float(), batch["target"], batch["input"], knobs)

    def on_validation_epoch_start(self) -> None:
        self.energies = torch.zeros(2, dtype=torch.float64)  # of the error and of the target

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        output = apply_model(self.eval_network, batch["input"], batch["knobs"])[:, :, -batch["target"].shape[2] :]
        for place, sound in enumerate((batch["target"] - output, batch["target"])):
            self.energies[place] += sound.double().square().sum().cpu()

    def on_validation_epoch_end(self) -> None:
        error, signal = self.trainer.strategy.reduce(self.energies, reduce_op="sum")
        self.log("valid/esr", 100 * error / signal)
