"""Losses of regression: one value per pixel."""

from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError


class SmoothL1(nn.Module):
    """Smooth L1 loss of values ``(batch, 1, height, width)`` and targets ``(batch, height, width)``.

    The mean over the pixels whose target is not NaN. Raises WavedilError for other shapes, and for infinite targets.

    Args:
        beta: errors below it contribute error^2 / (2 beta), larger ones ``|error| - beta / 2``. 0 is the L1 loss.
    """

    @checked
    def __init__(self, beta: Annotated[float, Range(0, 1e9)] = 0.0):
        super().__init__()
        self.beta = beta

    def forward(self, values: Tensor, targets: Tensor) -> Tensor:
        if values.shape[1] != 1 or targets.shape != values[:, 0].shape:
            raise WavedilError(
                f"targets have shape {tuple(targets.shape)} and values {tuple(values.shape)}: expected (batch, *space) "
                "and (batch, 1, *space)"
            )
        if targets.isinf().any():
            raise WavedilError("targets have infinite values: expected numbers, and NaN where they are unknown")
        known = ~targets.isnan()
        if not known.any():
            return values.sum() * 0
        return F.smooth_l1_loss(values[:, 0].float()[known], targets[known], beta=self.beta)
