"""``to_dense``: an image classifier as a dense feature extractor, with stride replaced by dilation."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from wavedil.core.padded_conv import axes_value
from wavedil.core.receptive_field import per_axis
from wavedil.core.schema import checked
from wavedil.errors import WavedilError, shown
from wavedil.vision.dense.grid import Grid, GridAnalysis, NonMap, ancestors
from wavedil.vision.dense.layers import check_image
from wavedil.vision.dense.spatial import read_spatial_op
from wavedil.vision.dense.stored import NotStorableError, build_graph, describe_graph
from wavedil.vision.dense.trace import SAMPLE_SIZE, Trace, describe_node, trace_classifier
from wavedil.vision.dense.window import IntPair, Window
from wavedil.weights import register


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 2**24


def _are_sizes(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_size, value))


def _is_stride(value: Any) -> bool:
    return _is_size(value) or (_are_sizes(value) and len(value) == 2)


_STORED = ("graph", "about", "channels")
#: Checks of the attributes in a model folder.
_ABOUT = {
    "output_stride": _is_stride,
    "stride": _is_stride,
    "channels": _is_size,
    "level_strides": lambda value: isinstance(value, tuple) and all(map(_is_stride, value)),
    "level_channels": _are_sizes,
    "receptive_field": lambda value: value is None or _is_stride(value),
    "center": lambda value: (
        isinstance(value, tuple) and len(value) == 2 and all(type(each) in (int, float) for each in value)
    ),
    "options": lambda value: isinstance(value, tuple) and len(value) == 2,
}


def _metadata(name: str) -> property:
    return property(lambda self: self.meta["dense"][name])  # meta is kept by copy.deepcopy of a GraphModule


@register
class DenseBackbone(fx.GraphModule):
    """The result of :func:`to_dense`: ``(batch, in_channels, height, width) -> (batch, channels, height', width')``.

    height' and width' are those of the image divided by the output stride, rounded up (networks without padding, such
    as Inception, lose some cells at the border). With ``levels`` the result is a list of feature maps from fine to
    coarse.

    Parameters have the same names as in the classifier.

    Attributes:
        output_stride: pixels between cells, an int if the axes agree, else (vertical, horizontal).
        stride: stride of the classifier; every ``stride // output_stride``-th cell is one of the classifier's.
        channels: channels of the features.
        level_strides, level_channels: strides and channels of all returned maps, the features last.
        receptive_field: in pixels, an int if the axes agree, else (height, width); None for the full image
            (squeeze-and-excitation, attention, norms over the map).
        center: (y, x) of the center of the receptive field of cell (0, 0), in pixels. Upsampling with
            ``align_corners=False`` assumes (output_stride - 1) / 2.
    """

    def __init__(self, root: Any = None, graph: Any = None, class_name: str = "GraphModule", *, stored: Any = None):
        if stored is not None:
            if not isinstance(stored, Mapping) or not set(_STORED) <= set(stored):
                raise WavedilError(f"stored is {shown(stored)}: expected {', '.join(_STORED)}")
            stored = {key: stored[key] for key in _STORED}
            root, graph = build_graph(stored["graph"], stored["channels"])
        super().__init__(root, graph, class_name)
        if stored is not None:
            about = _read_about(stored["about"])
            self.meta["dense"], self.meta["stored"] = about, stored

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of a model folder: the graph and the attributes as plain values."""
        if "stored" not in self.meta:
            about = json.loads(json.dumps(self.meta["dense"]))
            self.meta["stored"] = {"graph": describe_graph(self), "about": about, "channels": self.in_channels}
        return {"stored": self.meta["stored"]}

    @property
    def save_error(self) -> str | None:
        """Why :func:`wavedil.weights.save` cannot store this backbone; None if it can."""
        try:
            return None if self.config else None
        except NotStorableError as error:
            return (
                f"the graph of this DenseBackbone has {error}, which a config cannot describe; call to_dense in the "
                "constructor of a registered class, as wavedil.vision.TimmBackbone does, and use that class"
            )

    @property
    def registered_class(self) -> type:
        """The class that model folders name. (``type(self)`` is a class that torch.fx made for this graph.)"""
        return DenseBackbone if self.save_error is None else type(self)

    output_stride = _metadata("output_stride")
    stride = _metadata("stride")
    channels = _metadata("channels")
    level_strides = _metadata("level_strides")
    level_channels = _metadata("level_channels")
    receptive_field = _metadata("receptive_field")
    center = _metadata("center")

    @property
    def in_channels(self) -> int:
        """Bands of the image."""
        return next(node for node in self.graph.nodes if node.target is check_image).args[1]

    @property
    def align(self) -> str:
        """``"corner"`` if the center of cell (0, 0) is closer to pixel 0 than to the center of its pixels."""
        strides = per_axis("output_stride", self.output_stride, 2)
        near = [abs(at) < (s - 1) / 4 for at, s in zip(self.center, strides, strict=True) if s > 1]
        return "corner" if near and all(near) else "center"


def _read_about(stored: Any) -> dict[str, Any]:
    """The attributes of a stored backbone; raises WavedilError for missing ones and other types."""
    about = {key: _tuples(value) for key, value in stored.items()} if isinstance(stored, Mapping) else {}
    for key, check in _ABOUT.items():
        if key not in about or not check(about[key]):
            raise WavedilError(f"about has {key} {shown(about.get(key))}: expected what to_dense stores")
    return about


def _plain(level: int | Sequence[int]) -> int | tuple[int, ...]:
    return axes_value(per_axis("levels", level, 2))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@checked
def to_dense(
    classifier: nn.Module,
    output_stride: int | Sequence[int],
    *,
    levels: Sequence[int | Sequence[int]] = (),
    until: str | None = None,
) -> DenseBackbone:
    """Converts a classifier to a backbone with a smaller output stride and the same weights.

    The network is traced. Operations that would exceed ``output_stride`` get stride 1, and the taps of all later
    convolutions and poolings, in shortcuts too, are spread by the stride that was removed. Then **every r-th cell of
    the dense map equals a cell of the classifier's map**, with r = stride / output_stride, up to rounding, for image
    sizes that are multiples of the classifier's stride (for any size if all strided operations have odd kernels and
    equal padding on both sides, as in ResNets). The cells in between are those of the classifier for a shifted image,
    except at the borders. This is the à trous algorithm (Holschneider et al. 1989; Chen et al. 2015, arXiv 1412.7062,
    section 3.1).

    It cannot be exact if cells depend on the full map: squeeze-and-excitation, attention, norms over the map, position
    embeddings. Such networks are converted too; see :func:`check_dense`.

    Args:
        classifier: a network of torchvision or timm, or any other that ``torch.fx`` can trace, for images of any size.
            It is copied. Functions of ``torch.nn.functional`` with an argument ``training`` stay in evaluation mode,
            except dropout.
        output_stride: a power of two, at most the stride of the classifier; or one for each axis, (vertical,
            horizontal), e.g. (8, 16) for long spectrograms and panoramas.
        levels: strides smaller than output_stride (e.g. 4, 8) whose feature maps are returned too: the last map before
            the stride increases. Each is one number or one for each axis.
        until: name of the layer whose output is used as features. Default: the result of ``forward_features`` (timm),
            else the last feature map before pooling to a fixed size.

    Raises:
        WavedilError: naming the layer, for networks that cannot be traced and operations without a dense form.
    """
    if any(each & (each - 1) for each in per_axis("output_stride", output_stride, 2)):
        raise WavedilError(f"output_stride is {shown(output_stride)}: expected powers of two, e.g. 8 or (8, 16)")
    plan = plan_conversion(classifier, output_stride, levels, until)
    body = copy.deepcopy(fx.GraphModule(classifier, extract_outputs(plan)))
    windows = {node.name: window for node, window in plan.analysis.windows.items()}
    replaced = [
        (node, windows[node.name], read_spatial_op(node, body)) for node in body.graph.nodes if node.name in windows
    ]
    built: dict[tuple[str, Window], str] = {}
    for node, window, spatial in replaced:
        target = node.target if node.op == "call_module" else f"{node.name}_dense"
        if (target, window) not in built:
            # A layer that is called at several strides becomes several layers, which share its parameters.
            taken = target in built.values()
            built[target, window] = f"{target}_at_{node.name}" if taken else target
            body.set_submodule(built[target, window], spatial.build(window))
        _set_module_call(node, built[target, window], spatial.tensors)
    for node in list(body.graph.nodes):
        if node.op == "placeholder":
            with body.graph.inserting_after(node):
                checked = body.graph.call_function(check_image, (node, plan.trace.channels))
            node.replace_all_uses_with(checked, delete_user_cb=lambda user, checked=checked: user is not checked)
        elif node.target is F.dropout:  # the trace has fixed its mode; a module follows the mode of the network
            dropout = nn.Dropout(node.kwargs["p"]).train(classifier.training)
            body.add_submodule(f"{node.name}_dense", dropout)
            _set_module_call(node, f"{node.name}_dense", node.args[:1])
    dense = DenseBackbone(body, body.graph)
    dense.meta["dense"] = _describe(plan) | {"options": (tuple(map(_plain, levels)), until)}
    return dense


@dataclass
class ConversionPlan:
    """Analysis of a classifier for :func:`to_dense`."""

    trace: Trace
    analysis: GridAnalysis
    outputs: list[fx.Node]  # feature maps of the requested levels, then the features


def plan_conversion(
    classifier: nn.Module,
    output_stride: int | Sequence[int] | None = None,
    levels: Sequence[int | Sequence[int]] = (),
    until: str | None = None,
) -> ConversionPlan:
    """The plan of :func:`to_dense`; raises the same errors. Default ``output_stride``: that of the classifier."""
    trace = trace_classifier(classifier)
    limit = SAMPLE_SIZE if output_stride is None else per_axis("output_stride", output_stride, 2)
    analysis = GridAnalysis(trace, limit)
    features = _find_features(trace, analysis, until)
    stride = analysis.grids[features].stride
    if output_stride is not None and any(s < least for s, least in zip(stride, limit, strict=True)):
        raise WavedilError(
            f"output_stride is {axes_value(limit)}: expected at most {axes_value(stride)}, the stride of "
            f"{type(classifier).__name__} at {describe_node(features)}"
        )
    limit = tuple(map(min, limit, stride))
    strides = [per_axis("levels", level, 2) for level in levels]
    finer = [level != limit and all(s <= most for s, most in zip(level, limit, strict=True)) for level in strides]
    if not all(finer) or len(set(strides)) != len(strides):
        raise WavedilError(f"levels is {shown(list(levels))}: expected different strides below the output stride")
    outputs = [_find_level(trace, analysis, level, features) for level in sorted(strides)] + [features]
    return ConversionPlan(trace, analysis, outputs)


def extract_outputs(plan: ConversionPlan) -> fx.Graph:
    """The part of the traced graph that computes the outputs, with the same node names."""
    graph, needed, copies = fx.Graph(), ancestors(plan.outputs), {}
    for node in plan.trace.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    maps = [copies[node] for node in plan.outputs]
    graph.output(maps[0] if len(maps) == 1 else maps)
    return graph


def _find_features(trace: Trace, analysis: GridAnalysis, until: str | None) -> fx.Node:
    """The node of the feature map. Raises WavedilError if it depends on an operation without a dense form."""
    nodes = list(trace.graph.nodes)
    if until is not None:
        ends = [call.output for call in trace.calls if call.name == until]
        if not ends:
            names = [call.name for call in trace.calls if "." not in call.name]
            raise WavedilError(f"until is {until!r}: expected a layer that is called, e.g. {', '.join(names[-4:])}")
        nodes = ends
    elif trace.method == "forward_features":
        nodes = [value for value in nodes[-1].args if isinstance(value, fx.Node)]
    maps = [node for node in nodes if isinstance(analysis.grids.get(node), Grid) or _is_failed_map(node, analysis)]
    if not maps:
        raise WavedilError(f"{until or trace.method} returns no map: expected (batch, channels, height, width)")
    features = maps[-1]
    needed = ancestors([features])
    for node in [node for node in trace.graph.nodes if node in needed]:
        value = analysis.grids.get(node)
        if isinstance(value, NonMap) and value.error is not None:
            raise value.error
    grid = analysis.grids[features]
    if grid.find_axis(features.meta["shape"]) != 2 or len(features.meta["shape"]) != 4:
        raise WavedilError(
            f"{describe_node(features)} returns {features.meta['shape']}: expected a map (batch, channels, height, "
            "width); set until to a layer that returns one"
        )
    return features


def _is_failed_map(node: fx.Node, analysis: GridAnalysis) -> bool:
    """Whether the node would be a feature map but for an operation without dense form."""
    value, shape = analysis.grids.get(node), node.meta.get("shape")
    return isinstance(value, NonMap) and value.error is not None and isinstance(shape, tuple) and len(shape) == 4


def _find_level(trace: Trace, analysis: GridAnalysis, stride: IntPair, features: fx.Node) -> fx.Node:
    """The input of the outermost layer that increases this stride."""
    needed = ancestors([features])

    def stride_of(node: fx.Node) -> IntPair | None:
        grid = analysis.grids.get(node)
        return grid.stride if isinstance(grid, Grid) else None

    steps = [
        (node, stride_of(node))
        for node in trace.graph.nodes
        if node in needed and any(stride_of(source) == stride for source in node.all_input_nodes)
    ]
    steps = [(node, after) for node, after in steps if after is not None and after != stride]
    if not steps:
        raise WavedilError(f"levels has {axes_value(stride)}: expected strides of feature maps before the last one")
    first, after = steps[0]
    layers = [name for name in first.meta.get("nn_module_stack", {}) if name]
    calls = [
        call
        for call in trace.calls
        if call.name in layers and stride_of(call.input) == stride and stride_of(call.output) == after
    ]
    return min(calls, key=lambda call: len(call.name)).input if calls else first.all_input_nodes[0]


def _set_module_call(node: fx.Node, target: str, inputs: tuple) -> None:
    node.op, node.target, node.args, node.kwargs = "call_module", target, tuple(inputs), {}


def _describe(plan: ConversionPlan) -> dict[str, Any]:
    """The attributes of the :class:`DenseBackbone`."""
    grids = [plan.analysis.grids[node] for node in plan.outputs]
    last = grids[-1]
    return {
        "output_stride": axes_value(last.dense_stride),
        "stride": axes_value(last.stride),
        "level_strides": tuple(axes_value(grid.dense_stride) for grid in grids),
        "channels": plan.outputs[-1].meta["shape"][1],
        "level_channels": tuple(node.meta["shape"][1] for node in plan.outputs),
        "receptive_field": None if last.sees_image else axes_value([high - low + 1 for low, high in last.field]),
        "center": tuple((low + high) / 2 for low, high in last.field),
    }
