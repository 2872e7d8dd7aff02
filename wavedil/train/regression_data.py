"""Folders of images and targets as training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wavedil.errors import WavedilError
from wavedil.train.segmentation_data import SegmentationData
from wavedil.vision.data import spheres
from wavedil.vision.data.dataset import RandomImageCrops, RegressionDataset
from wavedil.vision.data.pairs import split_pairs
from wavedil.vision.models.predictor import DensePredictor


class RegressionData(SegmentationData):
    """Random crops of a folder of images and targets; validation on whole images.

    The root holds ``images`` and ``targets``, or folders ``train`` and ``val`` that each hold them. A target is a gray
    image of 8 or 16 bits or a .npy of (height, width); what is 0 or NaN there is unknown and counts nowhere.

    Args:
        root: the folder; null for the built-in spheres and their distances, which are written to ``RUN/data``.
        step: what a gray level of a target image is worth, e.g. 0.001 for millimetres to metres.
        targets, target_ending: the targets' folder, and how their stems end.
        scales: least and greatest factor at which a crop shows its image; its values stay what they are.
        crop, batch_size, scale, images, image_ending, validation, flip, valid_images, built_in_images, seed, workers:
            as for :class:`SegmentationData`.
    """

    def __init__(
        self,
        step: float = 1.0,
        targets: str = "targets",
        target_ending: str = "",
        scales: tuple[float, float] = (1.0, 1.0),
        built_in_images: int = 300,
        **options: Any,
    ):
        super().__init__(
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
        self.step = step

    def open(self, folder: Path, start: DensePredictor | None = None) -> None:
        """Finds the files, makes the built-in ones in ``folder``, and takes the targets' mean and deviation."""
        root = self.root
        self.take_scale(start)
        if root is None:
            root = spheres.make_spheres(folder / "data", self.built_in_images, max(1, self.built_in_images // 10))
            self.step = spheres.STEP
        train, valid, note = split_pairs(root, self.layout, self.validation)
        self.train, self.valid = (RegressionDataset(pairs, self.step, self.scale) for pairs in (train, valid))
        self.crops = RandomImageCrops(self.train, self.crop, scales=self.scales, flip=self.flip, seed=self.seed)
        self.maps = 1
        known, self.center, deviation = self.train.target_statistics()
        if not known:
            raise WavedilError(f"{root}: no pixel of the {len(train)} training targets is known: all are 0 or NaN")
        self.deviation = deviation or 1.0  # of targets that are all the same
        self.note = f"{note}\n{known:,} pixels have a value: mean {self.center:.4g}, deviation {deviation:.4g}"
