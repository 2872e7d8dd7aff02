"""The graph of a classifier, with the shape of every value, found without touching or computing with its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from wavedil.errors import WavedilError
from wavedil.vision.dense.spatial import is_traced_through

#: Height and width that shapes are worked out for: multiples of 64, unlike each other and most numbers of channels.
SAMPLE = (448, 704)
_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, LookupError)


class Call(NamedTuple):
    """A call of a module while tracing, also of those that the graph does not show as one node."""

    name: str
    input: fx.Node
    output: fx.Node


@dataclass
class Trace:
    """The graph of ``skeleton``, a copy of the classifier without numbers; ``calls`` from the inside out.

    ``node.meta["shape"]`` is the shape of a tensor, or a list of them for several, for an image of SAMPLE.
    """

    graph: fx.Graph
    skeleton: nn.Module
    calls: list[Call]
    channels: int
    method: str


def trace(classifier: nn.Module) -> Trace:
    """Traces ``forward_features`` where there is one (timm), else ``forward``, in evaluation mode.

    Raises:
        WavedilError: the network cannot be traced or does not take the sample image.
    """
    skeleton = copy_with(classifier, lambda tensor: torch.empty_like(tensor, device="meta")).eval()
    convs = [module for module in skeleton.modules() if isinstance(module, nn.Conv2d)]
    if not convs:
        raise WavedilError(f"{type(classifier).__name__} has no Conv2d: expected a convolutional image classifier")
    tracer = _Tracer()
    method = "forward_features" if hasattr(skeleton, "forward_features") else "forward"
    tracer.traced_func_name = method
    try:
        graph = tracer.trace(skeleton)
    except _FAILURES as error:
        at = f"layer {tracer.inside[-1]} of " if tracer.inside else ""
        raise WavedilError(
            f"{at}{type(classifier).__name__} cannot be traced ({_first_line(error)}): expected a network whose path "
            "does not depend on its values and sizes"
        ) from None
    like = next(skeleton.parameters())
    image = torch.empty(1, convs[0].in_channels, *SAMPLE, dtype=like.dtype, device="meta")
    shapes = _Shapes(skeleton, graph)
    try:
        with torch.no_grad():
            shapes.run(image)
    except _FAILURES as error:
        raise WavedilError(
            f"{layer_of(shapes.at)} of {type(classifier).__name__} does not take an image of {SAMPLE[0]} x {SAMPLE[1]} "
            f"({_first_line(error)}): expected a network for images of any size"
        ) from None
    return Trace(graph, skeleton, tracer.calls, convs[0].in_channels, method)


def copy_with(module: nn.Module, of: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a module in which every parameter and buffer is what ``of`` makes of it."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(of(p.detach()), requires_grad=p.requires_grad) for p in module.parameters()
    }
    memo |= {id(buffer): of(buffer) for buffer in module.buffers()}
    return copy.deepcopy(module, memo)


def layer_of(node: fx.Node) -> str:
    """How messages call a node: the layer, or the operation and the layer it happens in."""
    if node.op == "call_module":
        return f"layer {node.target}"
    inside = list(node.meta.get("nn_module_stack", {}))
    operation = getattr(node.target, "__name__", str(node.target))
    return f"{operation} in layer {inside[-1]}" if inside and inside[-1] else operation


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Tracer(fx.Tracer):
    """Looks into modules that have parts, and into convolutions and poolings with a forward of their own.

    Norms stay whole: what they do depends on the mode, which a graph of their inside would fix.
    """

    def __init__(self):
        super().__init__()
        self.inside: list[str] = []
        self.calls: list[Call] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_traced_through(m):
            return False
        has_parts = next(m.children(), None) is not None
        norm = isinstance(m, nn.modules.batchnorm._NormBase)
        return not has_parts or norm or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        name = self.inside.pop()
        proxies = [value for value in (*args, *kwargs.values()) if isinstance(value, fx.Proxy)]
        if proxies and isinstance(result, fx.Proxy):
            self.calls.append(Call(name, proxies[0].node, result.node))
        return result


class _Shapes(fx.Interpreter):
    def __init__(self, root: nn.Module, graph: fx.Graph):
        super().__init__(root, graph=graph)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        value = super().run_node(n)
        n.meta["shape"] = _shape(value)
        return value


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple | list) and value and all(isinstance(part, Tensor) for part in value):
        return [tuple(part.shape) for part in value]
    return None
