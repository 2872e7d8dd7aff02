"""Receptive fields in closed form and layer by layer.

The closed form is r = 1 + sum over layers of (k_l - 1) d_l (s_1 ... s_{l-1}), after Araujo, Norris and Sim, "Computing
Receptive Fields of Convolutional Neural Networks", Distill 2019.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wavedil.core.schedule import Schedule, parse_schedule
from wavedil.core.schema import Dilation, Dimensions, Stride, Taps, checked
from wavedil.errors import WavedilError, count_text

PerAxis = Dilation | Sequence[Dilation]  # also of kernels, which are limited by their number of weights


class GrowthRow(NamedTuple):
    """One layer, counted from 1: its settings, and the receptive field of its outputs.

    ``receptive_field`` and ``jump``, the distance between neighboring outputs, are in positions of the stack's input.
    """

    layer: int
    dilation: int
    kernel_size: int
    stride: int
    receptive_field: int
    jump: int


@checked
def growth(
    dilations: Any,
    kernel_size: Taps | Sequence[Taps] | None = None,
    strides: Stride | Sequence[Stride] = 1,
    ndim: Dimensions = 1,
) -> list[GrowthRow]:
    """The growth of the receptive field layer by layer, starting at the input.

    Args:
        dilations: the schedule, as for :func:`wavedil.core.parse_schedule`.
        kernel_size: one for all layers or one per layer; default 2 in one dimension, 3 in more.
        strides: one for all layers or one per layer.
        ndim: number of space axes; used only for the default kernel size.

    Raises:
        WavedilError: an invalid schedule, or kernel sizes or strides that are not positive integers.
    """
    dilations = parse_schedule(dilations)
    kernels = per_layer(
        "kernel_size", default_kernel_size(ndim) if kernel_size is None else kernel_size, len(dilations)
    )
    strides = per_layer("strides", strides, len(dilations))
    rows, field, jump = [], 1, 1
    for layer, (dilation, kernel, stride) in enumerate(zip(dilations, kernels, strides, strict=True), 1):
        field += (kernel - 1) * dilation * jump
        jump *= stride
        rows.append(GrowthRow(layer, dilation, kernel, stride, field, jump))
    return rows


def receptive_field(
    dilations: Schedule,
    kernel_size: int | Sequence[int] | None = None,
    strides: int | Sequence[int] = 1,
    ndim: int = 1,
) -> int:
    """Receptive field of a stack along one axis, in input positions.

    Args:
        dilations: the schedule, e.g. ``"1..512"`` or ``[1, 2, 4]``.
        kernel_size: one for all layers or one per layer; default 2 in one dimension, 3 in more.
        strides: one for all layers or one per layer.
        ndim: number of space axes; used only for the default kernel size.

    >>> receptive_field("1..512")
    1024
    >>> receptive_field("1..16", kernel_size=3)
    63
    """
    return growth(dilations, kernel_size, strides, ndim)[-1].receptive_field


def default_kernel_size(ndim: int) -> int:
    """Kernel size if none is set: 2 in one dimension (WaveNet), 3 in more."""
    return 2 if ndim == 1 else 3


def per_layer(name: str, value: Any, layers: int) -> tuple:
    """One value per layer, from one value for all or a sequence of them."""
    sequence = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    values = tuple(value) if sequence else (value,) * layers
    if len(values) != layers:
        raise WavedilError(
            f"{name} has {count_text(len(values), 'value')}: expected one, or one for each of {layers} layers"
        )
    return values


def per_axis(name: str, value: PerAxis, ndim: int) -> tuple[int, ...]:
    """One positive int per space axis, from an int or a sequence of ints."""
    try:
        values = tuple(map(operator.index, value if hasattr(value, "__iter__") else (value,) * ndim))
    except TypeError:  # floats, None; NumPy integers pass
        values = ()
    if len(values) != ndim or min(values) < 1:
        raise WavedilError(f"{name} is {value!r}: expected a positive integer, or one for each of {ndim} axes")
    return values
