"""Input positions that a spatial operation reads, in the classifier and in the dense network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

IntPair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Window of a convolution or pooling; each field has one value per axis, (height, width).

    Output i reads the inputs ``stride * i - before + dilation * tap`` for ``tap`` from 0 to ``kernel - 1``.

    Attributes:
        padding: (before, after) for each axis. None for TensorFlow's "SAME": ceil(size / stride) outputs, with the
            smaller half of the padding before; it depends on the input size.
        spacing: the dense network's input has ``spacing`` times the resolution of the classifier's input, whose
            positions are every ``spacing``-th of it. (1, 1) in the classifier.
        original_stride: stride in the classifier, for windows of the dense network.
    """

    kernel: IntPair
    stride: IntPair = (1, 1)
    dilation: IntPair = (1, 1)
    padding: tuple[IntPair, IntPair] | None = ((0, 0), (0, 0))
    spacing: IntPair = (1, 1)
    original_stride: IntPair | None = None

    @property
    def span(self) -> IntPair:
        """Distance from the first to the last tap along each axis."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def is_pointwise(self) -> bool:
        """Whether output i depends only on input i."""
        return self.span == (0, 0) and self.stride == (1, 1) and self.padding in (None, ((0, 0), (0, 0)))

    def padding_for(self, size: Sequence[int]) -> list[IntPair]:
        """Padding (before, after) of each axis for an input size; negative values crop."""
        if self.padding is not None:
            return list(self.padding)
        axes = zip(size, self.span, self.stride, self.original_stride or self.stride, self.spacing, strict=True)
        return [_tensorflow_same(*axis) for axis in axes]

    def output_size(self, size: Sequence[int]) -> IntPair:
        """(height, width) of the output for an input size."""
        axes = zip(size, self.padding_for(size), self.span, self.stride, strict=True)
        return tuple((n + sum(pad) - span - 1) // s + 1 for n, pad, span, s in axes)

    def with_ceil_mode(self) -> Self:
        """The window of a pooling layer with ``ceil_mode``: more padding, but no window starts after the input."""
        axes = zip(self.padding, self.span, self.stride, strict=True)
        padding = tuple((before, min(after + s - 1, max(after, span))) for (before, after), span, s in axes)
        return Window(self.kernel, self.stride, self.dilation, padding)

    def dilated(self, spacing: IntPair, stride: IntPair, size: IntPair, target: tuple[int | None, int | None]) -> Self:
        """The window in the dense network: taps ``spacing`` times as far apart along each axis, and this stride.

        Position ``spacing * i`` of the dense input is position i of the classifier's input, so multiples of ``spacing``
        read multiples of ``spacing``, and padding where the classifier reads padding. The padding before is therefore
        ``spacing`` times the original. The padding after only has to be large enough; it sets the size of the output.

        Args:
            size: input size in the dense network for which ``target`` is computed.
            target: output size for each axis; None for ``spacing`` times the original padding after.
        """
        span = tuple(apart * s for apart, s in zip(spacing, self.span, strict=True))
        padding = None
        if self.padding is not None:
            befores = [apart * before for apart, (before, _) in zip(spacing, self.padding, strict=True)]
            axes = zip(self.padding, target, span, size, befores, spacing, stride, strict=True)
            afters = [
                apart * after if want is None else (want - 1) * step + width + 1 - n - before
                for (_, after), want, width, n, before, apart, step in axes
            ]
            padding = tuple(zip(befores, afters, strict=True))
        dilation = tuple(apart * d for apart, d in zip(spacing, self.dilation, strict=True))
        return Window(self.kernel, stride, dilation, padding, spacing, self.stride)


def _tensorflow_same(size: int, span: int, stride: int, original_stride: int, spacing: int) -> IntPair:
    """Padding (before, after) of TensorFlow's "SAME" in the classifier, in positions of the dense network."""
    original = -(-size // spacing)  # size of the classifier's input
    # Remainders: of a padded image they are 0 for any size, also for torch.export.
    total = torch.sym_max(span // spacing + 1 - original_stride + -original % original_stride, 0)
    before = total // 2 * spacing
    return before, span + 1 - stride + -size % stride - before
