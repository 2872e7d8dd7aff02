"""Upsampling of feature maps to pixels.

A feature map of stride s has one cell for s x s pixels. Two alignments of cells and pixels are in use:

``"center"``: cell i is at pixel s i + (s - 1) / 2, the center of its s pixels. Holds for pooling and convolutions with
even kernels, e.g. :class:`VGGFrontEnd`. ``interpolate(align_corners=False)`` assumes it, and it is the default here.

``"corner"``: cell i is at pixel s i, the first of its s pixels. Holds for networks whose strided layers have odd
kernels and equal padding on both sides (ResNets), and for the released VOC, CamVid and KITTI weights of fyu/dilation,
which were trained on labels taken there.

They differ by (s - 1) / 2 pixels: 3.5 for stride 8.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.receptive_field import per_axis
from wavedil.core.schema import Range, Stride, checked
from wavedil.errors import WavedilError

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
ALIGNMENTS = ("center", "corner")

Pixels = Annotated[int, Range(1, 2**31)]


def upsample(
    x: Tensor,
    size: Sequence[Pixels],
    stride: Stride | Sequence[Stride] | None = None,
    align: Literal["center", "corner"] = "center",
) -> Tensor:
    """Linear interpolation of ``(batch, channels, *cells)`` to ``(batch, channels, *size)`` pixels.

    The map is interpolated by exactly the stride and then cropped, so cells stay aligned if ``size`` is not a multiple
    of the stride. Pixels beyond the last cell repeat it.

    Args:
        size: pixels along each axis, between (cells - 1) * stride and (cells + 1) * stride.
        stride: pixels per cell, one number or one per axis; default the smallest power of two that fits, or one for
            each axis if no number fits all axes.
        align: ``"center"`` or ``"corner"``, see :mod:`wavedil.vision.models.upsample`.

    Raises:
        WavedilError: a stride that does not fit the number of cells and pixels.
    """
    if torch.compiler.is_exporting():
        if stride is None:  # inside a network, whose maps are exact multiples of each other there
            return F.interpolate(x, size=tuple(size), mode=MODES[len(size)])
        return upsample_traced(x, size, per_axis("stride", stride, len(size)), align)
    return _upsample(x, size, stride, align)


@checked
def _upsample(
    x: Tensor,
    size: Sequence[Pixels],
    stride: Stride | Sequence[Stride] | None = None,
    align: Literal["center", "corner"] = "center",
) -> Tensor:
    cells, size = tuple(x.shape[2:]), tuple(size)
    if x.ndim - 2 not in MODES or len(size) != len(cells):
        raise WavedilError(
            f"x has shape {tuple(x.shape)} and size is {size}: expected (batch, channels, *space) and one size per axis"
        )
    strides = _fitting_strides(cells, size, stride)
    if strides is None:
        tried = "a power of two" if stride is None else stride
        raise WavedilError(
            f"x has {cells} cells, size is {size}, stride is {tried}: expected size / stride cells, rounded up or down"
        )
    if max(strides) == 1:
        return x
    mode, corner = MODES[len(cells)], align == "corner"
    # With "corner", the pixels of the last cell are interpolated with a cell after it.
    extra = [corner + (p > s * c) for p, c, s in zip(size, cells, strides, strict=True)]
    if any(extra):
        x = F.pad(x, [side for e in reversed(extra) for side in (0, int(e))], mode="replicate")
    full = [(c - 1) * s + 1 if corner else c * s for c, s in zip(x.shape[2:], strides, strict=True)]
    y = F.interpolate(x, size=full, mode=mode, align_corners=corner)
    return y[(..., *(slice(p) for p in size))]


def _fitting_strides(
    cells: tuple[int, ...], size: tuple[int, ...], stride: int | Sequence[int] | None
) -> tuple[int, ...] | None:
    """One stride for each axis; None if the given one, or no power of two, fits."""

    def fits(strides: Sequence[int]) -> bool:
        return all(p // s <= c <= -(-p // s) for p, c, s in zip(size, cells, strides, strict=True))

    if stride is not None:
        # torch.compile cannot trace per_axis for a symbolic integer
        strides = (stride,) * len(cells) if isinstance(stride, int) else per_axis("stride", stride, len(cells))
        return strides if fits(strides) else None
    powers = [2**power for power in range(12)]
    tried = [(power,) * len(cells) for power in powers] + list(itertools.product(powers, repeat=len(cells)))
    return next(filter(fits, tried), None)


def upsample_traced(x: Tensor, size: Sequence[int], strides: Sequence[int], align: str) -> Tensor:
    """:func:`upsample` for torch.export: no checks and branches, which would fix the size."""
    corner, cells = align == "corner", x.shape[2:]
    for axis, count in enumerate(cells, 2):  # repeats the last cell; the result is cropped
        x = first_cells(x, axis, count, 1)
    full = [count * s + 1 if corner else (count + 1) * s for count, s in zip(cells, strides, strict=True)]
    y = F.interpolate(x, size=full, mode=MODES[len(full)], align_corners=corner)
    for axis, pixels in enumerate(size, 2):
        y = first_cells(y, axis, pixels)
    return y


def first_cells(x: Tensor, axis: int, count: int, extra: int = 0) -> Tensor:
    """The first ``count`` positions of an axis, then the last of them ``extra`` times more.

    A slice would compare the sizes, which torch.export then fixes.
    """
    return x.index_select(axis, torch.arange(count + extra, device=x.device).clamp(max=count - 1))


class LearnedUpsample(nn.Module):
    """Transposed convolution with one 2s x 2s filter per class: ``(batch, C, h, w) -> (batch, C, h s, w s)``.

    It is initialized as bilinear interpolation with ``"center"`` alignment that fades to 0 at the border. The
    Cityscapes net of fyu/dilation ends with this layer (``ctx_upsample``: kernel 16, stride 8, padding 4, no bias).

    Args:
        channels: C.
        stride: s, even.

    ``forward(x, size)`` crops the result to ``size``, if it is not None.
    """

    def __init__(self, channels: int, stride: int = 8):
        super().__init__()
        if channels < 1 or stride < 2 or stride % 2:
            raise WavedilError(
                f"channels is {channels} and stride is {stride}: expected a positive and an even positive integer"
            )
        self.up = nn.ConvTranspose2d(
            channels, channels, 2 * stride, stride=stride, padding=stride // 2, groups=channels, bias=False
        )
        ramp = 1 - (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride  # 1 / 2s, 3 / 2s ... and down again
        with torch.no_grad():
            self.up.weight.copy_(ramp[:, None] * ramp)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        stride = self.up.stride[0]
        if size is not None and any(-(-p // stride) != c for p, c in zip(size, x.shape[2:], strict=True)):
            raise WavedilError(
                f"x has {tuple(x.shape[2:])} cells, size is {tuple(size)}: expected size / {stride} cells, rounded up"
            )
        y = self.up(x)
        return y if size is None else y[..., : size[0], : size[1]]
