"""Training of dense regression on folders of images and targets."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from wavedil.core.schema import Positive, checked
from wavedil.errors import WavedilError
from wavedil.train.data import Count, Factor
from wavedil.train.module import MetricNames
from wavedil.train.segmentation import SegmentationModule
from wavedil.train.segmentation_data import DEFAULT_LABELS, SegmentationData
from wavedil.vision.data import spheres
from wavedil.vision.data.check_truth import TargetMaps
from wavedil.vision.data.dataset import RegressionDataset
from wavedil.vision.losses import SmoothL1
from wavedil.vision.metrics import RegressionMetrics
from wavedil.vision.models.predictor import DensePredictor
from wavedil.vision.models.regressor import Regressor


class RegressionModule(SegmentationModule):
    """Trains a :class:`wavedil.vision.Regressor` with the mean and standard deviation of the training targets.

    Args:
        backbone, init, optimizer, backbone_lr_scale, align, warmup_steps, lr_power, ema_decay, compile: see
            :class:`SegmentationModule`.
        head: builds the head from the channels of the features and the number of maps, which is 1.
        context: builds the context module from the number of maps; None for none.
        frozen: parts that are not trained, of ``backbone``, ``head`` and ``context``.
        loss: loss of values ``(batch, 1, height, width)`` and targets ``(batch, height, width)``, NaN where unknown;
            default :class:`wavedil.vision.SmoothL1` with beta 0, which is L1.
    """

    metric_names = MetricNames("train_loss", "loss", "valid_rmse", "RMSE {:.4g}", "images")
    data_attributes = ("num_outputs", "scale", "step", "target_mean", "target_std")
    truth = "targets"

    def __init__(self, loss: nn.Module | None = None, **options: Any):
        super().__init__(
            refinement=None,
            auxiliary=None,
            auxiliary_level=-2,
            auxiliary_weight=0.0,
            loss=SmoothL1() if loss is None else loss,
            **options,
        )

    def build_network(self, parts: Sequence[nn.Module | None], shared: dict[str, Any], data: Any) -> Regressor:
        backbone, head, context, _ = parts
        return Regressor(
            backbone, head, context, step=data.step, target_mean=data.target_mean, target_std=data.target_std, **shared
        )

    def on_validation_epoch_start(self) -> None:
        self.errors = RegressionMetrics(self.device)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.errors.update(self.eval_network(batch["image"])[:, 0], batch["targets"])

    def on_validation_epoch_end(self) -> None:
        self.log("valid/rmse", self.errors.rmse)
        self.log("valid/abs_rel", self.errors.abs_rel)

    def validation_details(self) -> dict[str, Any]:
        return {}


class RegressionData(SegmentationData):
    """Random crops of a folder of images and targets; validation on complete images.

    The root holds ``images`` and ``targets``, or folders ``train`` and ``val`` that each hold them. A target is a gray
    image of 8 or 16 bits or a .npy of (height, width); values of 0 or NaN are unknown and ignored.

    Args:
        root: the folder; null for built-in spheres and their distances, which are written to ``RUN/data``.
        step: value of one gray level of a target image, e.g. 0.001 for millimeters to meters.
        targets, target_ending: folder of the targets, and ending of their file names, without suffix.
        scales: minimum and maximum of the random scale of a crop; its target values are not changed.
        **options: crop, batch_size, scale, images, image_ending, validation, flip, valid_images, built_in_images,
            max_skipped, seed, num_workers; see :class:`SegmentationData`.
    """

    default_labels = {**DEFAULT_LABELS, "ignore_label": None}

    @checked
    def __init__(
        self,
        step: Positive = 1.0,
        targets: str = "targets",
        target_ending: str = "",
        scales: tuple[Factor, Factor] = (1.0, 1.0),
        built_in_images: Count = 300,
        **options: Any,
    ):
        super().__init__(
            format=None,
            balance=None,
            classes=None,
            mask_values=None,
            ignore_label=None,
            palette=None,
            masks=targets,
            mask_ending=target_ending,
            scales=scales,
            built_in_images=built_in_images,
            **options,
        )
        if self.root is None and step != 1.0:
            raise WavedilError(f"step is {step}, but the built-in images have their own; set root, or leave it out")
        self.step = step

    def write_built_in(self, train: int, val: int) -> None:
        spheres.make_spheres(self.built_in_folder(), train, val)

    def use_labels_of(self, start: DensePredictor | None) -> None:
        """Targets have no classes."""

    def truth_to_check(self) -> TargetMaps:
        return TargetMaps(self.step)

    def read_truth(self, root: Any, train: list, valid: list, start: DensePredictor | None) -> str:
        if self.root is None:
            self.step = spheres.STEP
        self.train, self.valid = (
            RegressionDataset(pairs, self.step, self.scale, self.channels) for pairs in (train, valid)
        )
        self.num_outputs = 1
        known, self.target_mean, deviation = self.train.target_statistics()
        if not known:
            raise WavedilError(f"{root}: all pixels of the {len(train)} training targets are unknown (0 or NaN)")
        self.target_std = deviation or 1.0  # 0 if all targets are equal
        text = f"{known:,} pixels have a value: mean {self.target_mean:.4g}, deviation {deviation:.4g}"
        return text if deviation else f"{text}\nwarning: all values are equal: nothing else can be learned"
