"""WN, the WaveNet inside the flows and posterior encoders of VITS and WaveGlow."""

from torch import Tensor, nn

from wavedil.core import DilatedStack
from wavedil.core.schema import Channels, Layers, OptionalChannels, Stride, Taps
from wavedil.errors import WavedilError
from wavedil.weights import register


@register
class WN(nn.Module):
    """Non-causal gated stack; the output is the sum of all layers' skips.

    Introduced in WaveGlow (Prenger et al. 2018, arXiv 1811.00002, section 2.1); this is the form in VITS (Kim et al.
    2021, arXiv 2106.06103, appendix B), whose last layer has no residual.

    ``forward(x, mask=None, condition=None)``: ``(batch, channels, time) -> (batch, channels, time)``. The mask
    ``(batch, 1, time)`` is 0 after the end of shorter clips; it multiplies the residual signal after each layer and the
    output. The condition is ``(batch, condition_channels, time)``, or ``(…, 1)`` if it is constant in time.

    Args:
        channels: of input, output and residual.
        kernel_size: odd.
        dilation_rate: layer i has dilation ``dilation_rate ** i``; VITS uses 1.
        layers: number of layers.
        condition_channels: of a speaker embedding or other features; 0 for none.
        weight_norm: normalize all weights, as VITS does in training.
    """

    def __init__(
        self,
        channels: Channels = 192,
        kernel_size: Taps = 5,
        dilation_rate: Stride = 1,
        layers: Layers = 16,
        *,
        condition_channels: OptionalChannels = 0,
        weight_norm: bool = False,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise WavedilError(f"kernel_size is {kernel_size!r}: expected an odd number, for centered convolutions")
        self.stack = DilatedStack(
            ndim=1,
            channels=channels,
            dilations=[dilation_rate**layer for layer in range(layers)],
            kernel_size=kernel_size,
            skip_channels=channels,
            condition_channels=condition_channels,
            weight_norm=weight_norm,
        )

    @property
    def receptive_field(self) -> int:
        return self.stack.receptive_field

    def forward(self, x: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        if mask is None:
            return self.stack(x, condition)
        skips = 0
        for layer in self.stack.layers:
            x, skip = layer(x, condition)
            x, skips = x * mask, skips + skip
        return skips * mask
