"""Conv-TasNet's separator (Luo & Mesgarani 2019, arXiv 1809.07454, section II.C): depthwise dilated blocks.

The non-causal network, equal to that of torchaudio's ``models.conv_tasnet``.
"""

from torch import Tensor, nn

from wavedil.core import DilatedConv, Schedule, parse_schedule
from wavedil.core.block import sequential_receptive_field
from wavedil.core.schema import Channels, Dilation, Taps, checked
from wavedil.weights import register

_EPSILON = 1e-8  # of the norms' variance


class SeparatorBlock(nn.Module):
    """Depthwise separable dilated convolution with residual and skip (figure 1C).

    ``(batch, channels, time) -> (x, skip)``, each ``(batch, channels, time)``. Without ``residual``, as in the last
    block, x is the input unchanged.

    ::

        z = norm(prelu(1x1(x)));  z = norm(prelu(depthwise(z)));  x = x + 1x1(z);  skip = 1x1(z)

    Args:
        channels: of input and outputs (B, Sc).
        hidden_channels: of the depthwise convolution (H).
        kernel_size, dilation: of the depthwise convolution (P).
    """

    @checked
    def __init__(
        self,
        channels: Channels,
        hidden_channels: Channels,
        kernel_size: Taps = 3,
        dilation: Dilation = 1,
        *,
        residual: bool = True,
    ):
        super().__init__()
        self.expand = DilatedConv(1, channels, hidden_channels, 1)
        self.conv = DilatedConv(
            1, hidden_channels, hidden_channels, kernel_size, dilation=dilation, groups=hidden_channels
        )
        self.activations = nn.ModuleList([nn.PReLU(), nn.PReLU()])
        # One group: mean and variance over all channels and all time ("global layer normalization").
        self.norms = nn.ModuleList(nn.GroupNorm(1, hidden_channels, eps=_EPSILON) for _ in range(2))
        self.residual = DilatedConv(1, hidden_channels, channels, 1) if residual else None
        self.skip = DilatedConv(1, hidden_channels, channels, 1)

    @property
    def receptive_field(self) -> int:
        """Of the convolutions; the norms see all of the input."""
        return self.conv.receptive_field

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x
        for conv, activation, norm in zip((self.expand, self.conv), self.activations, self.norms, strict=True):
            z = norm(activation(conv(z)))
        return x if self.residual is None else x + self.residual(z), self.skip(z)


@register
class Separator(nn.Module):
    """Computes a mask per source: ``(batch, features, frames) -> (batch, sources, features, frames)`` in (0, 1).

    Args:
        features: encoder channels, which the masks multiply (N).
        sources: number of sources (C).
        channels, hidden_channels: of the blocks (B, H).
        dilations: one per block (X and R).
        kernel_size: of the blocks (P).
    """

    def __init__(
        self,
        features: Channels = 512,
        sources: Channels = 2,
        channels: Channels = 128,
        hidden_channels: Channels = 512,
        dilations: Schedule = "1..128 x3",
        kernel_size: Taps = 3,
    ):
        super().__init__()
        self.dilations, self.sources = parse_schedule(dilations), sources
        self.norm = nn.GroupNorm(1, features, eps=_EPSILON)
        self.input_conv = DilatedConv(1, features, channels, 1)
        last = len(self.dilations) - 1
        self.blocks = nn.ModuleList(
            SeparatorBlock(channels, hidden_channels, kernel_size, dilation, residual=index < last)
            for index, dilation in enumerate(self.dilations)
        )
        self.activation = nn.PReLU()
        self.out = DilatedConv(1, channels, sources * features, 1)

    @property
    def receptive_field(self) -> int:
        """In frames, of the convolutions; the norms see all of the input."""
        return sequential_receptive_field(list(self.blocks), 1)

    def forward(self, mixture: Tensor) -> Tensor:
        x, total = self.input_conv(self.norm(mixture)), 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        masks = self.out(self.activation(total)).sigmoid()
        return masks.unflatten(1, (self.sources, mixture.shape[1]))
