"""``to_dense``: an image classifier becomes a dense feature extractor, stride traded for dilation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import fx, nn

from wavedil.core.conv import axes_value
from wavedil.errors import WavedilError
from wavedil.vision.dense.grid import Grid, Grids, Lost, sources
from wavedil.vision.dense.layers import check_image
from wavedil.vision.dense.spatial import read
from wavedil.vision.dense.trace import SAMPLE, Trace, layer_of, trace
from wavedil.vision.dense.window import Window


@dataclass
class DensePlan:
    """What :func:`to_dense` finds out of a classifier: its trace, the grids, and the nodes that hold the features."""

    trace: Trace
    grids: Grids
    outputs: list[fx.Node]  # maps of the levels asked for, then the features


def _fact(name: str) -> property:
    return property(lambda self: self.meta["dense"][name])  # meta is what survives a deep copy of a GraphModule


class DenseBackbone(fx.GraphModule):
    """What :func:`to_dense` makes: ``(batch, channels in, height, width) -> (batch, channels, height', width')``.

    height' and width' are those of the image divided by the output stride, rounded up (networks without padding,
    such as Inception, lose some at the border). With ``levels`` the result is a list of maps, the finest first.

    Parameters have the names that they have in the classifier.

    Attributes:
        output_stride: pixels from one cell to the next.
        stride: the same in the classifier; every ``stride // output_stride``-th cell is one of the classifier's.
        channels: of the features.
        level_strides, level_channels: of all maps returned, the features last.
        receptive_field: pixels that a cell depends on, an int where the axes agree, else (height, width); None for
            the whole image (squeeze-and-excitation, attention, norms over the map).
        center: (y, x) of the pixel in the middle of the receptive field of cell (0, 0). Upsampling with
            ``align_corners=False`` takes it for (output_stride - 1) / 2.
    """

    output_stride = _fact("output_stride")
    stride = _fact("stride")
    channels = _fact("channels")
    level_strides = _fact("level_strides")
    level_channels = _fact("level_channels")
    receptive_field = _fact("receptive_field")
    center = _fact("center")

    @property
    def align(self) -> str:
        """``"corner"`` where the center of cell (0, 0) is nearer to pixel 0 than to the middle of its own pixels."""
        middle = (self.output_stride - 1) / 2
        return "corner" if max(abs(value) for value in self.center) < middle / 2 else "center"


def to_dense(
    classifier: nn.Module,
    output_stride: int,
    *,
    levels: Sequence[int] = (),
    until: str | None = None,
) -> DenseBackbone:
    """A classifier's features at a smaller stride, with the same weights.

    The network is traced; operations that would go beyond ``output_stride`` get stride 1, and all that come after
    them, convolutions and poolings in the trunk and in shortcuts alike, have their taps moved apart by what was
    taken away. Then **every r-th cell of the dense map is a cell of the classifier's**, r = stride / output_stride,
    up to rounding, at sizes that the classifier's stride divides (where all strided operations have odd kernels and
    are padded evenly, as in ResNets: at any size). The cells in between are what the classifier would say of the
    image moved by that many pixels, borders apart. This is the à trous algorithm (Holschneider et al. 1989; Chen et
    al. 2015, arXiv 1412.7062, section 3.1).

    It cannot hold where cells depend on the whole map: squeeze-and-excitation, attention, norms over the map,
    position embeddings. Such networks are converted too; :func:`check_dense` says which layer is the first.

    Args:
        classifier: a network of torchvision or timm, or any that ``torch.fx`` can trace, for images of any size.
            It is copied. Functions of ``torch.nn.functional`` that ask for ``self.training`` stay in evaluation
            mode, but for dropout.
        output_stride: a power of two, at most the classifier's own stride.
        levels: strides below output_stride (e.g. 4, 8) whose maps are returned as well, each where the network
            leaves that stride.
        until: name of the layer whose output is taken as the features. Default: what ``forward_features`` returns
            (timm), else the last map before the pooling to a fixed size.

    Raises:
        WavedilError: naming the layer, for networks that cannot be traced and operations with no dense form.
    """
    if not isinstance(output_stride, int) or output_stride < 1 or output_stride & (output_stride - 1):
        raise WavedilError(f"output_stride is {output_stride!r}: expected a power of two, e.g. 8 or 16")
    plan = plan_dense(classifier, output_stride, levels, until)
    body = copy.deepcopy(fx.GraphModule(classifier, output_graph(plan)))
    windows = {node.name: window for node, window in plan.grids.windows.items()}
    replaced = [(node, windows[node.name], read(node, body)) for node in body.graph.nodes if node.name in windows]
    made: dict[tuple[str, Window], str] = {}
    for node, window, spatial in replaced:
        target = node.target if node.op == "call_module" else f"{node.name}_dense"
        if (target, window) not in made:
            # A layer that is called at several strides becomes several, which share its parameters.
            taken = target in made.values()
            made[target, window] = f"{target}_at_{node.name}" if taken else target
            body.set_submodule(made[target, window], spatial.build(window))
        _call(node, made[target, window], spatial.tensors)
    for node in list(body.graph.nodes):
        if node.op == "placeholder":
            with body.graph.inserting_after(node):
                checked = body.graph.call_function(check_image, (node, plan.trace.channels))
            node.replace_all_uses_with(checked, delete_user_cb=lambda user, checked=checked: user is not checked)
        elif node.target is F.dropout:  # its mode would stay as it was when traced
            dropout = nn.Dropout(node.kwargs["p"]).train(classifier.training)
            body.add_submodule(f"{node.name}_dense", dropout)
            _call(node, f"{node.name}_dense", node.args[:1])
    dense = DenseBackbone(body, body.graph)
    dense.meta["dense"] = _facts(plan) | {"options": (tuple(levels), until)}
    return dense


def plan_dense(
    classifier: nn.Module,
    output_stride: int | None = None,
    levels: Sequence[int] = (),
    until: str | None = None,
) -> DensePlan:
    """The plan of :func:`to_dense`, which raises the same errors. None: the classifier's own stride."""
    found = trace(classifier)
    grids = Grids(found, SAMPLE[0] if output_stride is None else output_stride)
    features = _features(found, grids, until)
    stride = grids.of[features].stride
    if output_stride is not None and stride < output_stride:
        raise WavedilError(
            f"output_stride is {output_stride}: {type(classifier).__name__} has stride {stride} at "
            f"{layer_of(features)}, so expected at most that"
        )
    wrong = [level for level in levels if level not in range(1, output_stride or stride)]
    if wrong or len(set(levels)) != len(levels):
        raise WavedilError(f"levels is {list(levels)}: expected different strides below the output stride")
    outputs = [_level(found, grids, level, features) for level in sorted(levels)] + [features]
    return DensePlan(found, grids, outputs)


def output_graph(plan: DensePlan) -> fx.Graph:
    """The part of the trace that the outputs need; names of nodes stay."""
    graph, needed, copies = fx.Graph(), sources(plan.outputs), {}
    for node in plan.trace.graph.nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    maps = [copies[node] for node in plan.outputs]
    graph.output(maps[0] if len(maps) == 1 else maps)
    return graph


def _features(found: Trace, grids: Grids, until: str | None) -> fx.Node:
    """The node whose value is the feature map. Raises what was refused on the way to it."""
    nodes = list(found.graph.nodes)
    if until is not None:
        ends = [call.output for call in found.calls if call.name == until]
        if not ends:
            names = [call.name for call in found.calls if "." not in call.name]
            raise WavedilError(f"until is {until!r}: expected a layer that is called, e.g. {', '.join(names[-4:])}")
        nodes = ends
    elif found.method == "forward_features":
        nodes = [value for value in nodes[-1].args if isinstance(value, fx.Node)]
    maps = [node for node in nodes if isinstance(grids.of.get(node), Grid) or _is_refused_map(node, grids)]
    if not maps:
        raise WavedilError(f"{until or found.method} gives no map (batch, channels, height, width): expected one")
    features = maps[-1]
    for node in [node for node in found.graph.nodes if node in sources([features])]:
        value = grids.of.get(node)
        if isinstance(value, Lost) and value.refused is not None:
            raise value.refused
    grid = grids.of[features]
    if grid.axis_in(features.meta["shape"]) != 2 or len(features.meta["shape"]) != 4:
        raise WavedilError(
            f"{layer_of(features)} gives {features.meta['shape']}: expected a map (batch, channels, height, width); "
            "name the layer of one with until="
        )
    return features


def _is_refused_map(node: fx.Node, grids: Grids) -> bool:
    value, shape = grids.of.get(node), node.meta.get("shape")
    return isinstance(value, Lost) and value.refused is not None and isinstance(shape, tuple) and len(shape) == 4


def _level(found: Trace, grids: Grids, stride: int, features: fx.Node) -> fx.Node:
    """The map that goes into the outermost layer that takes this stride to the next."""
    needed = sources([features])

    def stride_of(node: fx.Node) -> int | None:
        grid = grids.of.get(node)
        return grid.stride if isinstance(grid, Grid) else None

    steps = [
        (node, stride_of(node))
        for node in found.graph.nodes
        if node in needed and any(stride_of(source) == stride for source in node.all_input_nodes)
    ]
    steps = [(node, after) for node, after in steps if after is not None and after > stride]
    if not steps:
        raise WavedilError(f"levels: the network has no map at stride {stride} that goes on to a larger one")
    first, after = steps[0]
    around = [name for name in first.meta.get("nn_module_stack", {}) if name]
    calls = [
        call
        for call in found.calls
        if call.name in around and stride_of(call.input) == stride and stride_of(call.output) == after
    ]
    return min(calls, key=lambda call: len(call.name)).input if calls else first.all_input_nodes[0]


def _call(node: fx.Node, target: str, inputs: tuple) -> None:
    node.op, node.target, node.args, node.kwargs = "call_module", target, tuple(inputs), {}


def _facts(plan: DensePlan) -> dict:
    grids = [plan.grids.of[node] for node in plan.outputs]
    last = grids[-1]
    return {
        "output_stride": last.dense,
        "stride": last.stride,
        "level_strides": tuple(grid.dense for grid in grids),
        "channels": plan.outputs[-1].meta["shape"][1],
        "level_channels": tuple(node.meta["shape"][1] for node in plan.outputs),
        "receptive_field": None if last.whole else axes_value([high - low + 1 for low, high in last.field]),
        "center": tuple((low + high) / 2 for low, high in last.field),
    }
