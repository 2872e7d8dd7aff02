"""Traces a classifier to a graph and computes the shape of every value on the meta device, without its weights."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from wavedil.errors import WavedilError, first_line
from wavedil.vision.dense.spatial import has_custom_forward

#: Image size for which shapes are computed: multiples of 64, different from each other and from most channel counts.
SAMPLE_SIZE = (448, 704)
_FIXED_SIZES = (224, 256, 384, 28, 32, 64, 96, 128, 160, 192, 240, 288, 299, 336, 448, 512)  # of published networks
_ERRORS = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, LookupError)


class ModuleCall(NamedTuple):
    """A module call during tracing; the module may be several nodes of the graph."""

    name: str
    input: fx.Node
    output: fx.Node


@dataclass
class Trace:
    """Result of :func:`trace_classifier`.

    ``node.meta["shape"]`` is the shape of a tensor, or a list of shapes for several, for an image of SAMPLE_SIZE.

    Attributes:
        graph: graph of ``skeleton``, a copy of the classifier on the meta device.
        calls: module calls, inner ones before outer ones.
        channels: channels of the image.
        method: name of the traced method.
    """

    graph: fx.Graph
    skeleton: nn.Module
    calls: list[ModuleCall]
    channels: int
    method: str


def trace_classifier(classifier: nn.Module) -> Trace:
    """Traces ``forward_features`` if there is one (timm), else ``forward``, in evaluation mode.

    Raises:
        WavedilError: the network cannot be traced or does not accept the sample image.
    """
    skeleton = copy_module(classifier, lambda tensor: torch.empty_like(tensor, device="meta")).eval()
    convs = [module for module in skeleton.modules() if isinstance(module, nn.Conv2d)]
    if not convs:
        raise WavedilError(f"{type(classifier).__name__} has no Conv2d: expected a convolutional image classifier")
    tracer = _Tracer()
    method = "forward_features" if hasattr(skeleton, "forward_features") else "forward"
    tracer.traced_func_name = method
    try:
        graph = tracer.trace(skeleton)
    except _ERRORS as error:
        at = f"layer {tracer.path[-1]} of " if tracer.path else ""
        raise WavedilError(
            f"{at}{type(classifier).__name__} cannot be traced ({first_line(error)}): expected a network without "
            "control flow that depends on values or sizes"
        ) from None
    like = next(skeleton.parameters())
    image = torch.empty(1, convs[0].in_channels, *SAMPLE_SIZE, dtype=like.dtype, device="meta")
    shapes = _ShapeInterpreter(skeleton, graph)
    try:
        with torch.no_grad():
            shapes.run(image)
    except _ERRORS as error:
        at, name = describe_node(shapes.node), type(classifier).__name__
        size = next((size for size in _FIXED_SIZES if _accepts(skeleton, graph, image, size)), None)
        if size is not None:
            raise WavedilError(
                f"{name} has a fixed input size, {size} x {size} ({at} accepts no other): to_dense needs a network for "
                "images of any size, e.g. a ResNet; few networks with attention are"
            ) from None
        raise WavedilError(
            f"{at} of {name} does not accept an image of {SAMPLE_SIZE[0]} x {SAMPLE_SIZE[1]} ({first_line(error)}): "
            "expected a network for images of any size"
        ) from None
    return Trace(graph, skeleton, tracer.calls, convs[0].in_channels, method)


def copy_module(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a module whose parameters and buffers are ``convert(tensor)``."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(convert(p.detach()), requires_grad=p.requires_grad) for p in module.parameters()
    }
    memo |= {id(buffer): convert(buffer) for buffer in module.buffers()}
    return copy.deepcopy(module, memo)


def describe_node(node: fx.Node) -> str:
    """Name of a node in messages: its layer, or the operation and the layer that contains it."""
    if node.op == "call_module":
        return f"layer {node.target}"
    layers = list(node.meta.get("nn_module_stack", {}))
    operation = getattr(node.target, "__name__", str(node.target))
    return f"{operation} in layer {layers[-1]}" if layers and layers[-1] else operation


def _accepts(skeleton: nn.Module, graph: fx.Graph, image: Tensor, size: int) -> bool:
    try:
        with torch.no_grad():
            fx.Interpreter(skeleton, graph=graph).run(image.new_empty(*image.shape[:2], size, size))
    except _ERRORS:
        return False
    return True


class _Tracer(fx.Tracer):
    """Traces into modules with children, and into convolutions and poolings with a custom forward.

    Norms are leaves: their computation depends on the mode, which a trace would fix.
    """

    def __init__(self):
        super().__init__()
        self.path: list[str] = []
        self.calls: list[ModuleCall] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if has_custom_forward(m):
            return False
        has_children = next(m.children(), None) is not None
        is_norm = isinstance(m, nn.modules.batchnorm._NormBase)
        return not has_children or is_norm or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        self.path.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        name = self.path.pop()
        proxies = [value for value in (*args, *kwargs.values()) if isinstance(value, fx.Proxy)]
        if proxies and isinstance(result, fx.Proxy):
            self.calls.append(ModuleCall(name, proxies[0].node, result.node))
        return result


class _ShapeInterpreter(fx.Interpreter):
    """Runs a graph and stores the shape of every value in ``node.meta["shape"]``."""

    def __init__(self, root: nn.Module, graph: fx.Graph):
        super().__init__(root, graph=graph)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        value = super().run_node(n)
        n.meta["shape"] = _shape(value)
        return value


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple | list) and value and all(isinstance(part, Tensor) for part in value):
        return [tuple(part.shape) for part in value]
    return None
