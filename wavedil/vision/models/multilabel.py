"""Segmentation with several classes per pixel: each class has a probability of its own."""

from collections.abc import Sequence

from torch import Tensor, nn

from wavedil.vision.data.multilabel import ClassCount, check_names
from wavedil.vision.data.palette import Byte, Color, default_palette
from wavedil.vision.models.predictor import MEAN, STD, Mean, Resize, Std
from wavedil.vision.models.segmenter import Level, Segmenter
from wavedil.weights import register

THRESHOLD = 0.5


@register
class MultilabelSegmenter(Segmenter):
    """A :class:`Segmenter` whose pixels may have several classes, or none.

    The probability of a class is the sigmoid of its score, and a pixel has the class if it is at least 0.5.
    :func:`wavedil.vision.predict` returns a mask for each class, bool ``(num_classes, height, width)``. There is no
    refinement: a CRF is for one class per pixel.

    Args:
        backbone, head, context, num_classes, scale, align, auxiliary, auxiliary_level, mean, std: as in
            :class:`Segmenter`.
        classes: class names, which are names of folders of masks; default ``"0"``, ``"1"``, ...
        ignore_label: value of ignored pixels in mask files; None for none.
        palette: [red, green, blue] of each class in overlays; default the colors of Pascal VOC.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        context: nn.Module | None = None,
        *,
        num_classes: ClassCount,
        classes: Sequence[str] | None = None,
        ignore_label: Byte | None = None,
        palette: Sequence[Color] | None = None,
        scale: Resize = 1.0,
        align: str | None = None,
        auxiliary: nn.Module | None = None,
        auxiliary_level: Level = -2,
        mean: Mean = MEAN,
        std: Std = STD,
    ):
        super().__init__(
            backbone,
            head,
            context,
            num_classes=num_classes,
            classes=classes,
            ignore_label=None,
            palette=palette if palette is not None else default_palette(num_classes + 1)[1:],
            scale=scale,
            align=align,
            auxiliary=auxiliary,
            auxiliary_level=auxiliary_level,
            mean=mean,
            std=std,
        )
        check_names(self.classes)
        self.mask_ignore_label = ignore_label

    @staticmethod
    def probabilities(scores: Tensor, axis: int) -> Tensor:
        return scores.sigmoid()

    @staticmethod
    def decide(probabilities: Tensor) -> Tensor:
        return probabilities >= THRESHOLD
