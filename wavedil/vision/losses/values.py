"""Losses of regression: one value per pixel."""

from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.errors import WavedilError


class SmoothL1(nn.Module):
    """Smooth L1 loss of values ``(batch, 1, height, width)`` and targets ``(batch, height, width)``.

    The mean over the pixels whose target is not NaN.

    Args:
        beta: errors below it contribute error^2 / (2 beta), larger ones ``|error| - beta / 2``. 0 is the L1 loss.
    """

    def __init__(self, beta: float = 0.0):
        super().__init__()
        if beta < 0:
            raise WavedilError(f"beta is {beta}: expected 0 (L1) or a positive error below which the loss is quadratic")
        self.beta = beta

    def forward(self, values: Tensor, targets: Tensor) -> Tensor:
        known = ~targets.isnan()
        if not known.any():
            return values.sum() * 0
        return F.smooth_l1_loss(values[:, 0].float()[known], targets[known], beta=self.beta)
