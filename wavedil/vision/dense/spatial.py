"""The operations of a traced network that mix positions, and the dense layer that replaces each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrize

from wavedil.errors import WavedilError
from wavedil.vision.dense.layers import (
    BORDERS,
    DenseAvgPool2d,
    DenseBlurPool2d,
    DenseConv2d,
    DenseFunctionalConv,
    DenseMaxPool2d,
    DensePad2d,
)
from wavedil.vision.dense.window import Pair, Window


class Spatial(NamedTuple):
    """One spatial operation: what it reads, and how its dense form is built from a window with holes.

    ``tensors`` are the nodes that the dense layer is called with, the map first.
    """

    window: Window
    build: Callable[[Window], nn.Module]
    tensors: tuple[fx.Node, ...]


def read(node: fx.Node, root: nn.Module) -> Spatial | None:
    """The spatial operation of a node of ``root``'s graph; None where it is none that is known.

    Raises:
        WavedilError: an operation that mixes positions and has no dense form here.
    """
    if node.op == "call_module":
        return _read_module(root.get_submodule(node.target), node)
    if node.op == "call_function" and node.target in _FUNCTIONS:
        return _FUNCTIONS[node.target](*node.args, **node.kwargs)
    if node.op == "call_function" and node.target in _REFUSED_FUNCTIONS:
        raise WavedilError(f"{node.target.__name__} has no dense form")
    return None


def is_traced_through(module: nn.Module) -> bool:
    """Whether a layer is of torch's spatial kinds but computes in its own way, so that one must look inside."""
    return isinstance(module, _KINDS) and _kind(module) is None


def _kind(module: nn.Module) -> str | None:
    """The name of the class whose forward the module runs, where that is one of those read below."""
    for kind in type(module).__mro__:
        if "forward" in vars(kind):
            ours = kind.__module__.startswith(("torch.nn.", "timm.layers."))
            return kind.__name__ if ours and kind.__name__ in _MODULES else None
    return None


def _read_module(module: nn.Module, node: fx.Node) -> Spatial | None:
    kind = _kind(module)
    if kind is not None:
        if parametrize.is_parametrized(module):
            raise WavedilError(f"{type(module).__name__} has parametrized weights: remove the parametrization first")
        window, build = _MODULES[kind](module)
        return Spatial(window, build, (node.args[0] if node.args else next(iter(node.kwargs.values())),))
    if isinstance(module, _REFUSED):
        raise WavedilError(f"{type(module).__name__} has no dense form")
    return None


Read = tuple[Window, Callable[[Window], nn.Module]]


def _conv(conv: nn.Conv2d) -> Read:
    if conv.padding == "valid":
        padding = ((0, 0), (0, 0))
    elif conv.padding == "same":
        spans = [(k - 1) * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        padding = tuple((span // 2, span - span // 2) for span in spans)
    else:
        padding = _both_sides(conv.padding)
    return Window(conv.kernel_size, conv.stride, conv.dilation, padding), lambda window: DenseConv2d(conv, window)


def _conv_same(conv: nn.Conv2d) -> Read:
    return Window(conv.kernel_size, conv.stride, conv.dilation, None), lambda window: DenseConv2d(conv, window)


def _max_pool(pool: nn.MaxPool2d) -> Read:
    if pool.return_indices:
        raise WavedilError("MaxPool2d with return_indices has no dense form")
    return _max_window(pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode), DenseMaxPool2d


def _max_pool_same(pool: nn.MaxPool2d) -> Read:
    return Window(pool.kernel_size, pool.stride, pool.dilation, None), DenseMaxPool2d


def _avg_pool(pool: nn.AvgPool2d) -> Read:
    options = pool.ceil_mode, pool.count_include_pad, pool.divisor_override
    return _avg_window(pool.kernel_size, pool.stride, pool.padding, *options)


def _avg_pool_same(pool: nn.AvgPool2d) -> Read:
    divisor = pool.divisor_override or pool.kernel_size[0] * pool.kernel_size[1]  # its padding counts as zeros
    return Window(pool.kernel_size, pool.stride, padding=None), lambda window: DenseAvgPool2d(window, divisor=divisor)


def _blur_pool(pool: nn.Module) -> Read:
    left, right, top, bottom = pool.padding
    window = Window(_pair(pool.filt_size), _pair(pool.stride), padding=((top, bottom), (left, right)))
    border = pool.pad_mode
    if border not in BORDERS:
        raise WavedilError(f"BlurPool2d pads with {border!r}: expected one of {', '.join(BORDERS)}")
    return window, lambda window: DenseBlurPool2d(pool.filt, window, border)


def _pad_layer(border: str) -> Callable[[nn.Module], Read]:
    def read(pad: nn.Module) -> Read:
        left, right, top, bottom = pad.padding
        value = float(getattr(pad, "value", 0.0))
        window = Window((1, 1), padding=((top, bottom), (left, right)))
        return window, lambda window: DensePad2d(window, border, value)

    return read


def _both_sides(padding: int | Pair) -> tuple[Pair, Pair]:
    return tuple((p, p) for p in _pair(padding))


def _pair(value: object) -> Pair:
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    values = values * 2 if len(values) == 1 else values
    if len(values) != 2 or not all(isinstance(v, int) for v in values):
        raise WavedilError(f"{value!r} depends on the input: expected fixed numbers")
    return values


def _max_window(kernel_size, stride, padding, dilation, ceil_mode) -> Window:
    kernel = _pair(kernel_size)
    window = Window(kernel, _pair(stride or kernel), _pair(dilation), _both_sides(padding))
    return window.ceiled() if ceil_mode else window


def _avg_window(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override) -> Read:
    kernel, pads = _pair(kernel_size), _both_sides(padding)
    window = Window(kernel, _pair(stride or kernel), padding=pads)

    def build(window: Window) -> nn.Module:
        counted = tuple((p * window.hole,) * 2 if count_include_pad else (0, 0) for p, _ in pads)
        return DenseAvgPool2d(window, counted, divisor_override)

    return window.ceiled() if ceil_mode else window, build


# The functions by the names of torch's arguments, so that a call in any form is read.


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Spatial:
    if isinstance(padding, str) or not isinstance(groups, int):
        raise WavedilError(f"conv2d with padding={padding!r} and groups={groups} has no dense form")
    shape = weight.meta["shape"]
    window = Window(tuple(shape[2:]), _pair(stride), _pair(dilation), _both_sides(padding))
    return Spatial(window, lambda window: DenseFunctionalConv(window, groups), (input, weight, bias))


def _max_pool2d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> Spatial:
    if return_indices:
        raise WavedilError("max_pool2d with return_indices has no dense form")
    return Spatial(_max_window(kernel_size, stride, padding, dilation, ceil_mode), DenseMaxPool2d, (input,))


def _avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
) -> Spatial:
    options = ceil_mode, count_include_pad, divisor_override
    return Spatial(*_avg_window(kernel_size, stride, padding, *options), (input,))


def _pad(input, pad, mode="constant", value=None) -> Spatial:
    sides = list(pad)
    if not all(isinstance(side, int) for side in sides) or any(sides[4:]) or mode not in BORDERS:
        raise WavedilError(f"pad by {pad} has no dense form")
    left, right, top, bottom = (sides + [0] * 4)[:4]
    window = Window((1, 1), padding=((top, bottom), (left, right)))
    return Spatial(window, lambda window: DensePad2d(window, mode, value or 0.0), (input,))


_MODULES: dict[str, Callable[..., Read]] = {
    "Conv2d": _conv,
    "Conv2dSame": _conv_same,
    "MaxPool2d": _max_pool,
    "MaxPool2dSame": _max_pool_same,
    "AvgPool2d": _avg_pool,
    "AvgPool2dSame": _avg_pool_same,
    "BlurPool2d": _blur_pool,
    "_ConstantPadNd": _pad_layer("constant"),
    "_ReflectionPadNd": _pad_layer("reflect"),
    "_ReplicationPadNd": _pad_layer("replicate"),
    "_CircularPadNd": _pad_layer("circular"),
}
_KINDS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_REFUSED = (nn.ConvTranspose2d, nn.FractionalMaxPool2d, nn.LPPool2d, nn.Unfold)
_REFUSED_FUNCTIONS = {F.conv_transpose2d, F.fractional_max_pool2d, F.grid_sample, F.lp_pool2d, F.unfold}
_FUNCTIONS = {
    F.conv2d: _conv2d,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.pad: _pad,
}
