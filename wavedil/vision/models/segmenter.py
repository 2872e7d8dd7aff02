"""Semantic segmentation: backbone, head, optional context module and optional refinement."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import torch
from torch import Tensor, nn

from wavedil.core.schema import Range
from wavedil.errors import WavedilError, count_text
from wavedil.vision.data.labels import IGNORED, MAX_CLASSES, Ignored, LabelScheme, Value
from wavedil.vision.data.palette import Color
from wavedil.vision.models.predictor import MEAN, STD, DensePredictor, Mean, Resize, Std
from wavedil.vision.models.upsample import upsample
from wavedil.weights import register

T = TypeVar("T")
Level = Annotated[int, Range(-64, 63)]
LabelCount = Annotated[int, Range(1, MAX_CLASSES)]  # label maps have 8 bits


@register
class Segmenter(DensePredictor):
    """Segmentation network: ``(batch, bands, height, width) in [0, 1] -> (batch, num_classes, height, width)``.

    Images can have any size: the normalized image is padded with zeros (its mean color) at the bottom and on the right
    to a multiple of the backbone's stride. Scores are upsampled bilinearly by the stride and cropped to the image.

    Args:
        backbone: module from image to features: one feature map, or a list from fine to coarse. Attributes
            ``channels``, ``output_stride`` and ``receptive_field`` (None: the full image) describe the last map.
            Optional attribute ``align``, see below.
        head: module from features to scores ``(batch, num_classes, h, w)``; see ``wavedil.vision.models.heads``.
        context: module from scores to scores of the same shape, e.g. :class:`wavedil.vision.ContextModule`; None for
            none.
        refinement: module from ``(uint8 image, scores)`` to scores, both at full resolution and before a softmax, e.g.
            :class:`wavedil.vision.CRFRNN`; None for none. It sees the full image even if the network runs on tiles.
        num_classes: number of classes.
        classes: class names; default ``"0"``, ``"1"``, ...
        mask_values, ignore_label, palette: how mask files encode the classes, and the color of each class in overlays;
            see :class:`wavedil.vision.LabelScheme`.
        scale: images are resized by this factor before they enter the network, in training and in prediction.
        align: pixel alignment of feature-map cells, ``"center"`` or ``"corner"``, see :func:`wavedil.vision.upsample`.
            Default: the backbone's attribute ``align`` if it has one, else ``"center"``.
        auxiliary: head on an earlier feature map of the backbone for deep supervision, as in PSPNet (Zhao et al. 2017,
            arXiv 1612.01105, section 3.3); used only by :meth:`training_scores`, and saved with the model. None for
            none.
        auxiliary_level: which map of the backbone's list it reads: -2 is the last but one, -1 the last, which is the
            only one of a backbone without ``levels``.
        mean, std: mean and standard deviation of each band; the backbone gets (image - mean) / std. Default: those of
            ImageNet for red, green and blue; 0.5 and 0.25 if ``in_channels`` of the backbone is not 3.

    Raises:
        WavedilError: parts that do not fit together.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        context: nn.Module | None = None,
        refinement: nn.Module | None = None,
        *,
        num_classes: LabelCount,
        classes: Sequence[str] | None = None,
        mask_values: Sequence[Value] | None = None,
        ignore_label: Ignored = IGNORED,
        palette: Sequence[Color] | None = None,
        scale: Resize = 1.0,
        align: str | None = None,
        auxiliary: nn.Module | None = None,
        auxiliary_level: Level = -2,
        mean: Mean = MEAN,
        std: Std = STD,
    ):
        names = [str(label) for label in range(num_classes)] if classes is None else classes
        if len(names) != num_classes:
            raise WavedilError(
                f"classes has {count_text(len(names), 'name')}: expected one for each of {num_classes} classes"
            )
        super().__init__(backbone, head, context, refinement, num_classes, scale, align, mean, std)
        self.num_classes = num_classes
        self.auxiliary, self.auxiliary_level = auxiliary, auxiliary_level
        self.label_scheme = LabelScheme(names, mask_values, ignore_label, palette)

    @property
    def classes(self) -> Sequence[str]:
        """Class names."""
        return self.label_scheme.classes

    @property
    def palette(self) -> Sequence[Color]:
        """The color of each class in overlays and label maps."""
        return self.label_scheme.colors

    @property
    def ignore_label(self) -> Ignored:
        """The value or values of ignored pixels in mask files. In tensors the ignore label is always 255."""
        return self.label_scheme.ignore_label

    @staticmethod
    def probabilities(scores: Tensor, axis: int) -> Tensor:
        """Class probabilities from scores, whose classes are along ``axis``."""
        return scores.softmax(axis)

    @staticmethod
    def decide(probabilities: Tensor) -> Tensor:
        """The label of each pixel, uint8 ``(height, width)``, from ``(num_classes, height, width)``."""
        return probabilities.argmax(0).to(torch.uint8)

    def training_scores(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores at every pixel, as :meth:`forward`, and those of the auxiliary head, both of the same shape."""
        x = self._padded(image)
        features = self.backbone(x)
        level = level_of(features if isinstance(features, list | tuple) else [features], self.auxiliary_level)
        auxiliary, stride = self._cropped(self.auxiliary(level), image, x)
        scores = self.upsample_scores(image, *self._cropped(self._scores(features), image, x))
        return scores, upsample(auxiliary, image.shape[2:], stride=stride, align=self.align)


def level_of(levels: Sequence[T], number: int) -> T:
    """The feature map, or its channels, that an auxiliary head reads.

    Raises:
        WavedilError: there is no such map.
    """
    if not -len(levels) <= number < len(levels):
        raise WavedilError(
            f"auxiliary_level is {number}, and the backbone returns {count_text(len(levels), 'feature map')}: expected "
            f"{-len(levels)} to {len(levels) - 1}, or more levels of the backbone"
        )
    return levels[number]
