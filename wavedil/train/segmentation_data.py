"""Folders of images and masks as training data."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from wavedil.errors import WavedilError
from wavedil.train.order import EveryFrom
from wavedil.vision.data import shapes
from wavedil.vision.data.dataset import RandomImageCrops, SegmentationDataset, find_label_scheme
from wavedil.vision.data.labels import IGNORED
from wavedil.vision.data.pairs import Layout, split_pairs
from wavedil.vision.models.predictor import DensePredictor

NOT_GIVEN = {"classes": None, "mask_values": None, "ignore_label": IGNORED, "palette": None}


class SegmentationData(L.LightningDataModule):
    """Random crops of a folder of images and masks; validation on whole images.

    The root holds ``images`` and ``masks``, or folders ``train`` and ``val`` that each hold them.

    Args:
        root: the folder; null for the built-in shapes, which are written to ``RUN/data``.
        crop: height and width of each crop, in pixels after ``scale``.
        batch_size: crops in a batch.
        scale: images and masks are resized by it; it becomes the model's own. null: that of the model that training
            starts from, else 1.
        classes: names of the classes, or their number; null counts them in the masks. Where none of this and the next
            three is given, they are those of the model that training starts from.
        mask_values: what stands for each class in the masks: gray values, or colors [red, green, blue]; null: the
            class's number.
        ignore_label: the value in masks of pixels that count nowhere; ``rest``: all that mask_values does not list.
        palette: [red, green, blue] of each class in overlays and label maps.
        images, masks, image_ending, mask_ending: names of the folders, and how stems end; see
            :class:`wavedil.vision.data.pairs.Layout`.
        validation: where there is no folder ``val``: null holds out every tenth of the sorted images; or a regular
            expression on paths, without suffix.
        scales: least and greatest factor at which a crop shows its image.
        flip: mirror every other crop.
        valid_images: how many of the held-out images each validation sees, evenly spread; null for all.
        built_in_images: number of built-in images to train on; a tenth as many validate.
        seed: of the crops.
        workers: processes that read crops.
    """

    def __init__(
        self,
        root: str | None = None,
        crop: tuple[int, int] = (96, 96),
        batch_size: int = 8,
        scale: float | None = None,
        classes: list[str] | int | None = None,
        mask_values: list[int] | list[tuple[int, int, int]] | None = None,
        ignore_label: int | tuple[int, int, int] | str | None = IGNORED,
        palette: list[tuple[int, int, int]] | None = None,
        images: str = "images",
        masks: str = "masks",
        image_ending: str = "",
        mask_ending: str = "",
        validation: str | None = None,
        scales: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        valid_images: int | None = None,
        built_in_images: int = 400,
        seed: int = 0,
        workers: int = 0,
    ):
        super().__init__()
        for name, value in (("batch_size", batch_size), ("valid_images", valid_images)):
            if value is not None and value < 1:
                raise WavedilError(f"{name} is {value}: expected at least 1")
        self.root, self.crop, self.batch_size, self.scale = root, crop, batch_size, scale
        self.labels = {"classes": classes, "mask_values": mask_values, "ignore_label": ignore_label, "palette": palette}
        self.layout = Layout(images, masks, image_ending, mask_ending)
        self.validation, self.scales, self.flip, self.valid_images = validation, scales, flip, valid_images
        self.built_in_images, self.seed, self.workers = built_in_images, seed, workers

    def open(self, folder: Path, start: DensePredictor | None = None) -> None:
        """Finds the files, makes the built-in ones in ``folder``, and counts the labels.

        ``start`` is the model that training starts from.
        """
        root = self.root
        self.take_scale(start)
        if start is not None and self.labels == NOT_GIVEN:
            own = start.label_scheme
            self.labels = {name: getattr(own, name) for name in NOT_GIVEN}
        if root is None:
            root = shapes.make_shapes(folder / "data", self.built_in_images, max(1, self.built_in_images // 10))
            self.labels |= {"classes": list(shapes.CLASSES), "palette": list(shapes.PALETTE)}
        train, valid, note = split_pairs(root, self.layout, self.validation)
        self.scheme = find_label_scheme([*train, *valid], **self.labels)
        self.maps = len(self.scheme.classes)
        self.train, self.valid = (SegmentationDataset(pairs, self.scheme, self.scale) for pairs in (train, valid))
        self.crops = RandomImageCrops(self.train, self.crop, scales=self.scales, flip=self.flip, seed=self.seed)
        tty = sys.stderr.isatty()

        def progress(done: int) -> None:
            if tty:
                print(f"\rreading masks {done} / {len(train)}", end="", file=sys.stderr, flush=True)

        #: Pixels of each class in each training image, (images, num_classes).
        self.counts: Tensor = self.train.count_labels(progress)
        total = int(self.counts.sum())
        if not total:
            raise WavedilError(f"{root}: no pixel of the {len(train)} training masks counts: see ignore_label")
        shares = (self.counts.sum(0) / total * 100).tolist()
        names = ", ".join(f"{name} {share:.1f} %" for name, share in zip(self.scheme.classes, shares, strict=True))
        self.note = f"{chr(13) if tty else ''}{note}\n{len(shares)} classes, by their share of pixels: {names}"

    def take_scale(self, start: DensePredictor | None) -> None:
        if self.scale is None:
            self.scale = 1.0 if start is None else start.scale

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.crops,
            batch_size=self.batch_size,
            sampler=EveryFrom.unseen(self.trainer, self.batch_size),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Subset(self.valid, self.spread(self.valid_images or len(self.valid))))

    def spread(self, num: int) -> list[int]:
        """So many of the held-out images, evenly over all."""
        num = min(num, len(self.valid))
        return [i * len(self.valid) // num for i in range(num)]
