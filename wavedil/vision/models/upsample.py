"""From cells to pixels: the two conventions of where a cell sits, and the layer that learns its own.

A map of stride s has one cell for s x s pixels. Which pixel a cell speaks for depends on how the map was made:

``"center"``: cell i sits at pixel s i + (s - 1) / 2, the middle of its own pixels. So it is with pools and
convolutions of even size, e.g. :class:`VGGFrontEnd`, and it is what ``interpolate(align_corners=False)`` assumes.
The convention of this package.

``"corner"``: cell i sits at pixel s i, its first. So it is with the released VOC, CamVid and KITTI weights of
fyu/dilation, whose labels were taken there, and in networks whose strided layers have odd kernels and equal padding on
both sides (ResNets).

Between the two lie (s - 1) / 2 pixels: 3.5 for a stride of 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.vision.models.foreign_weights import CaffeLayers, caffe_tensors, copy_layers

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
ALIGNMENTS = ("center", "corner")


def upsample(x: Tensor, size: Sequence[int], stride: int | None = None, align: str = "center") -> Tensor:
    """Linear interpolation of ``(batch, channels, *cells)`` to ``(batch, channels, *size)`` pixels.

    Each cell keeps its own pixels also where ``size`` is no multiple of the stride: the map is interpolated by the
    stride exactly and what is over is cut off, never stretched. Pixels beyond the last cell repeat it.

    Args:
        size: pixels along each axis; between cells - 1 and cells + 1 times the stride.
        stride: pixels per cell; None: the smallest power of two that fits.
        align: ``"center"`` or ``"corner"``, see above.

    Raises:
        WavedilError: a stride that does not lead from these cells to that size.
    """
    cells, size = tuple(x.shape[2:]), tuple(size)
    if align not in ALIGNMENTS:
        raise WavedilError(f"align is {align!r}: expected one of {', '.join(ALIGNMENTS)}")
    if x.ndim - 2 not in MODES or len(size) != len(cells):
        raise WavedilError(
            f"map of shape {tuple(x.shape)} and size {size}: expected (batch, channels, *space) and one size per axis"
        )
    strides = [2**power for power in range(12)] if stride is None else [stride]
    fitting = [
        s for s in strides if s >= 1 and all(p // s <= c <= -(-p // s) for p, c in zip(size, cells, strict=True))
    ]
    if not fitting:
        by = "any power of two" if stride is None else f"a stride of {stride}"
        raise WavedilError(
            f"{by} does not lead from {cells} cells to {size} pixels: expected pixels / stride of cells, rounded up or "
            "down"
        )
    stride = fitting[0]
    if stride == 1:
        return x
    mode, corner = MODES[len(cells)], align == "corner"
    # In "corner" the pixels of the last cell look at the one behind it.
    extra = [corner + (p > s * c) for p, c, s in zip(size, cells, [stride] * len(cells), strict=True)]
    if any(extra):
        x = F.pad(x, [side for e in reversed(extra) for side in (0, int(e))], mode="replicate")
    if corner:
        fine = [(c - 1) * stride + 1 for c in x.shape[2:]]
    else:
        fine = [c * stride for c in x.shape[2:]]
    y = F.interpolate(x, size=fine, mode=mode, align_corners=corner)
    return y[(..., *(slice(p) for p in size))]


class LearnedUpsample(nn.Module):
    """Transposed convolution, one 2s x 2s filter a class: ``(batch, C, h, w) -> (batch, C, h s, w s)``, or cut to size.

    It starts as bilinear interpolation in the ``"center"`` convention that fades at the border. The Cityscapes net of
    fyu/dilation ends with it (``ctx_upsample``: kernel 16, stride 8, padding 4, no bias).
    """

    def __init__(self, channels: int, stride: int = 8):
        super().__init__()
        if channels < 1 or stride < 2 or stride % 2:
            raise WavedilError(
                f"channels is {channels} and stride {stride}: expected a positive and an even positive integer"
            )
        self.up = nn.ConvTranspose2d(
            channels, channels, 2 * stride, stride=stride, padding=stride // 2, groups=channels, bias=False
        )
        ramp = 1 - (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride  # 1 / 2s, 3 / 2s … and down again
        with torch.no_grad():
            self.up.weight.copy_(ramp[:, None] * ramp)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        stride = self.up.stride[0]
        if size is not None and any(-(-p // stride) != c for p, c in zip(size, x.shape[2:], strict=True)):
            raise WavedilError(
                f"{tuple(x.shape[2:])} cells of {stride} pixels are not those of {tuple(size)} pixels: expected "
                f"pixels / {stride} of them, rounded up"
            )
        y = self.up(x)
        return y if size is None else y[..., : size[0], : size[1]]

    def load_caffe_names(self, mapping: CaffeLayers) -> LearnedUpsample:
        """Takes ``mapping["ctx_upsample"] = (weight,)``; self."""
        copy_layers([("ctx_upsample", self.up)], caffe_tensors(mapping), "the Cityscapes net of fyu/dilation")
        return self
