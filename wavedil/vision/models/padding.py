"""Reflection around a map's edges, as wide as it takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def reflect(x: Tensor, pads: Sequence[tuple[int, int]]) -> Tensor:
    """Positions added ``(before, after)`` on each space axis by reflection that does not repeat the edge.

    ``(batch, channels, *space) -> (batch, channels, *space + before + after)``. Where ``torch.nn.functional.pad``
    refuses pads as wide as the axis, the reflection goes on: back and forth, as OpenCV's ``BORDER_REFLECT_101`` does.
    """
    for axis, (size, (before, after)) in enumerate(zip(x.shape[2:], pads, strict=True), 2):
        if before or after:
            period = max(2 * (size - 1), 1)  # an axis of one position repeats it
            place = torch.arange(-before, size + after, device=x.device) % period
            x = x.index_select(axis, torch.minimum(place, period - place))
    return x
