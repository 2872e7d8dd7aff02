"""Self-attention as context: every cell attends to every other cell."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core import DilatedConv
from wavedil.core.batch_norm import BatchNorm2d
from wavedil.core.schema import Channels, Classes, Stride
from wavedil.vision.models.heads.parts import ConvNormReLU, Features, last_channels, last_map, score_layer
from wavedil.weights import register


@register
class NonLocal(nn.Module):
    """A non-local block between a 3x3 convolution and the scores (Wang et al. 2018, arXiv 1711.07971, section 3).

    The embedded-Gaussian form: x + out(softmax(query . key / sqrt(inner_channels)) value). The division by the square
    root is that of transformers; the paper has none. ``out`` ends in a batch norm of weight 0, so the block starts as
    the identity.

    Args:
        channels: channels of the block.
        inner_channels: channels of queries, keys and values; default half of ``channels``.
        subsample: factor of the max pooling of keys and values. 2 saves three quarters of the cost of the attention,
            which is quadratic in the number of cells.
    """

    receptive_field = None

    def __init__(
        self,
        in_channels: Channels | Sequence[Channels],
        num_classes: Classes,
        channels: Channels = 256,
        *,
        inner_channels: Channels | None = None,
        subsample: Stride = 1,
    ):
        super().__init__()
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        self.reduce = ConvNormReLU(2, last_channels(in_channels), channels)
        self.query = DilatedConv(2, channels, inner, 1)
        self.key = DilatedConv(2, channels, inner, 1)
        self.value = DilatedConv(2, channels, inner, 1)
        self.pool = nn.MaxPool2d(subsample, ceil_mode=True)
        self.out = nn.Sequential(DilatedConv(2, inner, channels, 1, bias=False), BatchNorm2d(channels))
        nn.init.zeros_(self.out[1].weight)
        self.score = score_layer(channels, num_classes)

    def forward(self, features: Features) -> Tensor:
        x = self.reduce(last_map(features))
        pooled = self.pool(x)
        # (batch, inner, height, width) -> (batch, cells, inner)
        query, key, value = (
            layer(source).flatten(2).transpose(1, 2)
            for layer, source in ((self.query, x), (self.key, pooled), (self.value, pooled))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.score(x + self.out(attended.transpose(1, 2).unflatten(2, x.shape[2:])))
