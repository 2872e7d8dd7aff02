"""Data of dense prediction: folders of images and masks."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from wavedil.core.schema import PathText, checked
from wavedil.data_check import DataCheck
from wavedil.errors import WavedilError, shown
from wavedil.progress import Bar
from wavedil.train.data import Count, Factor, OptionalCount, Seed, TrainingData, Workers, evenly_spaced
from wavedil.vision.data import shapes
from wavedil.vision.data.augmentation import ClassBalance
from wavedil.vision.data.check import check_images
from wavedil.vision.data.check_truth import ClassMasks, MaskValues, Truth
from wavedil.vision.data.dataset import SegmentationDataset, find_label_scheme, known_scheme
from wavedil.vision.data.formats import ImageFormat
from wavedil.vision.data.image_crops import RandomImageCrops
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.pairs import FolderLayout, split_pairs
from wavedil.vision.data.shares import describe_classes
from wavedil.vision.models.predictor import DensePredictor

DEFAULT_LABELS = {"classes": None, "mask_values": None, "ignore_label": IGNORED, "palette": None}


class SegmentationData(TrainingData):
    """Random crops of a folder of images and masks; validation on complete images.

    The root holds ``images`` and ``masks``, or folders ``train`` and ``val`` that each hold them; or it has another
    format, see ``format``.

    Args:
        root: the folder; null for built-in shapes, which are written to ``RUN/data``.
        format: a published format of images and masks, which has its own sets and classes, e.g.
            :class:`wavedil.vision.PascalVOC`; null for folders of images and masks.
        crop: height and width of each crop, in pixels after ``scale``.
        batch_size: crops in a batch.
        scale: factor by which images and masks are resized, in prediction as well; null: that of the module's ``init``,
            else 1.
        classes: names of the classes, or their number; null counts them in the masks. If this and the next three have
            their defaults, those of the module's ``init`` are used.
        mask_values: value of each class in the masks: gray values, or colors [red, green, blue]; null: 0, 1, 2 ...
        ignore_label: value of ignored pixels in the masks, or a list of values; ``rest``: all values that are not in
            mask_values.
        palette: [red, green, blue] of each class in overlays and label maps.
        images, masks, image_ending, mask_ending: names of the folders, and endings of the file names' stems; see
            :class:`wavedil.vision.data.pairs.FolderLayout`.
        validation: only without a folder ``val``: a regular expression on the paths, without suffix, of the images to
            hold out; null: every tenth of the sorted images.
        exclude: images or masks to leave out, with their partners: a regular expression on paths without suffix, or
            ``@FILE`` with one path per line, relative to the folder of FILE, as ``wavedil check DATA --list FILE``
            writes it.
        scales: minimum and maximum of the random scale of a crop.
        flip: mirror half of the crops horizontally.
        balance: chooses some of the crops for rare classes, see :class:`wavedil.vision.ClassBalance`; null for none.
        transforms: transforms of ``torchvision.transforms.v2`` for each crop and its mask, in order, each with
            class_path and init_args. Masks get the nearest pixel, and are ignored where a transform fills them. Their
            random numbers depend on the seed and the number of the crop alone. Null for none.
        valid_images: held-out images in each validation, evenly spaced; null for all.
        built_in_images: number of built-in training images; a tenth as many validate.
        max_skipped: maximum number of training images that may become unreadable during training. Each is logged, and
            its crops are replaced. With 0 the first one ends training. In validation it is always an error.
        seed: seed of the crops.
        num_workers: number of worker processes of the data loader.
    """

    #: Values of the arguments about classes that are replaced by those of the module's ``init``.
    default_labels = DEFAULT_LABELS

    @checked
    def __init__(
        self,
        root: PathText | None = None,
        format: ImageFormat | None = None,
        crop: tuple[Count, Count] = (96, 96),
        batch_size: Count = 8,
        scale: Factor | None = None,
        classes: list[str] | int | None = None,
        mask_values: list[int] | list[tuple[int, int, int]] | None = None,
        ignore_label: int | tuple[int, int, int] | list[int] | list[tuple[int, int, int]] | str | None = IGNORED,
        palette: list[tuple[int, int, int]] | None = None,
        images: str = "images",
        masks: str = "masks",
        image_ending: str = "",
        mask_ending: str = "",
        validation: str | None = None,
        exclude: str | None = None,
        scales: tuple[Factor, Factor] = (0.5, 2.0),
        flip: bool = True,
        balance: ClassBalance | None = None,
        transforms: list[nn.Module] | None = None,
        valid_images: Count | None = None,
        built_in_images: Count = 400,
        max_skipped: OptionalCount = 0,
        seed: Seed = 0,
        num_workers: Workers = 0,
    ):
        super().__init__(batch_size, seed, num_workers)
        self.root, self.format, self.crop, self.scale = root, format, crop, scale
        self.labels = {"classes": classes, "mask_values": mask_values, "ignore_label": ignore_label, "palette": palette}
        self.layout = FolderLayout(images, masks, image_ending, mask_ending)
        if format is not None:
            self._check_format()
        elif root is None:
            self._check_set_by("the built-in images have their own; set root, or", self.labels)
        self.validation, self.exclude, self.valid_images = validation, exclude, valid_images
        self.scales, self.flip, self.balance, self.transforms = scales, flip, balance, transforms
        self.built_in_images, self.max_skipped = built_in_images, max_skipped

    def _check_format(self) -> None:
        """Raises WavedilError for arguments that say what the format says."""
        name = type(self.format).__name__
        if self.root is None:
            raise WavedilError(f"format is {name}, but root is null: expected the folder of the data set")
        self._check_set_by(f"the format {name} sets it:", self.labels | vars(self.layout))

    def _check_set_by(self, source: str, values: dict[str, Any]) -> None:
        defaults = self.default_labels | vars(FolderLayout())
        for key, value in values.items():
            if value != defaults[key]:
                raise WavedilError(f"{key} is {shown(value)}, but {source} leave it out")

    def prepare_data(self) -> None:
        if self.format is not None:
            self.format.prepare(Path(self.root))
        if self.root is None and not self.ready:
            self.write_built_in(self.built_in_images, max(1, self.built_in_images // 10))

    def write_built_in(self, train: int, val: int) -> None:
        shapes.make_shapes(self.built_in_folder(), train, val)

    def read_data(self) -> str:
        start = getattr(self.trainer.lightning_module, "initial_network", None)
        if self.scale is None:
            self.scale = 1.0 if start is None else start.scale
        self.channels = getattr(self.trainer.lightning_module, "in_channels", 3)
        self.check_batch_memory(32 * math.prod(self.crop), f"data.crop is {self.crop}")  # image, mask, scores: no less
        root = self.built_in_folder() if self.root is None else self.root
        train, valid, note = self.split(root, start)
        labels = self.read_truth(root, train, valid, start)
        if self.balance is not None:
            self.balance.set_counts(self.counts, self.scheme.classes)
        self.crops = RandomImageCrops(
            self.train,
            self.crop,
            scales=self.scales,
            flip=self.flip,
            balance=self.balance,
            transforms=self.transforms,
            seed=self.seed,
            max_skipped=self.max_skipped,
        )
        names = ", ".join(type(each).__name__ for each in self.transforms or ())
        return f"{note}\n{labels}" + (f"\ntransforms: {names}" if names else "")

    def split(self, root: Any, start: DensePredictor | None) -> tuple[list, list, str]:
        """Pairs of files for training and for validation, and a line about the split; arguments as below."""
        if self.format is None:
            return split_pairs(root, self.layout, self.validation, self.exclude)
        return self.format.split(root, self.validation, self.exclude)

    def use_labels_of(self, start: DensePredictor | None) -> None:
        """Replaces classes that are not set by those of the module's ``init``."""
        if start is not None and self.labels == self.default_labels:
            self.labels = {name: getattr(start.label_scheme, name) for name in DEFAULT_LABELS}

    def check_data(self, module: L.LightningModule, progress: Callable[[int, int], None] | None = None) -> DataCheck:
        """Checks all files before training, for ``wavedil check -c RECIPE``."""
        self.use_labels_of(getattr(module, "initial_network", None))
        return check_images(
            self.root,
            self.layout,
            truth=self.truth_to_check(),
            format=self.format,
            channels=getattr(module, "in_channels", 3),
            validation=self.validation,
            exclude=self.exclude,
            progress=progress,
        )

    def truth_to_check(self) -> Truth:
        """What the masks are, for a check of folders."""
        scheme = known_scheme(**self.labels)
        if scheme is None:
            return MaskValues(self.labels["ignore_label"], self.labels["palette"])
        return ClassMasks(scheme)

    def data_files(self) -> list[Sequence[Path]]:
        pairs = [*self.train.pairs, *self.valid.pairs]
        return [[pair.image for pair in pairs], list(dict.fromkeys(pair.mask for pair in pairs))]

    def read_truth(self, root: Any, train: list, valid: list, start: DensePredictor | None) -> str:
        """Sets ``train``, ``valid`` and the module's ``data_attributes``; returns a line about the labels.

        Args:
            root: folder of the data, for messages.
            train, valid: pairs of files.
            start: the model of the module's ``init``.
        """
        self.use_labels_of(start)
        if self.root is None:
            self.labels |= {"classes": list(shapes.CLASSES), "palette": list(shapes.PALETTE)}
        if self.format is None:
            self.scheme = find_label_scheme([*train, *valid], **self.labels)
        else:
            self.scheme = self.format.label_scheme(Path(root))
        self.num_outputs = len(self.scheme.classes)
        self.train, self.valid = (
            SegmentationDataset(pairs, self.scheme, self.scale, self.channels) for pairs in (train, valid)
        )
        with Bar("reading masks") as bar:
            #: Pixels of each class in each training image, (images, num_classes).
            self.counts: Tensor = self.train.count_labels(bar.update)
        total = self.counts.sum(0)
        text = describe_classes(self.scheme.classes, total.tolist(), int(total.sum()), source=str(root))
        ignored = f"\nignored values: {shown(self.scheme.ignore_label)}" if self.scheme.ignore_label is not None else ""
        return text + ignored

    def train_dataloader(self) -> DataLoader:
        return self.endless_loader(self.crops)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Subset(self.valid, evenly_spaced(len(self.valid), self.valid_images or len(self.valid))))

    def preview_images(self, num: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """``num`` held-out images ``(height, width, channels)`` with their labels or targets, evenly spaced."""
        return [self.valid.read(index) for index in evenly_spaced(len(self.valid), num)]

    def preview_names(self, num: int) -> list[str]:
        """File names of :meth:`preview_images`."""
        return [self.valid.pairs[index].image.name for index in evenly_spaced(len(self.valid), num)]
