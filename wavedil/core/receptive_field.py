"""Receptive fields: in closed form, as a growth table, and measured by gradient; and what they cost.

The closed form is r = 1 + sum over layers of (k_l - 1) d_l (s_1 ... s_{l-1}), after Araujo, Norris
and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wavedil.core.measured_field import MeasuredField, measure_receptive_field
from wavedil.core.schedule import Schedule, parse_schedule
from wavedil.errors import WavedilError

__all__ = [
    "GrowthRow",
    "MeasuredField",
    "count_multiply_adds",
    "count_parameters",
    "growth",
    "measure_receptive_field",
    "receptive_field",
]


class GrowthRow(NamedTuple):
    """One layer of a growth table: its settings, the field up to it, and what one step there spans.

    `receptive_field` and `jump` (distance between neighboring outputs of this layer) are in
    positions of the stack's input; `layer` counts from 1.
    """

    layer: int
    dilation: int
    kernel_size: int
    stride: int
    receptive_field: int
    jump: int


def growth(
    dilations: Schedule,
    kernel_size: int | Sequence[int] | None = None,
    strides: int | Sequence[int] = 1,
    ndim: int = 1,
) -> list[GrowthRow]:
    """How the receptive field grows, layer by layer, from the input on.

    Args:
        dilations: the schedule, as for `parse_schedule`.
        kernel_size: one for all layers or one per layer; None: 2 in one dimension, 3 in more.
        strides: one for all layers or one per layer.
        ndim: space axes; only chooses the default kernel.

    Raises:
        WavedilError: no schedule, or kernel sizes or strides that are not positive integers, one
            per layer.
    """
    rates = parse_schedule(dilations)
    kernels = _per_layer((2 if ndim == 1 else 3) if kernel_size is None else kernel_size, rates)
    rows, field, jump = [], 1, 1
    steps = _per_layer(strides, rates)
    for layer, (rate, kernel, stride) in enumerate(zip(rates, kernels, steps, strict=True), 1):
        field += (kernel - 1) * rate * jump
        jump *= stride
        rows.append(GrowthRow(layer, rate, kernel, stride, field, jump))
    return rows


def receptive_field(
    dilations: Schedule,
    kernel_size: int | Sequence[int] | None = None,
    strides: int | Sequence[int] = 1,
    ndim: int = 1,
) -> int:
    """Receptive field of a stack along one axis, in input positions; arguments as for `growth`.

    >>> receptive_field("1..512")
    1024
    >>> receptive_field("1..16", kernel_size=3)
    63
    """
    return growth(dilations, kernel_size, strides, ndim)[-1].receptive_field


def count_parameters(module: nn.Module) -> int:
    """Number of elements of the module's parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_multiply_adds(module: nn.Module, *example_inputs: Tensor) -> int:
    """Multiply-adds of one forward pass of `module` over `example_inputs`, batch included.

    Convolutions and matrix products count, each output position times weight elements, however
    they are called; element-wise work does not. Divide by the positions for the cost of one. The
    module runs in evaluation mode without gradients, and its training flags are put back.
    """
    from torch.autograd.forward_ad import dual_level
    from torch.utils.flop_counter import FlopCounterMode  # 0.1 s that importing the core can save

    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
        # Under forward-mode differentiation the hand-written forms in wavedil.ops step back for
        # plain PyTorch (ops/fallback.py), whose operations the counter knows.
        with torch.no_grad(), dual_level(), FlopCounterMode(display=False) as counter:
            module(*example_inputs)
    finally:
        for part, flag in training.items():
            part.training = flag
    return counter.get_total_flops() // 2  # it counts a multiplication and an addition as two


def _per_layer(value: int | Sequence[int], rates: tuple[int, ...]) -> tuple[int, ...]:
    values = (value,) * len(rates) if isinstance(value, int) else tuple(value)
    if len(values) != len(rates) or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values):
        raise WavedilError(
            f"kernel sizes and strides are positive integers, one or one per layer ({len(rates)}), got {value!r}"
        )
    return values
