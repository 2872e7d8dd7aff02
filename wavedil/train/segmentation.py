"""The training step of dense prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wavedil.core.receptive_field import count_parameters
from wavedil.errors import WavedilError
from wavedil.train.base import MetricNames, TrainingModule
from wavedil.train.image_previews import ImagePreviews, ImageSamples
from wavedil.vision.losses import CrossEntropy
from wavedil.vision.metrics import ConfusionMatrix
from wavedil.vision.models.heads import Conv1x1Head
from wavedil.vision.models.predictor import DensePredictor, load_predictor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.weights import check_savable

PARTS = ("backbone", "head", "context", "refinement")


class SegmentationModule(TrainingModule):
    """Trains a :class:`wavedil.vision.Segmenter`, put together when the data have told its classes.

    The learning rate falls as (1 - share of the budget used) ** power. Biases and normalization have no weight decay.

    Args:
        backbone: image to features, e.g. :class:`wavedil.vision.SmallBackbone`.
        head: makes the head from the channels of the features and the number of classes; in a recipe, a class and its
            further arguments.
        context: makes the context module from the number of classes; None for none.
        refinement: makes what refines scores at full resolution, from the number of classes; None for none.
        init: a model folder to start from, e.g. ``runs/frontend/model``. Its parts are used where none is given here,
            so a stage of training names only what it adds; so are its scale and classes where the data name none. A
            backbone that is given all the same takes the weights of
            the model's: it may have another stride.
        frozen: parts that do not learn, of ``backbone``, ``head``, ``context`` and ``refinement``; their
            normalization stands still too. For the paper's second stage, context on a finished front end:
            ``[backbone, head]``.
        optimizer: makes the optimizer from the parameters; in a recipe, a class and its arguments.
        loss: of scores ``(batch, num_classes, height, width)`` and labels ``(batch, height, width)``.
        backbone_rate: the backbone's learning rate, as a multiple of the other parts'.
        align: see :class:`wavedil.vision.Segmenter`; None: what ``init`` has, else where the backbone's cells sit.
        warmup_steps: steps until the full learning rate.
        power: of the decay; 0.9 is usual (Liu et al. 2016, arXiv 1506.04579).
        average: decay of a moving average of the weights, which the run leaves in their place, e.g. 0.999; 0 for none.
    """

    metric_names = MetricNames("train_loss", "loss", "valid_mean_iou", "mean IoU {:.4f}", "images")
    previews, samples = ImagePreviews, ImageSamples

    def __init__(
        self,
        backbone: nn.Module | None = None,
        head: Callable[[int, int], nn.Module] | None = None,
        context: Callable[[int], nn.Module] | None = None,
        refinement: Callable[[int], nn.Module] | None = None,
        init: str | None = None,
        frozen: Sequence[str] = (),
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        loss: nn.Module | None = None,
        backbone_rate: float = 1.0,
        align: str | None = None,
        warmup_steps: int = 100,
        power: float = 0.9,
        average: float = 0.0,
    ):
        super().__init__(optimizer, warmup_steps, 1.0, power, average)
        if init is None and backbone is None:
            raise WavedilError("backbone is not given: name one, or a model folder to start from with init")
        if set(frozen) - set(PARTS):
            raise WavedilError(f"frozen is {list(frozen)}: expected some of {', '.join(PARTS)}")
        # Not attributes: the network will hold them, and a part must not be in the checkpoint twice.
        self.given = {"backbone": backbone, "head": head, "context": context, "refinement": refinement}
        self.init, self.frozen, self.backbone_rate, self.align = init, tuple(frozen), backbone_rate, align
        self.loss = CrossEntropy() if loss is None else loss

    def prepare(self, data: L.LightningDataModule, folder: Path) -> None:
        start = None if self.init is None else load_predictor(self.init)
        data.open(folder, start)
        align = self.align or (start.align if start is not None else None)
        shared = {"scale": data.scale, "align": align, **self._normalization(start)}
        self.network = self.assemble(self._parts(start, data.maps), shared, data)
        check_savable(self.network)
        for name in self.frozen:
            part = getattr(self.network, name)
            if part is None:
                raise WavedilError(f"frozen is {list(self.frozen)}, but there is no {name}")
            part.requires_grad_(False)
        if not any(p.requires_grad for p in self.network.parameters()):
            raise WavedilError(f"frozen is {list(self.frozen)}: nothing is left to learn")
        self.network.to(memory_format=torch.channels_last)
        if hasattr(self.loss, "set_frequencies"):
            self.loss.set_frequencies(data.counts)
        super().prepare(data, folder)
        self.train()  # Lightning leaves modes as they are

    def assemble(
        self, parts: Sequence[nn.Module | None], shared: dict[str, Any], data: L.LightningDataModule
    ) -> DensePredictor:
        """The network out of one part for each of PARTS, arguments that all networks share, and what the data say."""
        scheme = data.scheme
        return Segmenter(
            *parts,
            num_classes=data.maps,
            classes=scheme.classes,
            mask_values=scheme.mask_values,
            ignore_label=scheme.ignore_label,
            palette=scheme.colors,
            **shared,
        )

    def _parts(self, start: DensePredictor | None, maps: int) -> list[nn.Module | None]:
        """One for each of PARTS: those given, else those of the model to start from."""
        backbone, head, *further = self.given.values()
        if start is not None and start.num_outputs != maps:
            raise WavedilError(f"{self.init} has {start.num_outputs} classes and the data {maps}: expected the same")
        if start is not None and backbone is not None:
            try:
                backbone.load_state_dict(start.backbone.state_dict())
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                raise WavedilError(f"the backbone of {self.init} does not fit the one given: {reason}") from None
        backbone = start.backbone if backbone is None else backbone
        channels = getattr(backbone, "level_channels", None) or getattr(backbone, "channels", None)
        make_head = Conv1x1Head if head is None else head
        return [
            backbone,
            start.head if head is None and start is not None else make_head(in_channels=channels, num_classes=maps),
            *(
                make(maps) if make is not None else getattr(start, name, None)
                for name, make in zip(PARTS[2:], further, strict=True)
            ),
        ]

    def _normalization(self, start: DensePredictor | None) -> dict[str, Sequence[float]]:
        """What the weights have learned with: that of the model to start from, else what the backbone asks for."""
        if start is not None:
            return {"mean": start.mean.flatten().tolist(), "std": start.std.flatten().tolist()}
        asked = {name: getattr(self.given["backbone"], name, None) for name in ("mean", "std")}
        return {name: value for name, value in asked.items() if value}

    def describe(self) -> str:
        network = self.network
        found = [getattr(network, name) for name in PARTS]
        parts = ", ".join(type(part).__name__ for part in found if part is not None)
        field = network.receptive_field
        sees = "sees the whole image" if field is None else f"receptive field {field} pixels"
        still = f", {' and '.join(self.frozen)} frozen" if self.frozen else ""
        return f"{parts}: {count_parameters(network):,} parameters, stride {network.output_stride}, {sees}{still}"

    def count(self, batch: dict[str, Tensor]) -> int:
        return len(batch["image"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = []
        for name in (*PARTS[1:], PARTS[0]):
            part, rate = getattr(self.network, name), self.backbone_rate if name == "backbone" else 1.0
            learning = [] if part is None else [p for p in part.parameters() if p.requires_grad]
            groups += [{"params": [p for p in learning if p.ndim > 1], "rate": rate}]
            groups += [{"params": [p for p in learning if p.ndim <= 1], "rate": rate, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def train(self, mode: bool = True) -> SegmentationModule:
        super().train(mode)
        for name in self.frozen:
            getattr(self.network, name).eval()
        return self

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self.network(batch["image"]), batch["labels"])
        self.log("train/loss", loss.detach())
        return loss

    def on_validation_epoch_start(self) -> None:
        self.matrix = ConfusionMatrix(self.network.num_classes, self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.matrix.update(self.eval_network(batch["image"]).argmax(1), batch["labels"])

    def on_validation_epoch_end(self) -> None:
        # Every process has seen all images: there is nothing to add up.
        self.log("valid/mean_iou", self.matrix.mean_iou)
        self.log("valid/accuracy", self.matrix.accuracy)
