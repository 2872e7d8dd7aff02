"""Scores of an image tile by tile, the same as of the whole.

A score looks at the pixels within its receptive field. So a tile that is cut out with half of the field around it
gives, for its own pixels, the scores that the whole image gives; at the image's own edges nothing is added, and the
layers' padding does there what it does in the whole (Yu & Koltun's released code tiles with reflection instead:
fyu/dilation, predict.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wavedil.errors import WavedilError
from wavedil.vision.models.predictor import DensePredictor


def margin(model: DensePredictor) -> int:
    """Pixels to cut out around a tile on each side: half the receptive field, rounded up to the stride.

    Raises:
        WavedilError: scores look at the whole image.
    """
    if model.receptive_field is None:
        raise WavedilError(
            "the scores of this model look at the whole image (image pooling or the like), so tiles would change them: "
            "leave tile out, or make the image smaller"
        )
    stride = model.output_stride
    return -(-(model.receptive_field // 2) // stride) * stride


@torch.inference_mode()
def score_map(
    model: DensePredictor, image: Tensor, tile: int | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, int]:
    """Scores ``(num_maps, rows, columns)`` of an image ``(3, height, width)`` uint8, and pixels per score.

    Args:
        tile: pixels along the side of a tile, rounded up to the stride; None: the image whole.
        progress: called with the tiles done and their number.
    """
    like = model.mean
    height, width = image.shape[1:]
    stride = model.output_stride
    if tile is not None and tile < 1:
        raise WavedilError(f"tile is {tile}: expected pixels along its side, at least 1")
    around = 0 if tile is None else margin(model)
    step = -(-(tile or max(height, width)) // stride) * stride
    places = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    joined, cell = None, 1
    for number, (top, left) in enumerate(places, 1):
        y, x = max(0, top - around), max(0, left - around)
        part = image[:, y : top + step + around, x : left + step + around]
        scores, cell = model.scores((part.to(like.device).to(like.dtype) / 255).unsqueeze(0))
        scores = scores[0]
        if joined is None:
            joined = scores.new_empty(len(scores), -(-height // cell), -(-width // cell))
        # The tile's own scores, without those of its surroundings.
        own = scores[:, (top - y) // cell :, (left - x) // cell :][:, : step // cell, : step // cell]
        row, column = top // cell, left // cell
        joined[:, row : row + own.shape[1], column : column + own.shape[2]] = own
        if progress is not None:
            progress(number, len(places))
    return joined, cell
