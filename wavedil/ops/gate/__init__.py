"""The gated activation of WaveNet, ``tanh(filter) * sigmoid(gate)`` (van den Oord et al. 2016, eq. 2)."""

from torch import Tensor

from wavedil.errors import WavedilError, one_of
from wavedil.ops.gate import cpu, triton
from wavedil.ops.gate.reference import add_bias
from wavedil.ops.gate.reference import gate as reference

GATE_ORDERS = ("tanh_first", "sigmoid_first")


def gate(h: Tensor, order: str = "tanh_first", bias: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
    """Gated activation of the two halves of the channels of ``h + bias + condition``.

    On a GPU in eager mode, float32, bfloat16 and float16 tensors use one fused Triton kernel, unless they are small. On
    the CPU, float32 and bfloat16 tensors with channels innermost in memory (the layout that
    :func:`wavedil.ops.dilated_conv.dilated_conv` returns for one axis) use one fused numba kernel; others use plain
    PyTorch.

    Args:
        h: ``(batch, 2 * channels, *space)``.
        order: ``"tanh_first"``, as in WaveNet's figure, or ``"sigmoid_first"``, as in DiffWave.
        bias: ``(2 * channels,)``.
        condition: broadcasts to h.

    Returns:
        ``(batch, channels, *space)``.

    Raises:
        WavedilError: an odd number of channels, or an unknown order.
    """
    if order not in GATE_ORDERS:
        raise WavedilError(f"order is {order!r}: expected {one_of(order, GATE_ORDERS)}")
    if h.ndim < 2 or h.shape[1] % 2:
        raise WavedilError(
            f"h has shape {tuple(h.shape)}: expected (batch, 2 * channels, *space) with an even number of channels"
        )
    if triton.supports(h, bias, condition):
        return triton.Gate.apply(h, bias, condition, order)[0]
    h = add_bias(h, bias)
    h = h if condition is None else h + condition
    return cpu.Gate.apply(h, order) if cpu.supports(h) else reference(h, order)
