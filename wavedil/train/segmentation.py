"""Training of segmentation: the module."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from wavedil.core.cost import count_parameters
from wavedil.core.schema import PathText, checked
from wavedil.errors import WavedilError, count_text, first_line, one_of
from wavedil.train.data import Decay, NotNegative, OptionalCount
from wavedil.train.module import MetricNames, TrainingModule
from wavedil.train.previews.images import ImagePreviews, ImageSamples
from wavedil.vision.boundary_f1 import BoundaryF1
from wavedil.vision.losses import CrossEntropy
from wavedil.vision.metrics import ConfusionMatrix, finite
from wavedil.vision.models.heads import Conv1x1Head
from wavedil.vision.models.predictor import DensePredictor
from wavedil.vision.models.segmenter import Level, Segmenter, level_of
from wavedil.weights import check_savable, load

PARTS = ("backbone", "head", "context", "refinement")


class SegmentationModule(TrainingModule):
    """Trains a :class:`wavedil.vision.Segmenter`, which ``configure_model`` builds for the classes of the data.

    The learning rate is proportional to (1 - used fraction of the budget) ** ``lr_power``. Biases and normalization
    have no weight decay.

    Args:
        backbone: image to features, e.g. :class:`wavedil.vision.SmallBackbone`.
        head: builds the head from the channels of the features and the number of classes; in a recipe, a class and its
            other arguments.
        context: builds the context module from the number of classes; None for none.
        refinement: builds the module that refines scores at full resolution, from the number of classes; None for none.
        init: a model folder to start from, e.g. ``runs/frontend/model``. Its parts replace those that are None here, so
            each stage of training names only the parts that it adds. Its scale and classes apply if the data set none.
            If ``backbone`` is also set, it loads the weights of the model's backbone and may have another stride.
        auxiliary: builds an auxiliary head on an earlier feature map, from its channels and the number of classes, e.g.
            :class:`wavedil.vision.FCNHead`; None for none. It is trained with the same loss, is not used in validation
            and prediction, and is kept in the saved model.
        auxiliary_level: which feature map it reads, see :class:`wavedil.vision.Segmenter`.
        auxiliary_weight: weight of its loss, 0.4 as in PSPNet (Zhao et al. 2017, arXiv 1612.01105, section 3.3).
        frozen: parts that are not trained, of ``backbone``, ``head``, ``context`` and ``refinement``; their
            normalization is not updated either. ``[backbone, head]`` for the second stage of Yu & Koltun, which trains
            the context module on a trained front end.
        optimizer: builds the optimizer from the parameters; in a recipe, a class and its arguments.
        loss: loss of scores ``(batch, num_classes, height, width)`` and labels ``(batch, height, width)``.
        backbone_lr_scale: factor of the backbone's learning rate.
        align: see :class:`wavedil.vision.Segmenter`; None: that of ``init``, else the backbone's.
        warmup_steps: steps until the full learning rate.
        lr_power: exponent of the decay; 0.9 is usual (Liu et al. 2016, arXiv 1506.04579).
        ema_decay: decay of the exponential moving average (EMA) of the weights, which is validated and saved, e.g.
            0.999; 0 for none.
        compile: train with ``torch.compile``; saved files do not depend on it.
    """

    metric_names = MetricNames("train_loss", "loss", "valid_mean_iou", "mean IoU {:.4f}", "images")
    previews_class, samples_class = ImagePreviews, ImageSamples
    #: Attributes that :meth:`build_network` reads from the data module.
    data_attributes = ("scheme", "num_outputs", "scale", "counts")
    #: Key of the ground truth in a batch.
    truth = "labels"

    @checked
    def __init__(
        self,
        backbone: nn.Module | None = None,
        head: Callable[[int, int], nn.Module] | None = None,
        context: Callable[[int], nn.Module] | None = None,
        refinement: Callable[[int], nn.Module] | None = None,
        auxiliary: Callable[[int, int], nn.Module] | None = None,
        auxiliary_level: Level = -2,
        auxiliary_weight: NotNegative = 0.4,
        init: PathText | None = None,
        frozen: Sequence[str] = (),
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        loss: nn.Module | None = None,
        backbone_lr_scale: NotNegative = 1.0,
        align: str | None = None,
        warmup_steps: OptionalCount = 100,
        lr_power: NotNegative = 0.9,
        ema_decay: Decay = 0.0,
        compile: bool = False,
    ):
        super().__init__(optimizer, warmup_steps, 1.0, lr_power, ema_decay, compile)
        if init is None and backbone is None:
            raise WavedilError("backbone and init are null: name a backbone, or a model folder to start from in init")
        if unknown := [name for name in frozen if name not in PARTS]:
            raise WavedilError(f"frozen is {list(frozen)}: expected {one_of(unknown[0], PARTS, some=True)}")
        # In a dictionary: as attributes the modules would be in each checkpoint twice.
        self.parts = {"backbone": backbone, "head": head, "context": context, "refinement": refinement}
        self.parts["init"] = None if init is None else load(init, expect=DensePredictor)
        self.parts["auxiliary"] = auxiliary
        self.auxiliary_level, self.auxiliary_weight = auxiliary_level, auxiliary_weight
        self.init, self.frozen, self.backbone_lr_scale, self.align = init, tuple(frozen), backbone_lr_scale, align
        self.network = None
        self.loss = CrossEntropy() if loss is None else loss

    @property
    def initial_network(self) -> DensePredictor | None:
        """The model of ``init``."""
        return self.parts["init"]

    def configure_model(self) -> None:
        if self.network is None:
            with torch.device("cpu"):  # the initial weights are the same on all accelerators
                self.network = self._checked_network()
            super().configure_model()
            self.train()  # Lightning keeps the mode of each module

    def _checked_network(self) -> DensePredictor:
        data, start = self.trainer.datamodule, self.initial_network
        missing = [name for name in self.data_attributes if not hasattr(data, name)]
        if missing:
            raise WavedilError(
                f"{type(data).__name__} has no {' and no '.join(missing)}: {type(self).__name__} builds its network "
                "for these; use the data module of this task, or set them in setup()"
            )
        align = self.align or (start.align if start is not None else None)
        shared = {"scale": data.scale, "align": align, **self._normalization(data)}
        network = self.build_network(self._build_parts(data.num_outputs), shared, data)
        check_savable(network)
        for name in self.frozen:
            part = getattr(network, name)
            if part is None:
                raise WavedilError(f"frozen is {list(self.frozen)}, but there is no {name}")
            part.requires_grad_(False)
        if not any(p.requires_grad for p in network.parameters()):
            raise WavedilError(f"frozen is {list(self.frozen)}: no parameter is left to train")
        if hasattr(self.loss, "set_frequencies"):
            self.loss.set_frequencies(data.counts)
        return network.to(memory_format=torch.channels_last)

    def build_network(self, parts: Sequence[nn.Module | None], shared: dict[str, Any], data: Any) -> DensePredictor:
        """Builds the network from one part for each of ``PARTS``, arguments of all networks, and the data module."""
        scheme = data.scheme
        return Segmenter(
            *parts,
            num_classes=data.num_outputs,
            classes=scheme.classes,
            mask_values=scheme.mask_values,
            ignore_label=scheme.ignore_label,
            palette=scheme.colors,
            **self._build_auxiliary(parts[0], data.num_outputs),
            **shared,
        )

    def _build_auxiliary(self, backbone: nn.Module, num_outputs: int) -> dict[str, Any]:
        """The auxiliary head and its level: from the arguments, or from ``init``."""
        build, start = self.parts["auxiliary"], self.initial_network
        if build is not None:
            channels = level_of(getattr(backbone, "level_channels", None) or [backbone.channels], self.auxiliary_level)
            return {
                "auxiliary": _build("auxiliary", build, in_channels=channels, num_classes=num_outputs),
                "auxiliary_level": self.auxiliary_level,
            }
        if start is None or self.parts["backbone"] is not None:
            return {}
        return {"auxiliary": start.auxiliary, "auxiliary_level": start.auxiliary_level}

    def _build_parts(self, num_outputs: int) -> list[nn.Module | None]:
        """One part for each of ``PARTS``: from the arguments, or from ``init``."""
        start, backbone, head = self.initial_network, self.parts["backbone"], self.parts["head"]
        if start is not None and start.num_outputs != num_outputs:
            raise WavedilError(
                f"{self.init} has {count_text(start.num_outputs, 'class')} and the data {num_outputs}: expected "
                "the same"
            )
        if backbone is None:
            backbone = start.backbone
        elif start is not None:
            try:
                backbone.load_state_dict(start.backbone.state_dict())
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:200]
                raise WavedilError(f"the backbone of {self.init} does not fit the one in backbone: {reason}") from None
        if head is None and start is not None:
            head = start.head
        else:
            channels = getattr(backbone, "level_channels", None) or getattr(backbone, "channels", None)
            head = _build("head", head or Conv1x1Head, in_channels=channels, num_classes=num_outputs)
        others = ((name, self.parts[name], getattr(start, name, None)) for name in PARTS[2:])
        others = (part if build is None else _build(name, build, num_outputs) for name, build, part in others)
        return [backbone, head, *others]

    @property
    def in_channels(self) -> int:
        """Bands of the images: those of the backbone."""
        backbone = self.parts["backbone"] or self.initial_network.backbone
        return getattr(backbone, "in_channels", None) or 3

    def _normalization(self, data: Any) -> dict[str, Sequence[float]]:
        """Mean and standard deviation of each band: from ``init``, from the backbone, or of images that are not RGB."""
        start = self.initial_network
        if start is not None:
            return {"mean": start.mean.flatten().tolist(), "std": start.std.flatten().tolist()}
        values = {name: getattr(self.parts["backbone"], name, None) for name in ("mean", "std")}
        if self.in_channels != 3 and not all(values.values()):
            values = dict(zip(("mean", "std"), data.train.band_statistics(), strict=True))
        return {name: value for name, value in values.items() if value}

    def summary(self) -> str:
        network = self.network
        parts = [getattr(network, name) for name in PARTS]
        names = ", ".join(type(part).__name__ for part in parts if part is not None)
        names += "" if network.auxiliary is None else f", auxiliary {type(network.auxiliary).__name__}"
        field = network.receptive_field
        field = "receptive field: the full image" if field is None else f"receptive field {field} pixels"
        frozen = f", {' and '.join(self.frozen)} frozen" if self.frozen else ""
        text = f"{names}: {count_parameters(network):,} parameters, stride {network.output_stride}, {field}{frozen}"
        return text + self._note_about_batch_norm()

    def _note_about_batch_norm(self) -> str:
        """A line for networks whose batch norms are trained with one crop per batch, else nothing."""
        norms = (module for module in self.network.modules() if isinstance(module, _BatchNorm))
        trained = any(norm.weight is None or norm.weight.requires_grad for norm in norms)
        if getattr(self.trainer.datamodule, "batch_size", None) != 1 or not trained:
            return ""
        return (
            "\nbatch_size is 1 and the network has batch norms that are trained: their statistics are then those of "
            "single crops, and results are often worse; use several crops, e.g. smaller ones (data.crop)"
        )

    def num_items(self, batch: dict[str, Tensor]) -> int:
        return len(batch["image"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups = []
        for name in (*PARTS[1:], "auxiliary", PARTS[0]):
            part, scale = getattr(self.network, name), self.backbone_lr_scale if name == "backbone" else 1.0
            trained = [] if part is None else [p for p in part.parameters() if p.requires_grad]
            groups.append({"params": [p for p in trained if p.ndim > 1], "lr_scale": scale})
            groups.append({"params": [p for p in trained if p.ndim <= 1], "lr_scale": scale, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]

    def train(self, mode: bool = True) -> "SegmentationModule":
        super().train(mode)
        for name in self.frozen if self.network is not None else ():
            getattr(self.network, name).eval()
        return self

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        image, truth = batch["image"], batch[self.truth]
        if self.network.auxiliary is None:
            loss = self.loss(self.call(self.network, image), truth)
        else:
            scores, auxiliary = self.call(self.network.training_scores, image)
            loss = self.loss(scores, truth) + self.auxiliary_weight * self.loss(auxiliary, truth)
        self.log("train/loss", loss.detach(), batch_size=len(image))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.matrix = ConfusionMatrix(self.network.num_classes, self.device)
        self.boundary = BoundaryF1(self.network.num_classes)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        predictions = self.eval_network(batch["image"]).argmax(1)
        self.matrix.update(predictions, batch["labels"])
        for image in zip(predictions, batch["labels"], strict=True):
            self.boundary.update(*image)

    def on_validation_epoch_end(self) -> None:
        # Not reduced: each process validates on all images.
        self.log("valid/mean_iou", self.matrix.mean_iou)
        self.log("valid/accuracy", self.matrix.accuracy)
        self.log("valid/boundary_f1", self.boundary.mean)

    def validation_details(self) -> dict[str, Any]:
        """The confusion matrix, as label, prediction and number of pixels, and the boundary F1 of each class."""
        return {"confusion": self.matrix.entries(), "boundary_f1": finite(self.boundary.scores)}


def _build(name: str, build: Callable[..., nn.Module], *args: int, **sizes: Any) -> nn.Module:
    """A part of the network, from the number of classes, or from the channels of its input and the number of classes.

    Raises:
        WavedilError: the class does not take them.
    """
    try:
        return build(*args, **sizes)
    except TypeError as error:
        raise WavedilError(
            f"{name} cannot be built from {', '.join(sizes) or 'num_classes'}: {first_line(error)}"
        ) from None
