"""Tiles of any convolutional network: the result of the full image, with the memory of one tile."""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Annotated

import torch
from torch import Tensor, nn

from wavedil.core.measured_field import measure_receptive_field
from wavedil.core.schema import Range, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, shown

Pixels = Annotated[int, Range(1, 2**31)]
Margin = Annotated[int, Range(0, 2**31)]

_PROBE = {2: 256, 3: 32}  # positions by number of axes; multiples of the strides of networks in use


@checked
@torch.no_grad()
def tile_exactly(
    model: nn.Module,
    image: Tensor,
    tile: Pixels | Sequence[Pixels],
    *,
    margin: Margin | Sequence[Margin] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """``model(image)``, computed tile by tile, with the same result up to rounding.

    For any convolutional network of images or volumes in evaluation mode, e.g. of torchvision, timm or
    segmentation_models.pytorch. Its receptive field and strides are measured. Each tile is cut out with a margin of the
    field, at a multiple of the largest stride inside the network; at the edges of the image the network pads as for the
    full image. At most the activations of ``tile + 2 * margin`` pixels a side are in memory, and the result.

    Args:
        model: maps ``(batch, channels, *space)`` to a map of the same size, or of the size divided by a stride (which
            may differ between the axes).
        image: ``(batch, channels, height, width)`` or ``(batch, channels, depth, height, width)``, floating point, any
            size.
        tile: side of a tile in pixels, or one for each axis, rounded up to the largest stride.
        margin: pixels on each side of a tile, or one number for each axis; None measures it, which can take a minute
            for deep networks: call :func:`tile_margin`, which reports progress, once for several images. A given
            margin is not checked: the result is wrong if it is smaller than half the receptive field, or if a layer
            depends on the full image, e.g. on its mean.
        progress: called with the number of finished tiles and the number of all tiles.

    Raises:
        WavedilError: the model is in training mode, or its output depends on the full image; the message names the
            layer.
    """
    image = _as_image(image)
    if model.training:
        raise WavedilError("model is in training mode, where it may depend on the full batch: call model.eval()")
    period, strides = _strides(model, image)
    margin = tile_margin(model, image) if margin is None else margin
    sizes = image.shape[2:]
    margins, steps = (
        [-(-number // period) * period for number in _by_axis(name, value, len(sizes))]
        for name, value in (("margin", margin), ("tile", tile))
    )
    starts = [range(0, size, step) for size, step in zip(sizes, steps, strict=True)]
    corners = list(itertools.product(*starts))
    tiles = []
    for number, corner in enumerate(corners, 1):
        window, inner = [slice(None)] * 2, [slice(None)] * 2
        for at, size, step, around, stride in zip(corner, sizes, steps, margins, strides, strict=True):
            first = max(0, at - around)
            window.append(slice(first, at + step + around))
            start = _cells(at - first, stride)
            # The last tile along an axis ends where the map ends.
            inner.append(slice(start, start + _cells(step, stride) if at + step < size else None))
        tiles.append(_map(model, image[tuple(window)])[tuple(inner)].clone())
        if progress is not None:
            progress(number, len(corners))
    for axis in reversed(range(len(sizes))):
        count = len(starts[axis])
        tiles = [torch.cat(tiles[first : first + count], axis + 2) for first in range(0, len(tiles), count)]
    return tiles[0]


def _by_axis(name: str, value: int | Sequence[int], ndim: int) -> Sequence[int]:
    if isinstance(value, Sequence) and len(value) != ndim:
        raise WavedilError(f"{name} is {shown(value)}: expected one number, or one for each of {ndim} axes")
    return value if isinstance(value, Sequence) else [value] * ndim


def _as_image(image: Tensor) -> Tensor:
    image = to_tensor("image", image, floating=True)
    if image.ndim not in (4, 5) or 0 in image.shape:
        raise WavedilError(
            f"image has shape {tuple(image.shape)}: expected (batch, channels, height, width), or a volume (batch, "
            "channels, depth, height, width)"
        )
    return image


@checked
def tile_margin(model: nn.Module, image: Tensor, *, progress: Callable[[int, int], None] | None = None) -> int:
    """The margin of :func:`tile_exactly` in pixels, a multiple of the largest stride inside the model.

    ``progress`` is that of :func:`wavedil.measure_receptive_field`.

    Raises:
        WavedilError: the output depends on the full image; the message names the layer.
    """
    image = _as_image(image)
    period, _ = _strides(model, image)
    try:
        with torch.enable_grad():
            field = measure_receptive_field(model, image.shape[1], image.ndim - 2, seeds=2, progress=progress)
    except WavedilError as error:
        layer = _global_layer(model, image)
        if layer is None:
            raise
        raise WavedilError(
            f"model: the output of layer {layer} depends on the full image (global pooling, attention, normalization "
            f"over space, or a receptive field above {512 if image.ndim == 4 else 64} pixels), so tiles would change "
            "it; pass margin if you know it"
        ) from error
    # The field of other positions between two multiples of the period may be shifted by up to a period.
    return -(-(max(*field.left, *field.right) + period) // period) * period


def _strides(model: nn.Module, image: Tensor) -> tuple[int, tuple[Fraction, ...]]:
    """The least common multiple of the strides of all maps inside the model, and the strides of its output, in pixels.

    An output of twice the size of the image has a stride of 1/2.
    """
    period, hooks, size = 1, [], _PROBE[image.ndim - 2]

    def note(part: nn.Module, inputs: tuple, y: object) -> None:
        nonlocal period
        for cells in y.shape[2:] if isinstance(y, Tensor) and y.ndim == image.ndim else ():
            if 1 < cells <= size and size % cells == 0:
                period = math.lcm(period, size // cells)

    hooks = [part.register_forward_hook(note) for part in model.modules()]
    probe = image.new_zeros(1, image.shape[1], *[size] * (image.ndim - 2))
    try:
        y = _map(model, probe)
    finally:
        for each in hooks:
            each.remove()
    strides = tuple(Fraction(size, n) for n in y.shape[2:])
    if any(stride.denominator != 1 and stride.numerator != 1 for stride in strides):
        raise WavedilError(
            f"model maps {' x '.join(map(str, probe.shape[2:]))} pixels to {' x '.join(map(str, y.shape[2:]))}: "
            f"expected {size} divided by a stride along each axis, i.e. layers that pad their input"
        )
    return period, strides


def _cells(pixels: int, stride: Fraction) -> int:
    return int(pixels / stride)


def _map(model: nn.Module, image: Tensor) -> Tensor:
    y = model(image)
    if not isinstance(y, Tensor) or y.ndim != image.ndim:
        kind = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else shown(type(y).__name__)
        raise WavedilError(
            f"model returns {kind}: expected a map (batch, channels, *space) with as many axes as the image; wrap it "
            "in a module that returns one"
        )
    return y


def _global_layer(model: nn.Module, image: Tensor) -> str | None:
    """The first layer whose first position changes if the opposite corner of a large image does."""
    size, outputs = 2 * _PROBE[image.ndim - 2], []
    names = {part: name for name, part in model.named_modules() if not list(part.children())}

    def note(part: nn.Module, inputs: tuple, y: object) -> None:
        if isinstance(y, Tensor) and y.ndim >= 3 and y.is_floating_point():
            first = y[(..., *[0] * (image.ndim - 2))] if y.ndim == image.ndim else y[:, 0]
            outputs.append((names[part], first.clone()))

    hooks = [part.register_forward_hook(note) for part in names]
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(1, image.shape[1], *[size] * (image.ndim - 2), generator=generator).to(image)
    other = one.clone()
    other[(..., *[slice(-8, None)] * (image.ndim - 2))] += 1
    try:
        model(one)
        first, outputs = outputs, []
        model(other)
    except Exception:  # the error that is reported is another
        return None
    finally:
        for each in hooks:
            each.remove()
    pairs = zip(first, outputs, strict=False)
    return next((name for (name, a), (_, b) in pairs if a.shape != b.shape or not torch.equal(a, b)), None)
