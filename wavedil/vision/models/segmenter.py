"""Semantic segmentation: backbone, head, optional context module and optional refinement."""

from collections.abc import Sequence
from typing import Annotated

from torch import nn

from wavedil.core.schema import Range
from wavedil.errors import WavedilError
from wavedil.vision.data.labels import IGNORED, MAX_CLASSES, Ignored, LabelScheme, Value
from wavedil.vision.data.palette import Color
from wavedil.vision.models.predictor import MEAN, STD, DensePredictor, Mean, Resize, Std
from wavedil.weights import register

LabelCount = Annotated[int, Range(1, MAX_CLASSES)]  # label maps have 8 bits


@register
class Segmenter(DensePredictor):
    """Segmentation network: ``(batch, 3, height, width) in [0, 1] -> (batch, num_classes, height, width)``.

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
        mean, std: mean and standard deviation of red, green and blue; the backbone gets (image - mean) / std.

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
        mean: Mean = MEAN,
        std: Std = STD,
    ):
        names = [str(label) for label in range(num_classes)] if classes is None else classes
        if len(names) != num_classes:
            raise WavedilError(f"classes has {len(names)} names: expected one for each of {num_classes} classes")
        super().__init__(backbone, head, context, refinement, num_classes, scale, align, mean, std)
        self.num_classes = num_classes
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
