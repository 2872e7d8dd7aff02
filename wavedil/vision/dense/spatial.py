"""Spatial operations of a traced network, i.e. those that combine positions, and their dense replacements."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrize

from wavedil.errors import WavedilError, one_of
from wavedil.vision.dense.layers import (
    BORDERS,
    DenseAvgPool2d,
    DenseBlurPool2d,
    DenseConv2d,
    DenseFunctionalConv,
    DenseMaxPool2d,
    DensePad2d,
)
from wavedil.vision.dense.window import IntPair, Window


class SpatialOp(NamedTuple):
    """One spatial operation of the graph.

    Attributes:
        window: the input positions it reads.
        build: builds the dense layer from a dilated window.
        tensors: nodes with the inputs of the dense layer, the feature map first.
    """

    window: Window
    build: Callable[[Window], nn.Module]
    tensors: tuple[fx.Node, ...]


def read_spatial_op(node: fx.Node, root: nn.Module) -> SpatialOp | None:
    """The spatial operation of a node of the graph of ``root``; None if it is not a known spatial operation.

    Raises:
        WavedilError: a spatial operation without a dense form.
    """
    if node.op == "call_module":
        return _read_module(root.get_submodule(node.target), node)
    if node.op == "call_function" and node.target in _FUNCTIONS:
        return _FUNCTIONS[node.target](*node.args, **node.kwargs)
    if node.op == "call_function" and node.target in _UNSUPPORTED_FUNCTIONS:
        raise WavedilError(f"{node.target.__name__} has no dense form")
    return None


def has_custom_forward(module: nn.Module) -> bool:
    """Whether a layer inherits from a spatial layer of torch but has another ``forward``, so it must be traced into."""
    return isinstance(module, _SPATIAL_LAYERS) and _forward_class(module) is None


def _forward_class(module: nn.Module) -> str | None:
    """Name of the class that defines the module's ``forward``, if that is one of ``_MODULES``."""
    for cls in type(module).__mro__:
        if "forward" in vars(cls):
            known = cls.__module__.startswith(("torch.nn.", "timm.layers."))
            return cls.__name__ if known and cls.__name__ in _MODULES else None
    return None


def _read_module(module: nn.Module, node: fx.Node) -> SpatialOp | None:
    name = _forward_class(module)
    if name is not None:
        if parametrize.is_parametrized(module):
            raise WavedilError(
                f"{type(module).__name__} has parametrized weights: expected plain ones; remove the parametrization"
            )
        window, build = _MODULES[name](module)
        return SpatialOp(window, build, (node.args[0] if node.args else next(iter(node.kwargs.values())),))
    if isinstance(module, _UNSUPPORTED_LAYERS):
        raise WavedilError(f"{type(module).__name__} has no dense form")
    return None


#: The window of an operation, and a function from a dilated window to the dense layer.
Conversion = tuple[Window, Callable[[Window], nn.Module]]


def _conv(conv: nn.Conv2d) -> Conversion:
    if conv.padding == "valid":
        padding = ((0, 0), (0, 0))
    elif conv.padding == "same":
        spans = [(k - 1) * d for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        padding = tuple((span // 2, span - span // 2) for span in spans)
    else:
        padding = _symmetric(conv.padding)
    return Window(conv.kernel_size, conv.stride, conv.dilation, padding), lambda window: DenseConv2d(conv, window)


def _conv_same(conv: nn.Conv2d) -> Conversion:
    return Window(conv.kernel_size, conv.stride, conv.dilation, None), lambda window: DenseConv2d(conv, window)


def _max_pool(pool: nn.MaxPool2d) -> Conversion:
    if pool.return_indices:
        raise WavedilError("MaxPool2d with return_indices has no dense form")
    return _max_window(pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode), DenseMaxPool2d


def _max_pool_same(pool: nn.MaxPool2d) -> Conversion:
    return Window(pool.kernel_size, pool.stride, pool.dilation, None), DenseMaxPool2d


def _avg_pool(pool: nn.AvgPool2d) -> Conversion:
    options = pool.ceil_mode, pool.count_include_pad, pool.divisor_override
    return _avg_window(pool.kernel_size, pool.stride, pool.padding, *options)


def _avg_pool_same(pool: nn.AvgPool2d) -> Conversion:
    divisor = pool.divisor_override or pool.kernel_size[0] * pool.kernel_size[1]  # padding counts as zeros
    return Window(pool.kernel_size, pool.stride, padding=None), lambda window: DenseAvgPool2d(window, divisor=divisor)


def _blur_pool(pool: nn.Module) -> Conversion:
    left, right, top, bottom = pool.padding
    window = Window(_pair(pool.filt_size), _pair(pool.stride), padding=((top, bottom), (left, right)))
    border = pool.pad_mode
    if border not in BORDERS:
        raise WavedilError(f"BlurPool2d pads with {border!r}: expected {one_of(border, BORDERS)}")
    return window, lambda window: DenseBlurPool2d(pool.filt, window, border)


def _pad_layer(border: str) -> Callable[[nn.Module], Conversion]:
    def read(pad: nn.Module) -> Conversion:
        left, right, top, bottom = pad.padding
        value = float(getattr(pad, "value", 0.0))
        window = Window((1, 1), padding=((top, bottom), (left, right)))
        return window, lambda window: DensePad2d(window, border, value)

    return read


def _symmetric(padding: int | IntPair) -> tuple[IntPair, IntPair]:
    return tuple((p, p) for p in _pair(padding))


def _pair(value: object) -> IntPair:
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    values = values * 2 if len(values) == 1 else values
    if len(values) != 2 or not all(isinstance(v, int) for v in values):
        raise WavedilError(f"{value!r} depends on the input: expected constant integers")
    return values


def _max_window(kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Window:
    kernel = _pair(kernel_size)
    window = Window(kernel, _pair(stride or kernel), _pair(dilation), _symmetric(padding))
    return window.with_ceil_mode() if ceil_mode else window


def _avg_window(
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Conversion:
    kernel, pads = _pair(kernel_size), _symmetric(padding)
    window = Window(kernel, _pair(stride or kernel), padding=pads)

    def build(window: Window) -> nn.Module:
        spread = [p * apart for (p, _), apart in zip(pads, window.spacing, strict=True)]
        counted = tuple((p, p) if count_include_pad else (0, 0) for p in spread)
        return DenseAvgPool2d(window, counted, divisor_override)

    return window.with_ceil_mode() if ceil_mode else window, build


# These functions have the signatures of torch's, so that positional and keyword arguments of a call are both read.


def _conv2d(
    input: fx.Node,
    weight: fx.Node,
    bias: fx.Node | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> SpatialOp:
    if isinstance(padding, str) or not isinstance(groups, int):
        raise WavedilError(f"conv2d with padding={padding!r} and groups={groups} has no dense form")
    shape = weight.meta["shape"]
    window = Window(tuple(shape[2:]), _pair(stride), _pair(dilation), _symmetric(padding))
    return SpatialOp(window, lambda window: DenseFunctionalConv(window, groups), (input, weight, bias))


def _max_pool2d(
    input: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> SpatialOp:
    if return_indices:
        raise WavedilError("max_pool2d with return_indices has no dense form")
    return SpatialOp(_max_window(kernel_size, stride, padding, dilation, ceil_mode), DenseMaxPool2d, (input,))


def _avg_pool2d(
    input: fx.Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> SpatialOp:
    options = ceil_mode, count_include_pad, divisor_override
    return SpatialOp(*_avg_window(kernel_size, stride, padding, *options), (input,))


def _pad(input: fx.Node, pad: Any, mode: str = "constant", value: float | None = None) -> SpatialOp:
    sides = list(pad)
    if not all(isinstance(side, int) for side in sides) or any(sides[4:]) or mode not in BORDERS:
        raise WavedilError(f"pad by {pad} has no dense form")
    left, right, top, bottom = (sides + [0] * 4)[:4]
    window = Window((1, 1), padding=((top, bottom), (left, right)))
    return SpatialOp(window, lambda window: DensePad2d(window, mode, value or 0.0), (input,))


_MODULES: dict[str, Callable[..., Conversion]] = {
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
_SPATIAL_LAYERS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_UNSUPPORTED_LAYERS = (nn.ConvTranspose2d, nn.FractionalMaxPool2d, nn.LPPool2d, nn.Unfold)
_UNSUPPORTED_FUNCTIONS = {F.conv_transpose2d, F.fractional_max_pool2d, F.grid_sample, F.lp_pool2d, F.unfold}
_FUNCTIONS = {
    F.conv2d: _conv2d,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.pad: _pad,
}
