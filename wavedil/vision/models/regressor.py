"""Dense regression: one value per pixel, such as depth or height."""

from torch import Tensor, nn

from wavedil.core.schema import Positive, Scale
from wavedil.vision.models.predictor import MEAN, STD, DensePredictor, Mean, Resize, Std
from wavedil.weights import register


@register
class Regressor(DensePredictor):
    """Dense regression network: ``(batch, bands, height, width) in [0, 1] -> (batch, 1, height, width)``.

    Args:
        backbone, head, context, scale, align, mean, std: as in :class:`wavedil.vision.Segmenter`; the head has one
            output channel.
        step: value of one gray level of a target image, e.g. 0.001 for depth in meters stored in millimeters.
        target_mean, target_std: values are target_mean + target_std * (output of the network), so the network computes
            numbers of size about 1.

    Raises:
        WavedilError: parts that do not fit together, or a step or target_std of 0 or less.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        context: nn.Module | None = None,
        *,
        step: Positive = 1.0,
        target_mean: Scale = 0.0,
        target_std: Positive = 1.0,
        scale: Resize = 1.0,
        align: str | None = None,
        mean: Mean = MEAN,
        std: Std = STD,
    ):
        super().__init__(backbone, head, context, None, 1, scale, align, mean, std)
        self.step, self.target_mean, self.target_std = step, target_mean, target_std

    def forward(self, image: Tensor) -> Tensor:
        return self.to_values(super().forward(image))

    def to_values(self, output: Tensor) -> Tensor:
        """Values in the unit of the targets, float32, from the output of the network."""
        return self.target_mean + self.target_std * output.float()
