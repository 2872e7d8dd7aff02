"""Scores of large images, computed tile by tile with the same result as for the full image.

A score depends on the pixels in its receptive field, so a tile that is cut out with a margin of half a receptive field
has the scores of the full image at its pixels. No margin is added at the edges of the image, where the layers pad as
for the full image. (The released code of Yu & Koltun pads tiles by reflection instead: fyu/dilation, predict.py.)
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from wavedil.core.receptive_field import per_axis
from wavedil.errors import WavedilError
from wavedil.vision.data.pixels import full_scale
from wavedil.vision.models.predictor import DensePredictor


def tile_margin(model: DensePredictor) -> int:
    """Width in pixels of the margin on each side of a tile: half the receptive field, rounded up to the stride.

    Raises:
        WavedilError: the receptive field is the full image.
    """
    if model.receptive_field is None:
        raise WavedilError(
            "tile: the scores of this model depend on the full image (e.g. image pooling), so tiles would change them; "
            "leave tile out, or make the image smaller"
        )
    stride = math.lcm(*model.strides)
    return -(-(model.receptive_field // 2) // stride) * stride


@torch.inference_mode()
def score_map(
    model: DensePredictor, image: Tensor, tile: int | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, int | tuple[int, int]]:
    """Scores ``(num_outputs, rows, columns)`` of an image ``(bands, height, width)``, and their stride in pixels;
    (vertical, horizontal) if the axes differ.

    Args:
        image: uint8 or uint16.
        tile: side of a tile in pixels, rounded up to the stride; None for the full image at once.
        progress: called with the number of finished tiles and the number of all tiles.
    """
    like = model.mean
    height, width = image.shape[1:]
    stride = math.lcm(*model.strides)
    if tile is not None and tile < 1:
        raise WavedilError(f"tile is {tile}: expected a side in pixels, at least 1")
    margin = 0 if tile is None else tile_margin(model)
    step = -(-(tile or max(height, width)) // stride) * stride
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    joined, cell = None, 1
    for number, (top, left) in enumerate(corners, 1):
        y, x = max(0, top - margin), max(0, left - margin)
        pixels = image[:, y : top + step + margin, x : left + step + margin]
        scores, cell = model.coarse_scores((pixels.to(like.device).to(like.dtype) / full_scale(pixels)).unsqueeze(0))
        scores, (down, across) = scores[0], per_axis("stride", cell, 2)
        if joined is None:
            joined = scores.new_empty(len(scores), -(-height // down), -(-width // across))
        # The scores of the tile without those of its margin.
        inner = scores[:, (top - y) // down :, (left - x) // across :][:, : step // down, : step // across]
        row, column = top // down, left // across
        joined[:, row : row + inner.shape[1], column : column + inner.shape[2]] = inner
        if progress is not None:
            progress(number, len(corners))
    return joined, cell
