"""A :class:`DenseBackbone` as plain values, so that model folders can hold it without the classifier's class.

The values name layers of torch, timm and torchvision, and operations on tensors, from fixed lists: building a backbone
from them runs no other code. Weights are not part of them.
"""

import functools
import inspect
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from keyword import iskeyword
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from wavedil.errors import WavedilError, count_text, first_line, shown
from wavedil.vision.dense import layers
from wavedil.vision.dense.trace import SAMPLE_SIZE, copy_module
from wavedil.vision.dense.window import Window

MAX_NODES = 20_000  # of a graph; ResNet-152 has 517
MAX_ELEMENTS = 2**31  # of one value, for an image of SAMPLE_SIZE

_PACKAGES = ("torch.nn.modules.", "timm.layers.", "torchvision.ops.", "torchvision.models.convnext.LayerNorm2d")
_OPERATORS = (
    "add sub mul truediv floordiv mod neg pow getitem matmul iadd isub imul itruediv eq ne lt le gt ge abs pos"
).split()
_METHODS = (
    "abs add add_ amax amin bmm chunk clamp clamp_ clone contiguous detach dim div div_ exp expand expand_as flatten "
    "float gelu half log matmul max mean min movedim mul mul_ narrow numel permute pow relu relu_ repeat "
    "repeat_interleave reshape roll rsqrt sigmoid sigmoid_ size softmax split sqrt square squeeze std sub sub_ sum "
    "tanh to transpose type_as unbind unflatten unsqueeze var view"
).split()
_ATTRIBUTES = ("shape", "dtype", "device", "ndim", "T", "mT")


class NotStorableError(WavedilError):
    """A graph with a layer or an operation that is on none of the lists."""


def describe_graph(module: fx.GraphModule) -> dict[str, Any]:
    """The graph and layers of a module as plain values.

    Raises:
        NotStorableError: naming a layer or operation that cannot be described.
    """
    nodes, used, tensors = [], {}, {}
    for node in module.graph.nodes:
        target = node.target
        if node.op == "call_module":
            used.setdefault(target, _describe_module(module.get_submodule(target), target))
        elif node.op == "get_attr":
            value = functools.reduce(getattr, target.split("."), module)
            is_buffer = target in dict(module.named_buffers())
            if not isinstance(value, torch.Tensor) or (is_buffer and target not in module.state_dict()):
                raise NotStorableError(f"{target} is neither a parameter nor a stored buffer")
            tensors[target] = [list(value.shape), str(value.dtype).removeprefix("torch."), is_buffer]
        elif node.op == "call_function":
            target = _function_name(target)
        elif node.op == "placeholder":
            target = "input"
        elif node.op == "call_method" and target not in _METHODS:
            raise NotStorableError(f"the method {target} of a tensor")
        if target == "builtins.getattr" and node.args[1] not in _ATTRIBUTES:
            raise NotStorableError(f"the attribute {node.args[1]} of a tensor")
        nodes.append([node.op, node.name, str(target), _encode(node.args), _encode(dict(node.kwargs))])
    return {"nodes": nodes, "modules": used, "tensors": tensors}


def build_graph(stored: Any, channels: Any) -> tuple[dict[str, Any], fx.Graph]:
    """Layers and graph, for ``fx.GraphModule``, from :func:`describe_graph`.

    Raises:
        WavedilError: anything that is not on the lists, or values that are too large.
    """
    try:
        return _build_graph(stored, channels)
    except WavedilError:
        raise
    except Exception as error:  # of torch and timm, for values that no constructor or operation takes
        raise WavedilError(f"graph is damaged: {type(error).__name__}: {first_line(error)[:200]}") from None


def _build_graph(stored: Mapping[str, Any], channels: int) -> tuple[dict[str, Any], fx.Graph]:
    if set(stored) != {"nodes", "modules", "tensors"} or len(stored["nodes"]) > MAX_NODES:
        raise WavedilError(f"graph: expected nodes, modules and tensors, at most {MAX_NODES} nodes")
    for name in (*stored["modules"], *stored["tensors"]):
        if not all(_is_safe(part) for part in name.split(".")):
            raise WavedilError(f"graph: the name {shown(name)} is not allowed")
    root: dict[str, Any] = {name: _build_module(spec) for name, spec in stored["modules"].items()}
    for name, (shape, dtype, is_buffer) in stored["tensors"].items():
        value = torch.zeros(shape, dtype=getattr(torch, dtype))
        root[name] = value if is_buffer else nn.Parameter(value)
    graph, known = fx.Graph(), {}
    targets = {
        "placeholder": ("input",),
        "get_attr": stored["tensors"],
        "call_module": stored["modules"],
        "call_method": _METHODS,
        "output": ("output",),
    }
    for op, name, target, args, kwargs in stored["nodes"]:
        if op != "call_function" and target not in targets.get(op, ()):
            raise WavedilError(f"graph: {shown(op)} of {shown(target)} is not allowed")
        found = _find_function(target) if op == "call_function" else target
        args, kwargs = _decode(args, known), _decode(kwargs, known)
        # The graph becomes source code, in which these names are: they must be nothing else.
        if not all(isinstance(key, str) and key.isidentifier() and not iskeyword(key) for key in (name, *kwargs)):
            raise WavedilError(f"graph: the names {shown([name, *kwargs])} are not allowed")
        if target == "builtins.getattr" and (len(args) != 2 or args[1] not in _ATTRIBUTES):
            raise WavedilError(f"graph: attribute {shown(args[1:])} of a tensor is not allowed")
        known[name] = graph.create_node(op, found, args, kwargs, name)
    if [node.op for node in graph.nodes].count("placeholder") != 1 or op != "output":
        raise WavedilError("graph: expected one image, and an output at the end")
    _check_sizes(fx.GraphModule(root, graph), channels)
    return root, graph


def _is_safe(name: Any) -> bool:
    """Whether a part of a path can name a layer: no quotes, and no attribute that every module has."""
    return isinstance(name, str) and re.fullmatch(r"[\w-]+", name, re.ASCII) and not hasattr(nn.Module(), name)


def _check_sizes(module: fx.GraphModule, channels: int) -> None:
    """Raises WavedilError unless the graph runs, with values of limited size: on the meta device, without memory."""
    skeleton = copy_module(module, lambda tensor: torch.empty_like(tensor, device="meta")).eval()

    class Limited(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and value.numel() > MAX_ELEMENTS:
                raise WavedilError(
                    f"graph: {n.name} has {count_text(value.numel(), 'number')}: expected at most {MAX_ELEMENTS}"
                )
            return value

    run = Limited(skeleton)
    run.extra_traceback = False
    with torch.no_grad():
        found = run.run(torch.empty(1, channels, *SAMPLE_SIZE, device="meta"))
    if not all(
        isinstance(each, torch.Tensor) and each.ndim == 4 for each in (found if isinstance(found, list) else [found])
    ):
        raise WavedilError("graph: expected feature maps (batch, channels, height, width) as output")


def _describe_module(module: nn.Module, where: str) -> dict[str, Any]:
    """Class, constructor arguments and children of a layer; a layer of :mod:`wavedil.vision.dense.layers` by itself."""
    name = type(module).__qualname__
    if type(module).__module__ == layers.__name__:
        spec: dict[str, Any] = {"type": name, "window": asdict(module.window)}
        if name == "DenseConv2d":
            border = {"constant": "zeros"}.get(module.border, module.border)
            spec |= {
                "in": module.in_channels,
                "out": module.out_channels,
                "groups": module.groups,
                "bias": module.bias is not None,
                "border": border,
            }
        elif name == "DenseBlurPool2d":
            spec |= {"filt": module.filt.tolist(), "border": module.border}
        else:
            fields = {"counted", "divisor", "groups", "border", "value"}
            spec |= {key: value for key, value in vars(module).items() if key in fields}
        return _encode(spec)["dict"]
    path = f"{type(module).__module__}.{name}"
    if not path.startswith(_PACKAGES):
        raise NotStorableError(f"layer {where} of class {path}")
    options = {}
    for key, parameter in list(inspect.signature(type(module).__init__).parameters.items())[1:]:
        value = getattr(module, key, parameter.default)
        if key == "num_channels" and not hasattr(module, key):  # of timm's layer norms
            value = getattr(module, "normalized_shape", (value,))[0]
        if key == "bias":
            value = value is not None and value is not False
        elif key in ("device", "dtype") or isinstance(value, nn.Module | type) or callable(value):
            continue
        if value is parameter.empty:
            raise NotStorableError(f"layer {where} of class {path}, whose argument {key} is unknown")
        if value is not parameter.default:
            options[key] = _encode(value)
    children = {key: _describe_module(child, f"{where}.{key}") for key, child in module.named_children()}
    spec = {"type": path, "options": options, "children": children}
    try:
        again = _build_module(spec)
    except (TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        raise NotStorableError(f"layer {where} of class {path} ({error})") from None
    if _values(again) != _values(module):
        raise NotStorableError(f"layer {where} of class {path}, whose arguments are unknown")
    return spec


def _build_module(spec: Mapping[str, Any]) -> nn.Module:
    if "window" in spec:
        spec = _decode({"dict": spec}, {})
        values = spec["window"]
        if isinstance(values["spacing"], int):  # of models that were saved when both axes had one
            values["spacing"] = (values["spacing"],) * 2
        window = Window(**values)
        if spec["type"] == "DenseConv2d":
            options = {"groups": spec["groups"], "bias": spec["bias"], "padding_mode": spec["border"]}
            return layers.DenseConv2d(nn.Conv2d(spec["in"], spec["out"], window.kernel, **options), window)
        if spec["type"] == "DenseBlurPool2d":
            return layers.DenseBlurPool2d(torch.tensor(spec["filt"]), window, spec["border"])
        kinds = ("DenseFunctionalConv", "DenseMaxPool2d", "DenseAvgPool2d", "DensePad2d")
        if spec["type"] not in kinds:
            raise WavedilError(f"graph: layer {shown(spec['type'])} is not allowed")
        options = {key: value for key, value in spec.items() if key not in ("type", "window")}
        return getattr(layers, spec["type"])(window=window, **options)
    path = spec["type"]
    if not (isinstance(path, str) and path.startswith(_PACKAGES)):
        raise WavedilError(f"graph: layer {shown(path)} is not allowed")
    module, _, name = path.rpartition(".")
    cls = getattr(import_module(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module):
        raise WavedilError(f"graph: {path} is not a layer")
    built = cls(**{key: _decode(value, {}) for key, value in spec["options"].items()})
    for key, child in spec["children"].items():
        built.add_module(key, _build_module(child))
    return built


def _values(module: nn.Module) -> Any:
    """Plain attributes, shapes and children, which must be equal in a layer that is built again."""
    plain = (int, float, str, bool, tuple, list, type(None))
    ours = {key: value for key, value in vars(module).items() if isinstance(value, plain) and key[0] != "_"}
    ours.pop("training", None)
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in module.state_dict().items()}
    return type(module), ours, shapes, {key: _values(child) for key, child in module.named_children()}


@functools.cache
def _functions() -> dict[str, Callable]:
    """The functions that graphs may call, by name."""
    found = {f"operator.{name}": getattr(operator, name) for name in _OPERATORS}
    overridable = torch.overrides.get_overridable_functions()
    for module in (F, torch):
        functions = {id(function) for function in overridable.get(module, ())}
        for name, value in vars(module).items():
            if id(value) in functions and name[0] != "_":
                found[f"{module.__name__}.{name}"] = value
    return found | {"builtins.getattr": getattr, "check_image": layers.check_image}


def _function_name(function: Callable) -> str:
    for name, known in _functions().items():
        if known is function:
            return name
    raise NotStorableError(
        f"the function {getattr(function, '__module__', '')}.{getattr(function, '__name__', function)}"
    )


def _find_function(name: Any) -> Callable:
    if name not in _functions():
        raise WavedilError(f"graph: function {shown(name)} is not allowed")
    return _functions()[name]


def _encode(value: Any) -> Any:
    """A value of a graph in JSON; kinds that JSON lacks are dictionaries with one key."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_encode(item) for item in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": None}
    if isinstance(value, torch.dtype | torch.memory_format):
        return {"torch": str(value).removeprefix("torch.")}
    raise NotStorableError(f"the value {shown(value)}")


def _decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, Mapping):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "tuple":
        return tuple(_decode(item, nodes) for item in content)
    if kind == "dict":
        return {key: _decode(item, nodes) for key, item in content.items()}
    if kind == "slice":
        return slice(*(_decode(item, nodes) for item in content))
    if kind == "ellipsis":
        return Ellipsis
    found = getattr(torch, content, None) if kind == "torch" else None
    if not isinstance(found, torch.dtype | torch.memory_format):
        raise WavedilError(f"graph: value {shown(value)} is not allowed")
    return found
