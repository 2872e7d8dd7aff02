"""The training step of dense regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from torch import Tensor, nn

from wavedil.train.base import MetricNames
from wavedil.train.image_previews import ValuePreviews, ValueSamples
from wavedil.train.segmentation import SegmentationModule
from wavedil.vision.losses import SmoothL1
from wavedil.vision.metrics import RegressionMetrics
from wavedil.vision.models.regressor import Regressor


class RegressionModule(SegmentationModule):
    """Trains a :class:`wavedil.vision.Regressor`, whose values start at the mean and deviation of the data's.

    Args:
        backbone, init, optimizer, backbone_rate, align, warmup_steps, power, average: see
            :class:`SegmentationModule`.
        head: makes the head from the channels of the features and the number of maps, which is 1.
        context: makes the context module from the number of maps; None for none.
        frozen: parts that do not learn, of ``backbone``, ``head`` and ``context``.
        loss: of values ``(batch, 1, height, width)`` and targets ``(batch, height, width)``, NaN where unknown; default
            :class:`wavedil.vision.SmoothL1` with beta 0, which is L1.
    """

    metric_names = MetricNames("train_loss", "loss", "valid_rmse", "RMSE {:.4g}", "images")
    previews, samples = ValuePreviews, ValueSamples

    def __init__(self, loss: nn.Module | None = None, **options: Any):
        super().__init__(refinement=None, loss=SmoothL1() if loss is None else loss, **options)

    def assemble(
        self, parts: Sequence[nn.Module | None], shared: dict[str, Any], data: L.LightningDataModule
    ) -> Regressor:
        backbone, head, context, _ = parts
        return Regressor(
            backbone,
            head,
            context,
            step=data.step,
            target_mean=data.center,
            target_std=data.deviation,
            **shared,
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self.network(batch["image"]), batch["targets"])
        self.log("train/loss", loss.detach())
        return loss

    def on_validation_epoch_start(self) -> None:
        self.errors = RegressionMetrics(self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.errors.update(self.eval_network(batch["image"])[:, 0], batch["targets"])

    def on_validation_epoch_end(self) -> None:
        self.log("valid/rmse", self.errors.rmse)
        self.log("valid/abs_rel", self.errors.abs_rel)
