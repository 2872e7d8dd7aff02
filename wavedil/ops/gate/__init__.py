"""The gate of a WaveNet layer, `tanh(filter) * sigmoid(gate)` (van den Oord et al. 2016, eq. 2)."""

from torch import Tensor

from wavedil.errors import WavedilError
from wavedil.ops.gate import cpu
from wavedil.ops.gate.reference import gate as reference

GATE_ORDERS = ("tanh_first", "sigmoid_first")


def gate(h: Tensor, order: str = "tanh_first") -> Tensor:
    """Gated activation of the two halves of the channels.

    Shapes: `(batch, 2 * channels, *space)` to `(batch, channels, *space)`. Published models differ
    in which half is which: WaveNet's own figure has the tanh first, DiffWave the sigmoid.

    On the CPU float32 and bfloat16 with channels innermost in memory (what
    `wavedil.ops.dilated_conv` returns for sound) run as one fused loop where numba is installed;
    all else runs as plain PyTorch.

    Raises:
        WavedilError: an odd number of channels, or an unknown order.
    """
    if order not in GATE_ORDERS:
        raise WavedilError(f"gate order {order!r} is unknown: take one of {', '.join(GATE_ORDERS)}")
    if h.ndim < 2 or h.shape[1] % 2:
        raise WavedilError(
            f"gate takes (batch, 2 * channels, *space), got shape {tuple(h.shape)}: "
            "the convolution before it must make two channels for each one that leaves"
        )
    return cpu.gate(h, order) if cpu.supports(h) else reference(h, order)
