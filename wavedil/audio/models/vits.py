"""The WaveNet of VITS and WaveGlow: the network inside their flows and posterior encoders."""

from __future__ import annotations

from torch import Tensor, nn

from wavedil.core import DilatedStack
from wavedil.errors import WavedilError
from wavedil.weights import register


@register
class WN(nn.Module):
    """Non-causal gated stack ``(batch, channels, time) -> (batch, channels, time)``: the sum of all layers' skips.

    WaveGlow's (Prenger et al. 2018, arXiv 1811.00002, section 2.1), as VITS has it (Kim et al. 2021, arXiv 2106.06103,
    appendix B): the last layer gives a skip alone.

    Args:
        channels: in, out and inside.
        kernel_size: odd.
        dilation_rate: layer i has dilation ``dilation_rate ** i``; VITS has 1.
        layers: their number.
        condition_channels: of a speaker or other features; 0 for none.
        weight_norm: normalize all weights, as VITS does in training.

    ``forward(x, mask=None, condition=None)``: the mask ``(batch, 1, time)`` is 0 beyond the end of shorter clips and is
    applied to the residual signal after each layer and to the output; the condition is ``(batch, condition_channels,
    time)``, or ``(…, 1)`` for one that does not change.
    """

    def __init__(
        self,
        channels: int = 192,
        kernel_size: int = 5,
        dilation_rate: int = 1,
        layers: int = 16,
        *,
        condition_channels: int = 0,
        weight_norm: bool = False,
    ):
        super().__init__()
        if not isinstance(kernel_size, int) or kernel_size % 2 == 0:
            raise WavedilError(f"kernel_size is {kernel_size!r}: expected an odd number, so that there is a middle")
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
