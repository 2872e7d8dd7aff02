"""Dense regression: a value at every pixel, as depth or height, out of the parts that segmentation has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from wavedil.errors import WavedilError
from wavedil.vision.models.predictor import MEAN, STD, DensePredictor
from wavedil.weights import register


@register
class Regressor(DensePredictor):
    """A value at every pixel: ``(batch, 3, height, width) in [0, 1] -> (batch, 1, height, width)``.

    Args:
        backbone, head, context, scale, align, mean, std: as in :class:`wavedil.vision.Segmenter`; the head makes one
            map.
        step: what one gray level of a target image is worth, e.g. 0.001 for depth in metres stored in millimetres.
        center, spread: values are center + spread times the map, so that the network works with numbers near 1.

    Raises:
        WavedilError: parts that do not fit one another, a step or spread that is not above 0.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        context: nn.Module | None = None,
        *,
        step: float = 1.0,
        center: float = 0.0,
        spread: float = 1.0,
        scale: float = 1.0,
        align: str | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        if min(step, spread) <= 0:
            raise WavedilError(f"step is {step} and spread {spread}: expected both above 0")
        super().__init__(backbone, head, context, None, 1, scale, align, mean, std)
        self.step, self.center, self.spread = step, center, spread

    def enlarged(self, image: Tensor, scores: Tensor, stride: int) -> Tensor:
        """Values at every pixel."""
        return self.values(super().enlarged(image, scores, stride))

    def values(self, maps: Tensor) -> Tensor:
        """Of the map that the network makes."""
        return self.center + self.spread * maps.float()

    @staticmethod
    def evaluation() -> Callable[..., Any]:
        """The function behind ``wavedil evaluate``."""
        from wavedil.vision.folder_evaluation import evaluate_regression

        return evaluate_regression

    @staticmethod
    def prediction() -> Callable[..., Any]:
        """The function behind ``wavedil segment``."""
        from wavedil.vision.prediction_files import write_value_maps

        return write_value_maps
