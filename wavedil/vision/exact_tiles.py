"""Tiles of any convolutional network: the result of the full image, with the memory of one tile."""

import math
from collections.abc import Callable
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

_PROBE = 256  # pixels; a multiple of the strides of networks in use


@checked
@torch.no_grad()
def tile_exactly(
    model: nn.Module,
    image: Tensor,
    tile: Pixels,
    *,
    margin: Margin | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """``model(image)``, computed tile by tile, with the same result up to rounding.

    For any convolutional network in evaluation mode, e.g. of torchvision, timm or segmentation_models.pytorch. Its
    receptive field and strides are measured. Each tile is cut out with a margin of the field, at a multiple of the
    largest stride inside the network; at the edges of the image the network pads as for the full image. At most the
    activations of ``tile + 2 * margin`` pixels a side are in memory, and the result.

    Args:
        model: maps ``(batch, channels, height, width)`` to a map of the same size, or of the size divided by a stride
            (which may differ between the axes).
        image: ``(batch, channels, height, width)``, floating point, any size.
        tile: side of a tile in pixels, rounded up to the largest stride.
        margin: pixels on each side of a tile; None measures it, which can take a minute for deep networks: call
            :func:`tile_margin`, which reports progress, once for several images.
        progress: called with the number of finished tiles and the number of all tiles.

    Raises:
        WavedilError: the model is in training mode, or its output depends on the full image; the message names the
            layer.
    """
    image = to_tensor("image", image, floating=True)
    if image.ndim != 4 or 0 in image.shape:
        raise WavedilError(f"image has shape {tuple(image.shape)}: expected (batch, channels, height, width)")
    if model.training:
        raise WavedilError("model is in training mode, where it may depend on the full batch: call model.eval()")
    period, strides = _strides(model, image)
    margin = tile_margin(model, image) if margin is None else -(-margin // period) * period
    step = -(-tile // period) * period
    height, width = image.shape[2:]
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    rows: list[list[Tensor]] = []
    for number, (top, left) in enumerate(corners, 1):
        y, x = max(0, top - margin), max(0, left - margin)
        found = _map(model, image[:, :, y : top + step + margin, x : left + step + margin])
        inner = found[:, :, _cells(top - y, strides[0]) :, _cells(left - x, strides[1]) :]
        # The last tile of a row or column ends where the map ends.
        axes = zip((top, left), (height, width), strides, strict=True)
        ends = [_cells(step, stride) if at + step < size else None for at, size, stride in axes]
        if left == 0:
            rows.append([])
        rows[-1].append(inner[:, :, : ends[0], : ends[1]].clone())
        if progress is not None:
            progress(number, len(corners))
    return torch.cat([torch.cat(row, 3) for row in rows], 2)


@checked
def tile_margin(model: nn.Module, image: Tensor, *, progress: Callable[[int, int], None] | None = None) -> int:
    """The margin of :func:`tile_exactly` in pixels, a multiple of the largest stride inside the model.

    ``progress`` is that of :func:`wavedil.measure_receptive_field`.

    Raises:
        WavedilError: the output depends on the full image; the message names the layer.
    """
    period, _ = _strides(model, image)
    try:
        with torch.enable_grad():
            field = measure_receptive_field(model, image.shape[1], 2, seeds=2, progress=progress)
    except WavedilError as error:
        layer = _global_layer(model, image)
        if layer is None:
            raise
        raise WavedilError(
            f"model: the output of layer {layer} depends on the full image (global pooling, attention, normalization "
            "over space, or a receptive field above 512 pixels), so tiles would change it; pass margin if you know it"
        ) from error
    # The field of other positions between two multiples of the period may be shifted by up to a period.
    return -(-(max(*field.left, *field.right) + period) // period) * period


def _strides(model: nn.Module, image: Tensor) -> tuple[int, tuple[Fraction, Fraction]]:
    """The least common multiple of the strides of all maps inside the model, and the strides of its output, in pixels.

    An output of twice the size of the image has a stride of 1/2.
    """
    period, hooks = 1, []

    def note(part: nn.Module, inputs: tuple, y: object) -> None:
        nonlocal period
        for cells in y.shape[2:] if isinstance(y, Tensor) and y.ndim == 4 else ():
            if 1 < cells <= _PROBE and _PROBE % cells == 0:
                period = math.lcm(period, _PROBE // cells)

    hooks = [part.register_forward_hook(note) for part in model.modules()]
    probe = image.new_zeros(1, image.shape[1], _PROBE, _PROBE)
    try:
        y = _map(model, probe)
    finally:
        for each in hooks:
            each.remove()
    strides = tuple(Fraction(_PROBE, n) for n in y.shape[2:])
    if any(stride.denominator != 1 and stride.numerator != 1 for stride in strides):
        raise WavedilError(
            f"model maps {_PROBE} x {_PROBE} pixels to {y.shape[2]} x {y.shape[3]}: expected {_PROBE} divided by a "
            "stride along each axis, i.e. layers that pad their input"
        )
    return period, strides


def _cells(pixels: int, stride: Fraction) -> int:
    return int(pixels / stride)


def _map(model: nn.Module, image: Tensor) -> Tensor:
    y = model(image)
    if not isinstance(y, Tensor) or y.ndim != 4:
        kind = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else shown(type(y).__name__)
        raise WavedilError(
            f"model returns {kind}: expected a map (batch, channels, height, width); wrap it in a module that returns "
            "one"
        )
    return y


def _global_layer(model: nn.Module, image: Tensor) -> str | None:
    """The first layer whose first position changes if the opposite corner of a large image does."""
    size, outputs = 2 * _PROBE, []
    names = {part: name for name, part in model.named_modules() if not list(part.children())}

    def note(part: nn.Module, inputs: tuple, y: object) -> None:
        if isinstance(y, Tensor) and y.ndim >= 3 and y.is_floating_point():
            first = y[:, :, 0, 0] if y.ndim == 4 else y[:, 0]
            outputs.append((names[part], first.clone()))

    hooks = [part.register_forward_hook(note) for part in names]
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(1, image.shape[1], size, size, generator=generator).to(image)
    other = one.clone()
    other[..., -8:, -8:] += 1
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
