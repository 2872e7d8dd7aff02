"""Training of segmentation with several classes per pixel, on folders of images and of masks for each class."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wavedil.core.schema import PathText, checked
from wavedil.progress import Bar
from wavedil.train.segmentation import SegmentationModule
from wavedil.train.segmentation_data import DEFAULT_LABELS, SegmentationData
from wavedil.vision.data import overlaps
from wavedil.vision.data.check_truth import ClassFolders
from wavedil.vision.data.multilabel import (
    MultilabelDataset,
    check_names,
    class_folders,
    find_multilabel_pairs,
    multilabel_root,
)
from wavedil.vision.data.pairs import FolderLayout, split_pairs
from wavedil.vision.data.palette import Byte
from wavedil.vision.data.shares import describe_classes
from wavedil.vision.losses import BinaryCrossEntropy
from wavedil.vision.metrics import finite
from wavedil.vision.models.multilabel import MultilabelSegmenter
from wavedil.vision.models.predictor import DensePredictor
from wavedil.vision.multilabel_evaluation import MultilabelCounts


class MultilabelModule(SegmentationModule):
    """Trains a :class:`wavedil.vision.MultilabelSegmenter`, whose pixels may have several classes.

    Args:
        loss: loss of scores and labels, both ``(batch, num_classes, height, width)``; default
            :class:`wavedil.vision.BinaryCrossEntropy`.
        **options: those of :class:`SegmentationModule`, without ``refinement``.
    """

    data_attributes = ("class_names", "num_outputs", "scale", "counts")

    def __init__(self, loss: nn.Module | None = None, **options: Any):
        super().__init__(refinement=None, loss=BinaryCrossEntropy() if loss is None else loss, **options)

    def build_network(
        self, parts: Sequence[nn.Module | None], shared: dict[str, Any], data: Any
    ) -> MultilabelSegmenter:
        return MultilabelSegmenter(
            *parts[:3],
            num_classes=data.num_outputs,
            classes=data.class_names,
            ignore_label=data.labels["ignore_label"],
            palette=data.labels["palette"],
            **self._build_auxiliary(parts[0], data.num_outputs),
            **shared,
        )

    def on_validation_epoch_start(self) -> None:
        self.found = MultilabelCounts(self.network.num_classes)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        network = self.network
        for scores, labels in zip(self.eval_network(batch["image"]), batch["labels"], strict=True):
            self.found.update(network.decide(network.probabilities(scores, 0)), labels)

    def on_validation_epoch_end(self) -> None:
        self.log("valid/mean_iou", self.found.mean_iou)
        self.log("valid/accuracy", self.found.accuracy)
        self.log("valid/boundary_f1", self.found.boundary.mean)

    def validation_details(self) -> dict[str, Any]:
        """Correct, predicted and labeled pixels, and boundary F1, of each class; and all pixels."""
        counts, boundary = self.found.counts.tolist(), finite(self.found.boundary.scores)
        return {"counts": counts, "known": self.found.known, "boundary_f1": boundary}


class MultilabelData(SegmentationData):
    """Random crops of a folder of images and of masks for each class; validation on complete images.

    The root holds ``images`` and ``masks``, or folders ``train`` and ``val`` that each hold them; ``masks`` holds a
    folder for each class with a mask for each image, in which pixels of the class are not 0.

    Args:
        root: the folder; null for built-in overlapping shapes, which are written to ``RUN/data``.
        classes: names of the folders of the classes; null for all folders in ``masks``, sorted by name. If this and the
            next two have their defaults, those of the module's ``init`` are used.
        ignore_label: value of ignored pixels in masks, e.g. 128; a pixel that is ignored in one mask is ignored for all
            classes. null: none.
        palette: [red, green, blue] of each class in overlays.
        **options: crop, batch_size, scale, images, masks, image_ending, mask_ending, validation, exclude, scales, flip,
            valid_images, built_in_images, max_skipped, seed, num_workers; see :class:`SegmentationData`.
    """

    default_labels = {**DEFAULT_LABELS, "ignore_label": None}

    @checked
    def __init__(
        self,
        root: PathText | None = None,
        classes: list[str] | None = None,
        ignore_label: Byte | None = None,
        palette: list[tuple[int, int, int]] | None = None,
        **options: Any,
    ):
        super().__init__(
            root=root,
            format=None,
            balance=None,
            classes=classes,
            mask_values=None,
            ignore_label=ignore_label,
            palette=palette,
            **options,
        )
        if classes is not None:
            check_names(classes)

    def write_built_in(self, train: int, val: int) -> None:
        overlaps.make_overlaps(self.built_in_folder(), train, val)

    def use_labels_of(self, start: DensePredictor | None) -> None:
        labels = self.labels
        if isinstance(start, MultilabelSegmenter) and labels == self.default_labels:
            labels["classes"], labels["palette"] = list(start.classes), list(start.palette)
            labels["ignore_label"] = start.mask_ignore_label

    def truth_to_check(self) -> ClassFolders:
        return ClassFolders(self.labels["classes"], self.labels["ignore_label"])

    def split(self, root: Any, start: DensePredictor | None) -> tuple[list, list, str]:
        labels = self.labels
        if self.root is None:
            labels |= {"classes": list(overlaps.CLASSES), "ignore_label": None, "palette": list(overlaps.PALETTE)}
        self.use_labels_of(start)
        self.class_names = labels["classes"] or class_folders(multilabel_root(root) / self.layout.masks)
        check_names(self.class_names)

        @cache
        def split(layout: FolderLayout) -> tuple[list, list, str]:
            return split_pairs(root, layout, self.validation, self.exclude)

        train, valid = (
            find_multilabel_pairs(
                lambda layout, part=part: split(layout)[part], self.layout, self.class_names, labels["ignore_label"]
            )
            for part in (0, 1)
        )
        return train, valid, split(replace(self.layout, masks=f"{self.layout.masks}/{self.class_names[0]}"))[2]

    def read_truth(self, root: Any, train: list, valid: list, start: DensePredictor | None) -> str:
        self.num_outputs = len(self.class_names)
        self.train, self.valid = (
            MultilabelDataset(pairs, self.num_outputs, self.scale, self.channels) for pairs in (train, valid)
        )
        with Bar("reading masks") as bar:
            self.counts, known = self.train.count_labels(bar.update)
        counts = self.counts.sum(0).tolist()
        return describe_classes(self.class_names, counts, known, source=str(root), several=True)

    def data_files(self) -> list[Sequence[Path]]:
        pairs = [*self.train.pairs, *self.valid.pairs]
        return [[pair.image for pair in pairs], *([pair.masks[i] for pair in pairs] for i in range(self.num_outputs))]
