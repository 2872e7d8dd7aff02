"""Label maps, or maps of values, of images of any size: whole or in tiles, averaged over scales and mirror images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedil.errors import WavedilError
from wavedil.vision.data.images import resize, scaled_size
from wavedil.vision.models.predictor import DensePredictor
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.tiles import score_map

BAND = 2**24  # scores at once while they are enlarged: 64 MB
LARGE = 2048**2  # pixels from which an image is cut into tiles unasked, where that changes nothing
TILE = 1024

#: Image (height, width, 3) uint8 and probabilities (num_classes, height, width) to better probabilities.
Refinement = Callable[[np.ndarray, np.ndarray], np.ndarray]
Progress = Callable[[int, int], None]


def predict(
    model: Segmenter,
    image: np.ndarray,
    *,
    scaled: bool = False,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    refine: Refinement | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The likeliest class of every pixel, uint8 ``(height, width)``.

    Args:
        image: ``(height, width, 3)`` uint8, as :func:`wavedil.vision.read_image` gives it.
        scaled: the image has been resized by the model's ``scale`` already.
        tile: pixels along the side of the tiles that the network sees one after the other, each with as much around it
            as its scores look at: the same map to rounding, in bounded memory. Default: whole images up to four
            million pixels, and tiles of 1024 beyond, where the receptive field is finite.
        scales: the network sees the image at each of these sizes, relative to the model's own, and probabilities are
            averaged.
        flip: mirror images as well.
        refine: e.g. ``DenseCRF()``; all probabilities are held in memory for it.
        progress: called with the tiles done and their number.

    Raises:
        WavedilError: an image that is none, scales below 0, or tiles for a model whose scores look at the whole image.
    """
    options = {"scaled": scaled, "tile": tile, "scales": scales, "flip": flip, "progress": progress}
    if refine is not None:
        full = probabilities(model, image, **options).astype(np.float32, copy=False)
        return np.asarray(refine(image, full)).argmax(0).astype(np.uint8)
    views = _views(model, image, **options)
    return np.concatenate([b.argmax(0).to(torch.uint8).cpu().numpy() for b in _probabilities(views, image.shape[:2])])


def probabilities(model: Segmenter, image: np.ndarray, **options: Any) -> np.ndarray:
    """Of every class at every pixel, ``(num_classes, height, width)``; options as for :func:`predict`."""
    views = _views(model, image, **options)
    return torch.cat(list(_probabilities(views, image.shape[:2])), dim=1).cpu().numpy()


def estimate(model: Regressor, image: np.ndarray, **options: Any) -> np.ndarray:
    """The value at every pixel, float32 ``(height, width)``; options as for :func:`predict`."""
    parts = _mean(_views(model, image, **options), image.shape[:2], lambda maps: model.values(maps[0]))
    return torch.cat(list(parts)).float().cpu().numpy()


@dataclass(frozen=True)
class _View:
    """Scores of the image as the network saw it: at ``size`` pixels, perhaps mirrored."""

    scores: Tensor  # (num_maps, rows, columns)
    size: tuple[int, int]
    stride: int
    corner: bool
    mirrored: bool

    def at(self, size: tuple[int, int], start: int, stop: int) -> Tensor:
        """Scores at rows ``start`` to ``stop`` of the image at another size."""
        rows = self._places(0, torch.arange(start, stop), size[0])
        columns = self._places(1, torch.arange(size[1]), size[1])
        return _lerp(_lerp(self.scores, 1, rows), 2, columns)

    def _places(self, axis: int, pixels: Tensor, count: int) -> Tensor:
        """Where pixels of another size lie among the cells."""
        seen = (pixels.double() + 0.5) * self.size[axis] / count - 0.5
        if axis == 1 and self.mirrored:
            seen = self.size[1] - 1 - seen
        return seen / self.stride if self.corner else (seen + 0.5) / self.stride - 0.5


@torch.inference_mode()
def _views(
    model: DensePredictor,
    image: np.ndarray,
    *,
    scaled: bool = False,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    progress: Progress | None = None,
) -> list[_View]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise WavedilError(
            f"image is {image.dtype} of shape {image.shape}: expected uint8 of (height, width, 3); read_image gives it"
        )
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise WavedilError(f"scales are {list(scales)}: expected factors above 0")
    views: list[_View] = []
    for scale in scales:
        seen = resize(image, scaled_size(image.shape[:2], scale if scaled else model.scale * scale))
        size = seen.shape[:2]
        large = size[0] * size[1] > LARGE and model.receptive_field is not None
        side = TILE if tile is None and large else tile
        for mirrored in (False, True)[: 1 + flip]:
            pixels = torch.from_numpy(np.ascontiguousarray(seen[:, ::-1] if mirrored else seen)).permute(2, 0, 1)
            scores, stride = score_map(model, pixels, side, progress)
            if model.refinement is not None:
                whole = (pixels.to(scores.device).to(scores.dtype) / 255).unsqueeze(0)
                scores, stride = model.enlarged(whole, scores.unsqueeze(0), stride)[0], 1
            views.append(_View(scores, size, stride, model.align == "corner", mirrored))
    return views


def _probabilities(views: Sequence[_View], size: tuple[int, int]) -> Iterator[Tensor]:
    """Averaged over the views, ``(num_classes, some rows, width)`` after one another."""
    return _mean(views, size, lambda scores: scores.softmax(0))


@torch.inference_mode()
def _mean(views: Sequence[_View], size: tuple[int, int], of: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """The mean over the views of what is made of their maps at full resolution, some rows after one another."""
    rows = max(1, BAND // (len(views[0].scores) * size[1]))
    for start in range(0, size[0], rows):
        stop = min(start + rows, size[0])
        yield sum(of(view.at(size, start, stop)) for view in views) / len(views)


def _lerp(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """``x`` at fractional places along an axis; beyond its ends, the ends."""
    last = x.shape[axis] - 1
    places = places.clamp(0, last)
    low = places.floor().long()
    shape = [1] * x.ndim
    shape[axis] = -1
    weight = (places - low).to(x.dtype).view(shape).to(x.device)
    low, high = low.to(x.device), (low + 1).clamp(max=last).to(x.device)
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)
