"""Which positions of its input a spatial operation reads, in the classifier and in the dense network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Taps of a convolution or pooling; every field is (height, width).

    Output i reads inputs ``stride * i - before + dilation * tap`` for each tap below ``kernel``.

    Attributes:
        padding: (before, after) of each axis. None: as TensorFlow's "SAME", so that ceil(size / stride) outputs
            result and the smaller half lies before; it depends on the size and is worked out for each input.
        hole: the classifier's input is every hole-th position of this window's input. 1 in the classifier itself.
        strided: the stride in the classifier, where this is a window of the dense network.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: tuple[Pair, Pair] | None = ((0, 0), (0, 0))
    hole: int = 1
    strided: Pair | None = None

    @property
    def span(self) -> Pair:
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def is_point(self) -> bool:
        """Whether output i depends on input i alone."""
        return self.span == (0, 0) and self.stride == (1, 1) and self.padding in (None, ((0, 0), (0, 0)))

    def pads(self, size: Sequence[int]) -> list[Pair]:
        """Positions added (before, after) on each axis of an input of this size; cut off where negative."""
        if self.padding is not None:
            return list(self.padding)
        axes = zip(size, self.span, self.stride, self.strided or self.stride, strict=True)
        return [_tensorflow_same(*axis, self.hole) for axis in axes]

    def out_size(self, size: Sequence[int]) -> Pair:
        axes = zip(size, self.pads(size), self.span, self.stride, strict=True)
        return tuple((n + sum(pad) - span - 1) // s + 1 for n, pad, span, s in axes)

    def ceiled(self) -> Window:
        """The window of a pooling in ``ceil_mode``: as if more were padded, but no window begins behind the end."""
        axes = zip(self.padding, self.span, self.stride, strict=True)
        return Window(
            self.kernel,
            self.stride,
            self.dilation,
            tuple((before, min(after + s - 1, max(after, span))) for (before, after), span, s in axes),
        )

    def opened(self, hole: int, stride: int, size: Pair, target: tuple[int | None, int | None]) -> Window:
        """The dense network's window: the taps ``hole`` times as far apart, at the given stride.

        Position ``hole * i`` of its input being position i of the classifier's, multiples of ``hole`` again read
        multiples of ``hole``, and where the classifier reads padding, padding. So before the map ``hole`` times as
        much is padded. What is padded behind it no position of the classifier sees, as long as it is enough, and it
        decides the size of the result.

        Args:
            size: of the dense network's input, to which ``target`` belongs.
            target: wanted size of the result for each axis; None: pad ``hole`` times as much behind as well.
        """
        span = tuple(hole * s for s in self.span)
        padding = None
        if self.padding is not None:
            befores = [hole * before for before, _ in self.padding]
            afters = [
                hole * after if want is None else (want - 1) * stride + width + 1 - n - before
                for (_, after), want, width, n, before in zip(self.padding, target, span, size, befores, strict=True)
            ]
            padding = tuple(zip(befores, afters, strict=True))
        dilation = tuple(hole * d for d in self.dilation)
        return Window(self.kernel, (stride, stride), dilation, padding, hole, self.stride)


def _tensorflow_same(size: int, span: int, stride: int, strided: int, hole: int) -> Pair:
    inside = -(-size // hole)  # positions of the classifier's map
    before = max((-(-inside // strided) - 1) * strided + span // hole + 1 - inside, 0) // 2 * hole
    return before, (-(-size // stride) - 1) * stride + span + 1 - size - before
