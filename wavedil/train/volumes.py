"""Training of segmentation on patches of volumes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Subset

from wavedil.core import Schedule
from wavedil.core.cost import count_parameters
from wavedil.core.receptive_field import PerAxis
from wavedil.core.schedule import parse_layers
from wavedil.core.schema import Channels, PathText, Range, checked
from wavedil.data_check import DataCheck
from wavedil.errors import WavedilError, count_text, shown
from wavedil.progress import Bar
from wavedil.train.data import Count, Decay, NotNegative, OptionalCount, Seed, TrainingData, Workers, evenly_spaced
from wavedil.train.module import MetricNames, TrainingModule
from wavedil.train.previews.volumes import VolumePreviews, VolumeSamples
from wavedil.vision.data import ellipsoids
from wavedil.vision.data.check_volumes import check_volumes
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.patch_augmentation import PatchAugmentation
from wavedil.vision.data.shares import describe_classes
from wavedil.vision.data.volume_pairs import RandomPatches, VolumeDataset, split_volume_pairs
from wavedil.vision.losses import CrossEntropy
from wavedil.vision.metrics import ConfusionMatrix
from wavedil.vision.models.intensity import check_normalization
from wavedil.vision.models.volume_segmenter import VolumeSegmenter, normalizer
from wavedil.vision.volume_prediction import label_volume
from wavedil.weights import check_savable, load

SIZES = ("in_channels", "channels", "dilations")


class VolumeModule(TrainingModule):
    """Trains a :class:`wavedil.vision.VolumeSegmenter`, which ``configure_model`` builds for the classes of the data.

    The learning rate is proportional to (1 - used fraction of the budget) ** ``lr_power``. Biases and normalization
    have no weight decay.

    Args:
        in_channels: channels of the volumes; None: those of ``init``, else 1.
        channels, dilations: see :class:`wavedil.vision.VolumeSegmenter`; None: those of ``init``, else its defaults.
        normalization: of each volume, in training and in prediction, e.g. :class:`wavedil.vision.NormalizeIntensity`
            or :class:`wavedil.vision.ScaleIntensityRange`; None: that of ``init``, else with the mean and the standard
            deviation of all training volumes.
        init: a model folder to start from, e.g. ``runs/volumes/model``. Its class names apply if the data set none.
        optimizer: builds the optimizer from the parameters; in a recipe, a class and its arguments.
        loss: loss of scores ``(batch, num_classes, depth, height, width)`` and labels ``(batch, depth, height,
            width)``; default :class:`wavedil.vision.CrossEntropy`.
        warmup_steps: steps until the full learning rate.
        lr_power: exponent of the decay.
        ema_decay: decay of the exponential moving average of the weights, which is validated and saved; 0 for none.
        compile: train with ``torch.compile``; saved files do not depend on it.
    """

    metric_names = MetricNames("train_loss", "loss", "valid_mean_iou", "mean IoU {:.4f}", "patches")
    previews_class, samples_class = VolumePreviews, VolumeSamples

    @checked
    def __init__(
        self,
        in_channels: Channels | None = None,
        channels: Channels | None = None,
        dilations: Schedule | Sequence[PerAxis] | None = None,
        normalization: nn.Module | None = None,
        init: PathText | None = None,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        loss: nn.Module | None = None,
        warmup_steps: OptionalCount = 50,
        lr_power: NotNegative = 0.9,
        ema_decay: Decay = 0.0,
        compile: bool = False,
    ):
        super().__init__(optimizer, warmup_steps, 1.0, lr_power, ema_decay, compile)
        start = None if init is None else load(init, expect=VolumeSegmenter)
        # In a dictionary: as attributes the modules would be in each checkpoint twice.
        self.parts = {"init": start, "normalization": normalization}
        sizes = zip(SIZES, (in_channels, channels, dilations), strict=True)
        self.sizes = {name: value for name, value in sizes if value is not None}
        if start is not None:
            self._check_sizes(init, start)
        if normalization is not None:
            check_normalization(normalization, self.in_channels)
        self.init, self.network = init, None
        self.loss = CrossEntropy() if loss is None else loss

    def _check_sizes(self, init: str, start: VolumeSegmenter) -> None:
        """Raises WavedilError for sizes that are not those of ``init``."""
        for name, value in self.sizes.items():
            same = (
                parse_layers(value, 3) == start.stack.dilations if name == "dilations" else value == start.config[name]
            )
            if not same:
                raise WavedilError(
                    f"{name} is {shown(value)} and that of {init} {shown(start.config[name])}: set it to null"
                )

    @property
    def initial_network(self) -> VolumeSegmenter | None:
        """The model of ``init``."""
        return self.parts["init"]

    @property
    def in_channels(self) -> int:
        """Channels of the volumes."""
        start = self.initial_network
        return self.sizes.get("in_channels", 1) if start is None else start.in_channels

    def normalization(self, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
        """The arguments of the network that normalize volumes; ``mean`` and ``std`` are of the training volumes."""
        start, normalization = self.initial_network, self.parts["normalization"]
        if normalization is None and start is not None:
            normalization, mean, std = start.normalization, start.mean.flatten().tolist(), start.std.flatten().tolist()
        return {"mean": mean, "std": std} if normalization is None else {"normalization": normalization}

    def configure_model(self) -> None:
        if self.network is not None:
            return
        data = self.trainer.datamodule
        if missing := [name for name in ("classes", "counts", "mean", "std") if not hasattr(data, name)]:
            raise WavedilError(
                f"{type(data).__name__} has no {' and no '.join(missing)}: use VolumeData with {type(self).__name__}"
            )
        with torch.device("cpu"):  # the initial weights are the same on all accelerators
            self.network = self._build_network(data)
        check_savable(self.network)
        if hasattr(self.loss, "set_frequencies"):
            self.loss.set_frequencies(data.counts)
        super().configure_model()
        self.train()  # Lightning keeps the mode of each module

    def _build_network(self, data: Any) -> VolumeSegmenter:
        start, number = self.initial_network, len(data.classes)
        if start is not None and start.num_classes != number:
            raise WavedilError(
                f"{self.init} has {count_text(start.num_classes, 'class')} and the data {number}: expected the same"
            )
        sizes = self.sizes if start is None else {name: start.config[name] for name in SIZES}
        network = VolumeSegmenter(number, classes=data.classes, **sizes, **self.normalization(data.mean, data.std))
        if start is not None:
            network.load_state_dict(start.state_dict())
        return network

    def summary(self) -> str:
        field = " x ".join(map(str, self.network.receptive_field))
        return f"VolumeSegmenter: {count_parameters(self.network):,} parameters, receptive field {field} voxels"

    def num_items(self, batch: dict[str, Tensor]) -> int:
        return len(batch["image"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        parameters = list(self.network.parameters())
        return [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self.call(self.network.scores, batch["image"]), batch["labels"])
        self.log("train/loss", loss.detach(), batch_size=len(batch["image"]))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.matrix = ConfusionMatrix(self.network.num_classes)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        for volume, labels in zip(batch["image"], batch["labels"], strict=True):
            self.matrix.update(torch.from_numpy(label_volume(self.eval_network, volume)), labels.cpu())

    def on_validation_epoch_end(self) -> None:
        # Not reduced: each process validates on all volumes.
        self.log("valid/mean_iou", self.matrix.mean_iou)
        self.log("valid/accuracy", self.matrix.accuracy)

    def validation_details(self) -> dict[str, Any]:
        """The confusion matrix, as label, prediction and number of voxels."""
        return {"confusion": self.matrix.entries()}


class VolumeData(TrainingData):
    """Random patches of a folder of volumes and label volumes, .nii or .nii.gz; validation on complete volumes.

    The root holds ``images`` and ``masks``, or folders ``train`` and ``val`` that each hold them.

    Args:
        root: the folder; null for built-in ellipsoids, which are written to ``RUN/data``.
        patch: depth, height and width of each patch in voxels.
        batch_size: patches in a batch.
        foreground: share of the patches that are centered on a voxel of another class than 0.
        augmentation: random changes of the patches, see :class:`wavedil.vision.PatchAugmentation`; null for none.
        classes: names of the classes, or their number; null counts them in the label volumes.
        images, masks: names of the folders.
        validation: only without a folder ``val``: a regular expression on the paths, without suffix, of the volumes to
            hold out; null: every tenth of the sorted volumes.
        exclude: volumes or label volumes to leave out, with their partners: a regular expression on paths without
            suffix, or ``@FILE`` with one path per line.
        valid_volumes: held-out volumes in each validation, evenly spaced; null for all.
        built_in_volumes: number of built-in training volumes; a fifth as many validate.
        seed: seed of the patches.
        num_workers: number of worker processes of the data loader.
    """

    @checked
    def __init__(
        self,
        root: PathText | None = None,
        patch: tuple[Count, Count, Count] = (16, 32, 32),
        batch_size: Count = 4,
        foreground: Annotated[float, Range(0, 1)] = 0.5,
        augmentation: PatchAugmentation | None = None,
        classes: list[str] | int | None = None,
        images: str = "images",
        masks: str = "masks",
        validation: str | None = None,
        exclude: str | None = None,
        valid_volumes: Count | None = None,
        built_in_volumes: Count = 40,
        seed: Seed = 0,
        num_workers: Workers = 0,
    ):
        super().__init__(batch_size, seed, num_workers)
        if root is None and classes is not None:
            raise WavedilError(
                f"classes is {shown(classes)}, but the built-in volumes have their own; set root, or leave it out"
            )
        self.root, self.patch, self.foreground, self.named = root, patch, foreground, classes
        self.folders, self.validation, self.exclude = (images, masks), validation, exclude
        self.valid_volumes, self.built_in_volumes, self.augmentation = valid_volumes, built_in_volumes, augmentation

    def prepare_data(self) -> None:
        if self.root is None and not self.ready:
            count = self.built_in_volumes
            ellipsoids.make_ellipsoids(self.built_in_folder(), count, max(1, count // 5))

    def read_data(self) -> str:
        module = self.trainer.lightning_module
        channels, start = getattr(module, "in_channels", 1), getattr(module, "initial_network", None)
        voxels = self.patch[0] * self.patch[1] * self.patch[2]
        self.check_batch_memory(16 * voxels, f"data.patch is {self.patch}")  # volume, labels, scores: no less
        root = self.built_in_folder() if self.root is None else self.root
        train, valid, note = split_volume_pairs(root, *self.folders, self.validation, self.exclude)
        named = list(ellipsoids.CLASSES) if self.root is None else self.named
        if named is None and start is not None:
            named = list(start.classes)
        number = named if isinstance(named, int) or named is None else len(named)
        self.train, self.valid = (VolumeDataset(pairs, number, channels) for pairs in (train, valid))
        with Bar("reading volumes") as bar:
            counts, self.mean, self.std = self.train.statistics(bar.update)
        known = counts[:, :IGNORED]
        if not int(known.sum()):
            raise WavedilError(f"{root}: all voxels of the {len(train)} training volumes are ignored ({IGNORED})")
        if number is None:
            number = int(known.sum(0).nonzero().max()) + 1
            if number < 2:
                raise WavedilError(f"{root}: all voxels are of class 0: expected labels of at least two classes")
            self.valid.num_classes = number
        self.classes = named if isinstance(named, list) else [str(label) for label in range(number)]
        #: Voxels of each class in each training volume, (volumes, num_classes).
        self.counts = known[:, :number]
        choose = getattr(module, "normalization", lambda mean, std: {"mean": mean, "std": std})
        self.train.normalize_with(normalizer(**choose(self.mean, self.std)))
        self.patches = RandomPatches(
            self.train, self.patch, foreground=self.foreground, augmentation=self.augmentation, seed=self.seed
        )
        total = self.counts.sum(0)
        text = describe_classes(self.classes, total.tolist(), int(total.sum()), source=str(root), unit="voxels")
        return f"{note}\n{text}"

    def check_data(self, module: L.LightningModule, progress: Callable[[int, int], None] | None = None) -> DataCheck:
        """Checks all files before training, for ``wavedil check -c RECIPE``."""
        return check_volumes(
            self.root,
            *self.folders,
            classes=self.named or getattr(getattr(module, "initial_network", None), "classes", None),
            channels=getattr(module, "in_channels", 1),
            validation=self.validation,
            exclude=self.exclude,
            progress=progress,
        )

    def data_files(self) -> list[Sequence[Path]]:
        pairs = [*self.train.pairs, *self.valid.pairs]
        return [[pair.image for pair in pairs], [pair.mask for pair in pairs]]

    def train_dataloader(self) -> DataLoader:
        return self.endless_loader(self.patches)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Subset(self.valid, evenly_spaced(len(self.valid), self.valid_volumes or len(self.valid))))

    def preview_volumes(self, num: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """File names, held-out volumes and labels, evenly spaced."""
        for index in evenly_spaced(len(self.valid), num):
            yield self.valid.pairs[index].image.name, *self.valid.read(index)
