"""A stack of dilated blocks: any block, any dilation schedule, 1 to 3 dimensions."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wavedil.core.block import GatedBlock, sequential_receptive_field
from wavedil.core.conv import add_weight_norm
from wavedil.core.padded_conv import has_hooks
from wavedil.core.receptive_field import PerAxis, default_kernel_size
from wavedil.core.schedule import Schedule, parse_layers
from wavedil.core.schema import Channels, Dimensions, LayersPerSegment, OptionalChannels, Scale, checked
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError
from wavedil.ops.skip_sum import skip_sum


class DilatedStack(nn.Module):
    """Blocks in sequence, one per dilation, in ``layers``.

    With :class:`GatedBlock` the output is the sum of all layers' skips, or with ``skip_channels=0`` the residual output
    of the last layer. With blocks that return one tensor it is the output of the last block.

    The skip connections of all layers are computed and summed in one matrix product over the concatenated gated
    activations.

    Args:
        ndim: number of space axes.
        channels: channels of the input and of every layer. For blocks that can change the width (:class:`ConvBlock`)
            it may be ``len(dilations) + 1`` integers: the width of the input, then of each layer's output.
        dilations: a schedule, e.g. ``doubling(512, repeats=3)``, ``"1..512 x3"`` or ``[1, 2, 5]``; in a list, the
            dilation of a layer may have one integer per axis, e.g. ``[(1, 2, 2), (1, 4, 4)]``.
        kernel_size: an int, or one per axis; default 2 in one dimension, 3 in more.
        block: a class or function that is called once per layer with ``(ndim, channels)`` (or
            ``(ndim, channels, out_channels)``), ``kernel_size=``, ``dilation=``, ``causal=`` and ``options``. For gated
            blocks: :class:`GatedBlock`, a subclass, or a ``functools.partial`` of one.
        causal: one flag, or one per axis.
        skip_channels: width of the skip path of gated blocks; default ``channels``; 0 for none.
        last_residual: whether the last gated block has a residual convolution. Default: only if ``skip_channels`` is
            0, since its output is unused otherwise.
        skip_scale: one factor, or one per layer.
        weight_norm: applies :func:`add_weight_norm`.
        checkpoint_layers: recomputes activations during backward, in segments of this number of layers; 0 keeps all.
            Saves memory for long inputs and costs one more forward pass.
        options: arguments of every block, e.g. ``condition_channels``, ``residual_scale``, ``activation``.

    Shapes:
        x: ``(batch, channels, *space)``.
        condition: as in the block.
        output: ``(batch, skip_channels, *space)``, or ``(batch, channels, *space)`` without skips.
    """

    @checked
    def __init__(
        self,
        ndim: Dimensions,
        channels: Channels | Sequence[Channels],
        dilations: Schedule | Sequence[int | Sequence[int]],
        kernel_size: PerAxis | None = None,
        *,
        block: Callable[..., nn.Module] = GatedBlock,
        causal: bool | Sequence[bool] = False,
        skip_channels: OptionalChannels | None = None,
        last_residual: bool | None = None,
        skip_scale: Scale | Sequence[Scale] = 1.0,
        weight_norm: bool = False,
        checkpoint_layers: LayersPerSegment = 0,
        **options,
    ):
        super().__init__()
        self.ndim = ndim
        self.dilations = parse_layers(dilations, ndim)
        kernel_size = default_kernel_size(ndim) if kernel_size is None else kernel_size
        self.kernel_size = kernel_size
        self.checkpoint_layers = checkpoint_layers
        depth = len(self.dilations)
        per_layer: list[dict] = [
            {"kernel_size": kernel_size, "dilation": d, "causal": causal, **options} for d in self.dilations
        ]
        if _makes_gated_blocks(block):
            if not isinstance(channels, int):
                raise WavedilError(
                    f"channels is {channels!r}: expected one integer, since gated blocks add to their input"
                )
            scales = [skip_scale] * depth if isinstance(skip_scale, int | float) else list(skip_scale)
            if len(scales) != depth:
                raise WavedilError(
                    f"skip_scale has {len(scales)} factors: expected one, or one for each of {depth} layers"
                )
            for kwargs, scale in zip(per_layer, scales, strict=True):
                kwargs.update(skip_channels=skip_channels, skip_scale=scale)
            per_layer[-1]["residual"] = skip_channels == 0 if last_residual is None else last_residual
        elif (skip_channels, last_residual, skip_scale) != (None, None, 1.0):
            raise WavedilError(
                "skip_channels, skip_scale and last_residual are options of GatedBlock: omit them for other blocks"
            )
        if isinstance(channels, int):
            widths: list[tuple[int, ...]] = [(channels,)] * depth
        else:
            widths = list(pairwise(channels))
            if len(widths) != depth:
                raise WavedilError(
                    f"channels has {len(channels)} widths: expected {depth + 1}, of the input and of {depth} layers"
                )
        self.layers = nn.ModuleList(
            block(ndim, *width, **kwargs) for width, kwargs in zip(widths, per_layer, strict=True)
        )
        gated = [isinstance(layer, GatedBlock) for layer in self.layers]
        self._sums_skips = all(gated) and all(layer.skip is not None for layer in self.layers)
        if weight_norm:
            add_weight_norm(self)

    @property
    def receptive_field(self) -> int | tuple[int, ...]:
        """1 + the sum of (k - 1) * d: an int if all axes have the same value, else one per axis."""
        return sequential_receptive_field(self.layers, self.ndim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        layers = list(self.layers)
        if not self.checkpoint_layers or not torch.is_grad_enabled():
            return self._run(layers, x, condition)[int(self._sums_skips)]
        skips = None
        for start in range(0, len(layers), self.checkpoint_layers):
            segment = layers[start : start + self.checkpoint_layers]
            x, skip = checkpoint(self._run, segment, x, condition, use_reentrant=False)
            skips = skip if skips is None else skips + skip
        return skips if self._sums_skips else x

    def step(self, x: Tensor, state: State | None = None, condition: Tensor | None = None) -> tuple[Tensor, State]:
        """Processes the next chunk along the causal axis; returns ``(y, state)``.

        The outputs of all chunks, concatenated, equal ``forward`` of the concatenated inputs. ``state`` is a dict of
        tensors; None starts with zero history in every layer.
        """
        new: State = {}
        gates = []
        for index, layer in enumerate(self.layers):
            past = substate(state, f"layers.{index}")
            if isinstance(layer, GatedBlock):
                (x, z), history = layer.step_gated(x, past, condition)
                gates.append(z)
            else:
                x, history = layer.step(x, past) if condition is None else layer.step(x, past, condition)
            new |= add_prefix(f"layers.{index}", history)
        return (self._sum_skips(list(self.layers), gates) if self._sums_skips else x), new

    def skip_product(self, layers: Sequence[GatedBlock] | None = None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the product that computes the sum of all skips from the concatenated gated activations.

        Shapes: ``(skip_channels, layers * hidden_channels, 1, ...)`` and ``(skip_channels,)``.
        """
        layers = list(self.layers) if layers is None else layers
        weight = torch.cat([layer.skip.weight * layer.skip_scale for layer in layers], dim=1)
        biases = [layer.skip.bias * layer.skip_scale for layer in layers if layer.skip.bias is not None]
        return weight, torch.stack(biases).sum(0) if biases else None

    def _run(self, layers: Sequence[nn.Module], x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
        gates = []
        for layer in layers:
            if isinstance(layer, GatedBlock):
                x, z = layer.forward_gated(x, condition)
                gates.append(z)
            else:
                x = layer(x) if condition is None else layer(x, condition)
        return x, (self._sum_skips(layers, gates) if self._sums_skips else None)

    def _sum_skips(self, layers: Sequence[GatedBlock], gates: list[Tensor]) -> Tensor:
        if has_hooks(*(layer.skip for layer in layers)):
            return sum(layer.project_skip(z) for layer, z in zip(layers, gates, strict=True))
        weight, bias = self.skip_product(layers)
        return skip_sum(gates, weight, bias)


def _makes_gated_blocks(block: Callable[..., nn.Module]) -> bool:
    while isinstance(block, partial):
        block = block.func
    return isinstance(block, type) and issubclass(block, GatedBlock)
