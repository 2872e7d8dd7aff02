"""The gated activation in plain PyTorch: the definition for tests."""

import torch
from torch import Tensor


def gate(h: Tensor, order: str = "tanh_first") -> Tensor:
    """``tanh(filter) * sigmoid(gate)`` of the two halves of the channels.

    Shapes: ``(batch, 2 * channels, *space) -> (batch, channels, *space)``.
    """
    filtered, gated = h.chunk(2, dim=1)
    if order == "sigmoid_first":
        filtered, gated = gated, filtered
    return torch.tanh(filtered) * torch.sigmoid(gated)
