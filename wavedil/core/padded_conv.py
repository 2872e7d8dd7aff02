"""Padding, streaming and checks of all convolutions of the core; their subclasses say where the taps are."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.receptive_field import PerAxis, per_axis
from wavedil.core.stream import State, take_history
from wavedil.errors import WavedilError, one_of

PADDINGS = ("same", "causal", "valid")
PAD_MODES = ("zeros", "reflect")

MAX_TAPS = 2**16  # of a convolution that holds the place of each


def paddings(
    ndim: int, padding: str | Sequence[str] | None = None, causal: bool | Sequence[bool] = False
) -> tuple[str, ...]:
    """The padding mode of each axis, from ``padding`` or ``causal``, of which only one may be set."""
    if padding is None:
        flags = (causal,) * ndim if isinstance(causal, bool) else tuple(causal)
        if len(flags) != ndim:
            raise WavedilError(f"causal is {causal!r}: expected a boolean, or one for each of {ndim} axes")
        return tuple("causal" if flag else "same" for flag in flags)
    if causal is not False:
        raise WavedilError(f"padding is {padding!r} and causal is {causal!r}: expected only one of them")
    names = (padding,) * ndim if isinstance(padding, str) else tuple(padding)
    if len(names) != ndim or any(name not in PADDINGS for name in names):
        raise WavedilError(
            f"padding is {padding!r}: expected {one_of(padding, PADDINGS)}, or one for each of {ndim} axes"
        )
    return names


def axes_value(values: Sequence[int]) -> int | tuple[int, ...]:
    """Per-axis values as one int if they are equal, else as a tuple."""
    return values[0] if len(set(values)) == 1 else tuple(values)


def check_taps(name: str, taps: int) -> None:
    """Raises WavedilError for more taps than ``MAX_TAPS``."""
    if taps > MAX_TAPS:
        raise WavedilError(
            f"{name} makes {taps} taps: expected at most {MAX_TAPS}; use DilatedConv for large dense kernels"
        )


def positions_before(padding: str, span: int) -> int:
    """Positions of a kernel before that of the output: all of ``span`` with ``"causal"`` padding, else half of it."""
    return span if padding == "causal" else span // 2


def tap_offsets(kernel_size: Sequence[int], dilation: Sequence[int], first: Sequence[int]) -> list[tuple[int, ...]]:
    """The offsets of regular taps in the order of a kernel's weights; ``first`` is that of the first tap, per axis."""
    axes = zip(kernel_size, dilation, first, strict=True)
    return list(itertools.product(*([start + i * d for i in range(k)] for k, d, start in axes)))


class PaddedConv(nn.Module):
    """A convolution over ``ndim`` space axes: ``(batch, in_channels, *space) -> (batch, out_channels, *space')``.

    Subclasses define ``span``, the distance between the first and the last position of the kernel along each axis, and
    ``_apply_taps``, which computes the result. Arguments are those of :class:`DilatedConv`.
    """

    span: tuple[int, ...]
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        ndim: int,
        in_channels: int,
        out_channels: int,
        *,
        stride: PerAxis = 1,
        padding: str | Sequence[str] = "same",
        pad_mode: str = "zeros",
        groups: int = 1,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise WavedilError(
                f"groups is {groups}: expected a divisor of in_channels={in_channels} and out_channels={out_channels}"
            )
        if pad_mode not in PAD_MODES:
            raise WavedilError(f"pad_mode is {pad_mode!r}: expected {one_of(pad_mode, PAD_MODES)}")
        self.ndim, self.in_channels, self.out_channels, self.groups = ndim, in_channels, out_channels, groups
        self.stride = per_axis("stride", stride, ndim)
        self.padding = paddings(ndim, padding)
        if pad_mode == "reflect" and "causal" in self.padding:
            raise WavedilError(
                "pad_mode is 'reflect' with causal padding: outputs would depend on the future; use pad_mode='zeros'"
            )
        self.pad_mode = pad_mode

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        """1 + span input positions: an int if all axes have the same value, else one per axis."""
        return axes_value([1 + span for span in self.span])

    @property
    def pads(self) -> list[tuple[int, int]]:
        """Padding (before, after) of each axis, in positions."""
        before = [positions_before(name, span) for name, span in zip(self.padding, self.span, strict=True)]
        sides = zip(self.padding, before, self.span, strict=True)
        return [(0, 0) if name == "valid" else (first, span - first) for name, first, span in sides]

    def stream_axis(self) -> int:
        """The space axis along which :meth:`step` takes chunks: the last causal one.

        Raises:
            WavedilError: no axis is causal.
        """
        causal = [axis for axis, name in enumerate(self.padding) if name == "causal"]
        if not causal:
            raise WavedilError(f"padding is {self.padding}: streaming needs a causal axis (causal=True)")
        return causal[-1]

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, *space) -> (batch, out_channels, *space')``."""
        return self._convolve(self.check(x), self.pads)

    def valid(self, x: Tensor) -> Tensor:
        """The outputs of :meth:`forward` that do not depend on padding: those with all their inputs in ``x``."""
        return self._convolve(self.check(x), [(0, 0)] * self.ndim)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Processes the next chunk along :meth:`stream_axis`, of any length including 0.

        The outputs of all chunks, concatenated, equal ``forward`` of the concatenated inputs.

        Args:
            x: the chunk, ``(batch, in_channels, *space)``.
            state: the state that the previous step returned, with the last ``span`` inputs under ``"history"``.
                None starts from zeros, as causal padding does.

        Returns:
            The output and the new state.
        """
        self.check(x)
        axis = self.stream_axis()
        if self.stride[axis] != 1:
            raise WavedilError(f"stride is {self.stride[axis]} along axis {axis}: streaming needs 1")
        span = self.span[axis]
        joined = torch.cat([take_history(state, x, axis, span), x], dim=axis + 2)
        pads = self.pads
        pads[axis] = (0, 0)
        # A copy, since a view would keep the complete chunk in memory as long as the state.
        history = joined.narrow(axis + 2, joined.shape[axis + 2] - span, span).clone()
        return self._convolve(joined, pads), {"history": history}

    def _convolve(self, x: Tensor, pads: list[tuple[int, int]]) -> Tensor:
        if self.pad_mode == "reflect" and any(map(any, pads)):
            for axis, (size, pad) in enumerate(zip(x.shape[2:], pads, strict=True)):
                if max(pad) >= size:
                    raise WavedilError(
                        f"axis {axis} of the input has {size} positions: reflect padding by {max(pad)} needs "
                        f"{max(pad) + 1} or more; use a larger input or pad_mode='zeros'"
                    )
            x = F.pad(x, [side for pad in reversed(pads) for side in pad], mode="reflect")
            pads = [(0, 0)] * self.ndim
        sizes = [size + sum(pad) - span for size, pad, span in zip(x.shape[2:], pads, self.span, strict=True)]
        if not torch.compiler.is_exporting() and min(sizes) < 1:  # there it would compare the axes with each other
            axis = sizes.index(min(sizes))
            if sizes[axis] < 0 or self.padding[axis] == "valid":
                raise WavedilError(
                    f"axis {axis} of the input has {x.shape[axis + 2]} positions: {self._describe(axis)} and "
                    f"{self.padding[axis]!r} padding needs at least {self.span[axis] + 1}"
                )
        return self._apply_taps(x, pads)

    def check(self, x: Tensor) -> Tensor:
        """Returns x; raises a WavedilError unless its rank and number of channels match."""
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_channels:
            raise WavedilError(
                f"x has shape {tuple(x.shape)}: expected (batch, {self.in_channels}, *space) with {self.ndim} "
                "space axes"
            )
        return x

    def _apply_taps(self, x: Tensor, pads: list[tuple[int, int]]) -> Tensor:
        """The convolution of x after zero padding by ``pads``."""
        raise NotImplementedError

    def _describe(self, axis: int) -> str:
        """The taps along an axis, for messages."""
        raise NotImplementedError

    def _parameters_for_repr(self) -> str:
        text = f", stride {self.stride}" if max(self.stride) > 1 else ""
        return f"{text}, padding {axes_value(self.padding)}" + (f", groups {self.groups}" if self.groups > 1 else "")


def has_hooks(*modules: nn.Module) -> bool:
    """Whether a module has forward or backward hooks, which a fused operation on its weights would skip."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for module in modules for name in hooks)
