"""Dense prediction in parts: a backbone, a head that scores its features, context between scores, a refinement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from wavedil.errors import WavedilError
from wavedil.vision.data.labels import IGNORED, MAX_CLASSES, LabelScheme, Value
from wavedil.vision.data.palette import Color
from wavedil.vision.models.predictor import MEAN, STD, DensePredictor
from wavedil.weights import register


@register
class Segmenter(DensePredictor):
    """Scores of classes at every pixel: ``(batch, 3, height, width) in [0, 1] -> (batch, num_classes, height, width)``.

    The normalized image is filled up with zeros, its mean color, at the bottom and on the right to a multiple of the
    backbone's stride, so any size will do. Scores are enlarged bilinearly by the stride and cut off there.

    Args:
        backbone: image to features, one map or a list of maps from fine to coarse; has ``channels``,
            ``output_stride`` and ``receptive_field`` (None for the whole image), of the last map.
        head: features to scores, ``(batch, num_classes, h, w)``; see ``wavedil.vision.models.heads``.
        context: scores to scores at the same resolution, e.g. :class:`wavedil.vision.ContextModule`; None for none.
        refinement: ``(uint8 image, scores)`` to better scores, both at full resolution and before a softmax, e.g.
            :class:`wavedil.vision.CRFRNN`; None for none. It sees the whole image also where the network sees tiles.
        num_classes: of the scores.
        classes: names of the classes; default their numbers.
        mask_values, ignore_label, palette: what masks that go with this model hold, and colors for overlays; see
            :class:`wavedil.vision.LabelScheme`.
        scale: images are resized by it before the network sees them, in training and in prediction.
        align: where a cell sits, ``"center"`` or ``"corner"``; see :func:`wavedil.vision.upsample`. None: where the
            backbone says that its cells sit (its ``align``), else ``"center"``.
        mean, std: of red, green and blue; the network sees (image - mean) / std.

    Raises:
        WavedilError: parts that do not fit one another.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        context: nn.Module | None = None,
        refinement: nn.Module | None = None,
        *,
        num_classes: int,
        classes: Sequence[str] | None = None,
        mask_values: Sequence[Value] | None = None,
        ignore_label: Value | str | None = IGNORED,
        palette: Sequence[Color] | None = None,
        scale: float = 1.0,
        align: str | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        if not 1 <= num_classes <= MAX_CLASSES:
            raise WavedilError(f"num_classes is {num_classes}: expected 1 to {MAX_CLASSES}: label maps have 8 bits")
        names = [str(label) for label in range(num_classes)] if classes is None else classes
        if len(names) != num_classes:
            raise WavedilError(f"classes has {len(names)} names: expected one for each of {num_classes} classes")
        super().__init__(backbone, head, context, refinement, num_classes, scale, align, mean, std)
        self.num_classes = num_classes
        self.labels = LabelScheme(names, mask_values, ignore_label, palette)

    @property
    def classes(self) -> Sequence[str]:
        return self.labels.classes

    @property
    def palette(self) -> Sequence[Color]:
        return self.labels.colors

    @property
    def ignore_label(self) -> Value | str | None:
        """The value in masks of pixels that count nowhere; in tensors it is always 255."""
        return self.labels.ignore_label

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.vision.folder_evaluation import evaluate_segmentation

        return evaluate_segmentation

    @staticmethod
    def prediction() -> Callable[..., Any]:
        """The function behind ``wavedil segment``."""
        from wavedil.vision.prediction_files import write_label_maps

        return write_label_maps
