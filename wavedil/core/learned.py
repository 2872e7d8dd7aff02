"""Dilated convolution with learnable spacings: the positions of the taps are parameters."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from wavedil.core.conv import MAX_WEIGHTS
from wavedil.core.padded_conv import PaddedConv, check_taps, positions_before, tap_offsets
from wavedil.core.receptive_field import PerAxis, per_axis
from wavedil.core.schema import Dimensions, Range, Width, checked
from wavedil.errors import WavedilError
from wavedil.ops.dilated_conv import dilated_conv
from wavedil.ops.dilated_conv.taps import dense_kernel, tap_conv

Deviation = Annotated[float, Range(0.27, 1e6)]

MIN_SIGMA = 0.27  # of the Gaussian interpolation, as in the package dcls; a narrower one is zero between positions
NOT_SNAPPED = -1


class LearnedDilation(PaddedConv):
    """Dilated convolution with learnable spacings (DCLS, Khalfaoui-Hassani et al. 2021, arXiv 2112.03740).

    A drop-in replacement for :class:`DilatedConv`. The position of each tap inside a window of the input is a
    parameter; between two integers the weight is interpolated, so that the position has a gradient. Initially the
    positions, and with linear interpolation also the output, are those of the regular dilated convolution. After
    training, :meth:`snap` rounds the positions.

    Args:
        ndim, in_channels, out_channels, kernel_size, dilation, stride, padding, pad_mode, groups, bias: as in
            :class:`DilatedConv`. The number of taps is the product of ``kernel_size``.
        window: size of the window along each axis; an int, or one per axis. Default: that of the regular convolution,
            (k - 1) * d + 1. The padding determines its alignment: with ``"causal"`` it ends at the present.
        interpolation: ``"linear"`` (bilinear in two dimensions), or ``"gaussian"`` (arXiv 2306.00817), whose standard
            deviation is learned as well, and which costs as much as a convolution with the full window.
        sigma: initial standard deviation of the Gaussians, in positions.
        shared: True for one position per tap. False for one per tap, output and input channel, as in the paper: the
            snapped convolution then has almost as many taps as the window has positions.

    Attributes:
        weight: ``(out_channels, in_channels / groups, taps)``.
        positions: ``(ndim, taps)``, or ``(ndim, out_channels, in_channels / groups, taps)`` if not shared, in positions
            of the input: from 0, the first one of the window, to window - 1. Values outside are clamped. Give
            them an optimizer group with a higher learning rate and no weight decay, which would move them to 0.
        sigma: shaped as the positions; the standard deviation is ``abs(sigma) + 0.27``. None with linear interpolation.
        offsets: the positions after :meth:`snap`, as integers; -1 before.

    Raises:
        WavedilError: as :class:`DilatedConv`, or a window in which the regular taps do not fit.
    """

    @checked
    def __init__(
        self,
        ndim: Dimensions,
        in_channels: Width,
        out_channels: Width,
        kernel_size: PerAxis,
        *,
        dilation: PerAxis = 1,
        window: PerAxis | None = None,
        interpolation: Literal["linear", "gaussian"] = "linear",
        sigma: Deviation = 0.5,
        shared: bool = True,
        stride: PerAxis = 1,
        padding: str | Sequence[str] = "same",
        pad_mode: str = "zeros",
        groups: Width = 1,
        bias: bool = True,
    ):
        super().__init__(
            ndim, in_channels, out_channels, stride=stride, padding=padding, pad_mode=pad_mode, groups=groups
        )
        self.kernel_size = per_axis("kernel_size", kernel_size, ndim)
        dilations = per_axis("dilation", dilation, ndim)
        spans = [(k - 1) * d for k, d in zip(self.kernel_size, dilations, strict=True)]
        self.window = tuple(span + 1 for span in spans) if window is None else per_axis("window", window, ndim)
        if any(size <= span for size, span in zip(self.window, spans, strict=True)):
            needed = " x ".join(str(span + 1) for span in spans)
            raise WavedilError(f"window is {window!r}: expected at least {needed}, which the taps cover at first")
        self.interpolation, self.shared = interpolation, shared
        taps = math.prod(self.kernel_size)
        check_taps("kernel_size", taps)
        weights = out_channels * (in_channels // groups) * max(taps, math.prod(self.window))
        if weights > MAX_WEIGHTS:
            raise WavedilError(
                f"window is {self.window} for {in_channels} to {out_channels} channels: {weights} weights, "
                f"expected at most {MAX_WEIGHTS}"
            )
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, taps))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        shape = (ndim, taps) if shared else (ndim, *self.weight.shape)
        first = [
            positions_before(name, size - 1) - positions_before(name, span)
            for name, size, span in zip(self.padding, self.window, spans, strict=True)
        ]
        self._regular = tap_offsets(self.kernel_size, dilations, first)
        self.positions = nn.Parameter(torch.empty(shape))
        self.sigma = nn.Parameter(torch.empty(shape)) if interpolation == "gaussian" else None
        self._initial_sigma = sigma
        self.register_buffer("offsets", torch.full(shape, NOT_SNAPPED))
        self.register_buffer("_groups", None, persistent=False)  # of taps with equal offsets, one number per weight
        self._unique: list[tuple[int, ...]] | None = None  # offsets of the snapped taps
        self._span = tuple(size - 1 for size in self.window)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws weights and bias uniformly from ±1/√fan_in; sets the positions to those of the regular convolution."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        regular = torch.tensor(self._regular, dtype=self.positions.dtype, device=self.positions.device).t()
        self.positions.copy_(regular.reshape(self.ndim, *[1] * (self.positions.ndim - 2), -1))
        if self.sigma is not None:
            nn.init.constant_(self.sigma, self._initial_sigma - MIN_SIGMA)
        nn.init.constant_(self.offsets, NOT_SNAPPED)
        self._read_offsets()

    @property
    def span(self) -> tuple[int, ...]:
        """Window size - 1 per axis. When snapped, the window ends at the farthest tap; with ``"same"`` padding it is
        symmetric around the output's position.
        """
        return self._span

    @property
    def snapped(self) -> bool:
        """Whether the taps are at integer positions; see :meth:`snap`."""
        return self._unique is not None

    @torch.inference_mode(False)  # the result can be trained
    @torch.no_grad()
    def snap(self) -> "LearnedDilation":
        """Rounds the positions, in place, and returns self. The result is a convolution with irregular taps.

        It computes one product per tap, streams, and has the receptive field of its farthest tap. Weights and bias can
        be trained further, the positions cannot. Each tap then has its weight at one position, so the output changes by
        the rounding, and by the end of the Gaussians. A convolution that loads the weights of a snapped one is snapped.

        Raises:
            WavedilError: positions that are not finite.
        """
        if not self.positions.isfinite().all():
            raise WavedilError("positions are not finite: the training diverged; use a lower learning rate for them")
        self.offsets.copy_(self._clamped().round())
        self.positions.copy_(self.offsets)
        self._read_offsets()
        return self

    def taps(self) -> tuple[Tensor, list[tuple[int, ...]]]:
        """Weights ``(out_channels, in_channels / groups, taps)`` and offsets in ``span`` of the snapped convolution.

        Raises:
            WavedilError: the convolution is not snapped.
        """
        if self._unique is None:
            raise WavedilError("taps are learned, not snapped: call fold_dilations(model) of wavedil.core first")
        return self._snapped_weight(), self._unique

    def kernel(self) -> Tensor:
        """The dense kernel with the taps at their positions: ``(out_channels, in_channels / groups, *[span + 1])``."""
        if self._unique is not None:
            return dense_kernel(self._snapped_weight(), self._unique, self.span)
        positions = self._clamped()
        grid = None
        for axis, size in enumerate(self.window):
            places = torch.arange(size, device=positions.device, dtype=positions.dtype)
            if self.sigma is None:
                low, rest = self._split(positions[axis], size)
                factor = (places == low[..., None]) * (1 - rest[..., None])
                factor = factor + (places == low[..., None] + 1) * rest[..., None]
            else:
                deviation = self.sigma[axis].abs() + MIN_SIGMA
                factor = (-0.5 * ((places - positions[axis][..., None]) / deviation[..., None]).square()).exp()
                factor = factor / factor.sum(-1, keepdim=True)
            # (taps, *window so far) times (taps, size)
            factor = factor[(..., *[None] * axis, slice(None))]
            grid = factor if grid is None else grid[..., None] * factor
        if self.shared:
            return torch.tensordot(self.weight, grid, 1)
        return (self.weight[(..., *[None] * self.ndim)] * grid).sum(2)

    def _apply_taps(self, x: Tensor, pads: list[tuple[int, int]]) -> Tensor:
        options = {"stride": self.stride, "padding": pads, "groups": self.groups}
        if self._unique is not None:
            weight = self._snapped_weight()
            return tap_conv(x, weight, self.bias, offsets=self._unique, span=self.span, **options)
        if self.shared and self.sigma is None and not _is_captured():
            weight, offsets = self._corners()
            return tap_conv(x, weight, self.bias, offsets=offsets, span=self.span, **options)
        return dilated_conv(x, self.kernel(), self.bias, dilation=(1,) * self.ndim, **options)

    def _corners(self) -> tuple[Tensor, list[list[int]]]:
        """Linear interpolation as taps at integers: the two neighbors of each position along each axis."""
        positions = self._clamped()
        lows, rests = zip(
            *(self._split(row, size) for row, size in zip(positions, self.window, strict=True)), strict=True
        )
        weights, offsets = [], []
        for corner in itertools.product(*((0, 1) if size > 1 else (0,) for size in self.window)):
            factors = (rest if high else 1 - rest for rest, high in zip(rests, corner, strict=True))
            weights.append(self.weight * math.prod(factors))
            places = torch.stack([low + high for low, high in zip(lows, corner, strict=True)], 1)
            offsets += places.nan_to_num().long().tolist()
        return torch.cat(weights, 2), offsets

    @staticmethod
    def _split(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The lower of the two integers around each position, so that the other one is in the window, and the rest."""
        low = positions.detach().floor().clamp(max=max(size - 2, 0))
        return low, positions - low

    def _clamped(self) -> Tensor:
        high = torch.tensor(self.window, device=self.positions.device, dtype=self.positions.dtype) - 1
        high = high.view(-1, *[1] * (self.positions.ndim - 1))
        if forward_ad._current_level >= 0:  # the class below has no forward-mode derivative
            return self.positions.clamp(min=0).minimum(high)
        return _Clamp.apply(self.positions, high)

    def _snapped_weight(self) -> Tensor:
        """``(out_channels, in_channels / groups, different offsets)``."""
        total = self.weight.new_zeros(*self.weight.shape[:2], len(self._unique))
        return total.scatter_add(2, self._groups.expand_as(self.weight), self.weight)

    def _read_offsets(self) -> None:
        """Sets what follows from the buffer ``offsets``."""
        self._unique, self._groups, self._span = None, None, tuple(size - 1 for size in self.window)
        if self.offsets.is_meta or (self.offsets == NOT_SNAPPED).all():
            return
        rows = self.offsets.flatten(1).t()
        if (rows < 0).any() or (rows >= rows.new_tensor(self.window)).any():
            raise WavedilError(f"offsets has {rows.min()} to {rows.max()}: expected 0 to window - 1 of {self.window}")
        unique, groups = rows.unique(dim=0, return_inverse=True)
        spans, starts = [], []
        for axis, (name, span) in enumerate(zip(self.padding, self._span, strict=True)):
            center, low, high = positions_before(name, span), int(unique[:, axis].min()), int(unique[:, axis].max())
            if name == "causal":
                spans.append(span - low)
            elif name == "same":
                spans.append(max(2 * (center - low), 2 * (high - center) - 1, 0))
            else:  # the size of the output depends on the span
                spans.append(span)
            starts.append(center - positions_before(name, spans[-1]))
        self._span = tuple(spans)
        self._unique = [tuple(row) for row in (unique - unique.new_tensor(starts)).tolist()]
        self._groups = groups.view(self.offsets.shape[1:])
        for parameter in filter(lambda one: one is not None, (self.positions, self.sigma)):
            parameter.requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._read_offsets()

    def _describe(self, axis: int) -> str:
        return f"a window of {self.span[axis] + 1}"

    def extra_repr(self) -> str:
        taps = f"{self.weight.shape[2]} {'snapped' if self.snapped else 'learned'} taps in a window of {self.window}"
        shared = "" if self.shared else ", not shared"
        return (
            f"{self.ndim}-D, {self.in_channels} -> {self.out_channels}, {taps}, {self.interpolation}{shared}"
            + self._parameters_for_repr()
        )


class _Clamp(torch.autograd.Function):
    """Values clamped to 0 and ``high``, without the part of the gradient that would move them farther outside.

    The gradient of torch.clamp is zero outside, so that a position that an optimizer moves there never returns.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, high: Tensor) -> Tensor:
        return values.clamp(min=0).minimum(high)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        values, high = ctx.saved_tensors
        outward = ((values < 0) & (grad > 0)) | ((values > high) & (grad < 0))
        return grad.masked_fill(outward, 0), None


def _is_captured() -> bool:
    """Whether positions cannot be read as numbers, since a graph is being made."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
