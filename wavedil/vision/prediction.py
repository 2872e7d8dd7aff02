"""Prediction on images of any size: tiling, and averaging over scales and mirror images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from wavedil.core.receptive_field import per_axis
from wavedil.core.schema import Range, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, shown
from wavedil.ops.memory import check_memory
from wavedil.vision.data.images import pillow_pixels
from wavedil.vision.data.pixels import full_scale, resize, scaled_size
from wavedil.vision.models.multilabel import MultilabelSegmenter
from wavedil.vision.models.predictor import DensePredictor
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.tiles import score_map

MAX_UPSAMPLED = 2**24  # scores that are upsampled at a time: 64 MB in float32
MAX_UNTILED_PIXELS = 2048**2  # larger images are split into tiles by default, if that does not change the result
DEFAULT_TILE = 1024

#: From image (height, width, 3) uint8 and probabilities (num_classes, height, width) to refined probabilities.
Refinement = Callable[[np.ndarray, np.ndarray], np.ndarray]
Progress = Callable[[int, int], None]


ImageScale = Annotated[float, Range(0, 64, exclude_low=True)]


@checked
def predict(
    model: Segmenter,
    image: Any,
    *,
    scaled: bool = False,
    tile: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    refine: Refinement | None = None,
    probabilities: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """The most probable class of every pixel, uint8 ``(height, width)``; or the probabilities of all classes.

    For a :class:`wavedil.vision.MultilabelSegmenter` the masks of the classes, bool ``(num_classes, height, width)``.

    Args:
        image: ``(height, width, bands)`` uint8 or uint16, e.g. from :func:`wavedil.vision.read_image`, with as many
            bands as ``model.in_channels``; ``(height, width)`` for gray images; or an image of Pillow. A model of 3
            bands also takes gray images of 8 bits.
        scaled: the image is already resized by the model's ``scale``.
        tile: side in pixels of the tiles that are predicted one at a time, each with a margin of half the receptive
            field. The result is the same up to rounding, and memory is bounded. Default: no tiles for images up to four
            million pixels, and tiles of 1024 for larger ones if the receptive field is finite.
        scales: image sizes, relative to the model's ``scale``, over which probabilities are averaged.
        flip: also average over the mirror image.
        refine: e.g. ``DenseCRF()``; all probabilities are then held in memory.
        probabilities: return float32 ``(num_classes, height, width)`` instead.
        progress: called with the number of finished tiles and the number of all tiles.

    Raises:
        WavedilError: an invalid image, scales of 0 or less, or tiles for a model whose receptive field is the full
            image.
    """
    if refine is not None and isinstance(model, MultilabelSegmenter):
        raise WavedilError("refine is for one class per pixel, and a MultilabelSegmenter has several: leave it out")
    options = {"scaled": scaled, "tile": tile, "scales": scales, "flip": flip, "progress": progress}
    image = _as_array(image, model.in_channels)
    if probabilities or refine is not None:
        full = _probabilities(model, image, **options).astype(np.float32, copy=False)
        if refine is None:
            return full
        refined = to_tensor("refine(image, probabilities)", refine(image, full))
        if refined.shape != full.shape:
            raise WavedilError(f"refine returns shape {tuple(refined.shape)}: expected {full.shape}, as it gets")
        return refined.float().cpu().numpy() if probabilities else refined.argmax(0).to("cpu", torch.uint8).numpy()
    bands = _average(model, image, partial(model.probabilities, axis=0), **options)
    return np.concatenate([model.decide(band).cpu().numpy() for band in bands], axis=-2)


def probabilities(model: Segmenter, image: Any, **options: Any) -> np.ndarray:
    """Class probabilities at every pixel, ``(num_classes, height, width)``; options as for :func:`predict`."""
    return _probabilities(model, _as_array(image, model.in_channels), **options)


def _probabilities(model: Segmenter, image: np.ndarray, **options: Any) -> np.ndarray:
    bands = _average(model, image, partial(model.probabilities, axis=0), **options)
    return torch.cat(list(bands), dim=1).cpu().numpy()


def _as_array(image: Any, channels: int) -> Any:
    """Images of Pillow, and arrays without an axis of bands, as :func:`wavedil.vision.read_image` reads them."""
    if hasattr(image, "getbands") and hasattr(image, "getexif"):
        return pillow_pixels(image, channels)
    if isinstance(image, np.ndarray) and image.ndim == 2:
        image = image[..., None]
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (1,) and channels == 3:
        image = np.repeat(image, 3, axis=2)
    return image


def estimate(model: Regressor, image: Any, **options: Any) -> np.ndarray:
    """The value at every pixel, float32 ``(height, width)``; options as for :func:`predict`."""
    image = _as_array(image, model.in_channels)
    bands = _average(model, image, lambda scores: model.to_values(scores[0]), **options)
    return torch.cat(list(bands)).float().cpu().numpy()


@dataclass(frozen=True)
class _ScoreView:
    """Scores of one scaled and perhaps mirrored copy of the image."""

    scores: Tensor  # (num_outputs, rows, columns)
    size: tuple[int, int]  # (height, width) of the copy in pixels
    stride: int | tuple[int, int]
    align: str
    mirrored: bool

    def rows_at(self, size: tuple[int, int], start: int, stop: int) -> Tensor:
        """Scores at rows ``start`` to ``stop`` of the image at another size, ``(num_outputs, stop - start, width)``."""
        rows = self._positions(0, torch.arange(start, stop), size[0])
        columns = self._positions(1, torch.arange(size[1]), size[1])
        return _interpolate(_interpolate(self.scores, 1, rows), 2, columns)

    def _positions(self, axis: int, pixels: Tensor, count: int) -> Tensor:
        """Positions, in cells of this view, of pixels of an image with ``count`` pixels along the axis."""
        pixels = (pixels.double() + 0.5) * self.size[axis] / count - 0.5
        if axis == 1 and self.mirrored:
            pixels = self.size[1] - 1 - pixels
        stride = per_axis("stride", self.stride, 2)[axis]
        return pixels / stride if self.align == "corner" else (pixels + 0.5) / stride - 0.5


@torch.inference_mode()
@checked
def _score_views(
    model: DensePredictor,
    image: Any,
    *,
    scaled: bool = False,
    tile: Annotated[int, Range(1, 2**62)] | None = None,
    scales: Sequence[ImageScale] = (1.0,),
    flip: bool = False,
    progress: Progress | None = None,
) -> list[_ScoreView]:
    """Runs the network on the image at each scale, and on its mirror image if ``flip``."""
    if not isinstance(image, np.ndarray):
        raise WavedilError(f"image is {shown(image)}: expected a numpy array, as read_image returns, or a Pillow image")
    types = (np.uint8,) if model.in_channels == 3 else (np.uint8, np.uint16)
    if image.ndim != 3 or image.shape[2] != model.in_channels or image.dtype not in types or 0 in image.shape:
        names = " or ".join(kind.__name__ for kind in types)
        raise WavedilError(
            f"image is {image.dtype} of shape {image.shape}: expected {names} of shape (height, width, "
            f"{model.in_channels}), as read_image returns; multiply floats in [0, 1] by 255 and round them"
        )
    if not scales:
        raise WavedilError("scales is empty: expected factors above 0 and at most 64")
    views: list[_ScoreView] = []
    for scale in scales:
        height, width = scaled_size(image.shape[:2], scale if scaled else model.scale * scale)
        check_memory(16 * height * width, f"scales has {scale:g}", "use a smaller scale")  # of the image in float32
        resized = resize(image, (height, width))
        size = resized.shape[:2]
        large = size[0] * size[1] > MAX_UNTILED_PIXELS and model.receptive_field is not None
        side = DEFAULT_TILE if tile is None and large else tile
        for mirrored in (False, True)[: 1 + flip]:
            # A copy, since torch takes no negative stride; ascontiguousarray keeps it for an axis of length 1.
            pixels = resized[:, ::-1].copy() if mirrored else np.ascontiguousarray(resized)
            pixels = torch.from_numpy(pixels).permute(2, 0, 1)
            scores, stride = score_map(model, pixels, side, progress)
            if model.refinement is not None:
                full = (pixels.to(scores.device).to(scores.dtype) / full_scale(pixels)).unsqueeze(0)
                scores, stride = model.upsample_scores(full, scores.unsqueeze(0), stride)[0], 1
            views.append(_ScoreView(scores, size, stride, model.align, mirrored))
    return views


@torch.inference_mode()
def _average(
    model: DensePredictor, image: np.ndarray, activation: Callable[[Tensor], Tensor], **options: Any
) -> Iterator[Tensor]:
    """Yields the mean over the views of ``activation(scores)`` at full resolution, in bands of rows to bound memory."""
    views = _score_views(model, image, **options)
    size = image.shape[:2]
    rows = max(1, MAX_UPSAMPLED // (len(views[0].scores) * size[1]))
    for start in range(0, size[0], rows):
        stop = min(start + rows, size[0])
        yield sum(activation(view.rows_at(size, start, stop)) for view in views) / len(views)


def _interpolate(x: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Linear interpolation of ``x`` at fractional positions along an axis; positions outside are clamped."""
    last = x.shape[axis] - 1
    positions = positions.clamp(0, last)
    low = positions.floor().long()
    shape = [1] * x.ndim
    shape[axis] = -1
    weight = (positions - low).to(x.dtype).view(shape).to(x.device)
    low, high = low.to(x.device), (low + 1).clamp(max=last).to(x.device)
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), weight)
