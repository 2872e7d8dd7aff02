"""The gated activation of WaveNet, ``tanh(filter) * sigmoid(gate)`` (van den Oord et al. 2016, eq. 2)."""

from torch import Tensor

from wavedil.errors import WavedilError
from wavedil.ops.gate import cpu
from wavedil.ops.gate.reference import gate as reference

GATE_ORDERS = ("tanh_first", "sigmoid_first")


def gate(h: Tensor, order: str = "tanh_first") -> Tensor:
    """Gated activation of the two halves of the channels.

    On the CPU, float32 and bfloat16 tensors with channels innermost in memory (the layout that
    :func:`wavedil.ops.dilated_conv.dilated_conv` returns for one axis) use one fused numba kernel; others use plain
    PyTorch.

    Args:
        h: ``(batch, 2 * channels, *space)``.
        order: ``"tanh_first"``, as in WaveNet's figure, or ``"sigmoid_first"``, as in DiffWave.

    Returns:
        ``(batch, channels, *space)``.

    Raises:
        WavedilError: an odd number of channels, or an unknown order.
    """
    if order not in GATE_ORDERS:
        raise WavedilError(f"order is {order!r}: expected one of {', '.join(GATE_ORDERS)}")
    if h.ndim < 2 or h.shape[1] % 2:
        raise WavedilError(
            f"h has shape {tuple(h.shape)}: expected (batch, 2 * channels, *space) with an even number of channels"
        )
    return cpu.Gate.apply(h, order) if cpu.supports(h) else reference(h, order)
