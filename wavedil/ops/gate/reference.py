"""The gated activation in plain PyTorch: the definition for tests."""

import torch
from torch import Tensor


def gate(h: Tensor, order: str = "tanh_first", bias: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
    """``tanh(filter) * sigmoid(gate)`` of the two halves of the channels of ``h + bias + condition``.

    Shapes: ``(batch, 2 * channels, *space) -> (batch, channels, *space)``; bias ``(2 * channels,)``; the condition
    broadcasts to h.
    """
    h = add_bias(h, bias)
    filtered, gated = (h if condition is None else h + condition).chunk(2, dim=1)
    if order == "sigmoid_first":
        filtered, gated = gated, filtered
    return torch.tanh(filtered) * torch.sigmoid(gated)


def add_bias(h: Tensor, bias: Tensor | None) -> Tensor:
    """``h + bias`` in the dtype of h; bias ``(channels,)``."""
    return h if bias is None else h + bias.to(h.dtype).view(-1, *[1] * (h.ndim - 2))
