"""Reflection padding of any width."""

from collections.abc import Sequence

import torch
from torch import Tensor


def reflect(x: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
    """Pads each space axis by reflection that does not repeat the edge.

    ``(batch, channels, *space) -> (batch, channels, *space + before + after)``. ``torch.nn.functional.pad`` raises if
    the padding is as wide as the axis; here the reflection then continues back and forth, as ``BORDER_REFLECT_101`` of
    OpenCV.

    Args:
        pads: ``(before, after)`` for each space axis.
    """
    for axis, (size, (before, after)) in enumerate(zip(x.shape[2:], pads, strict=True), 2):
        if before or after:
            period = max(2 * (size - 1), 1)  # an axis of size 1 repeats its only position
            position = torch.arange(-before, size + after, device=x.device) % period
            x = x.index_select(axis, torch.minimum(position, period - position))
    return x
