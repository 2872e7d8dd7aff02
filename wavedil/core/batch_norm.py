"""Batch norm that also takes a batch of one value per channel in training."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class _OneValue(_BatchNorm):
    """Uses the running statistics for inputs with one value per channel, in training too.

    A batch of one image after image pooling has one value per channel. Its variance is undefined and torch raises.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class BatchNorm1d(_OneValue, nn.BatchNorm1d):
    """``(batch, channels, time)``."""


class BatchNorm2d(_OneValue, nn.BatchNorm2d):
    """``(batch, channels, height, width)``."""


class BatchNorm3d(_OneValue, nn.BatchNorm3d):
    """``(batch, channels, depth, height, width)``."""


BATCH_NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
