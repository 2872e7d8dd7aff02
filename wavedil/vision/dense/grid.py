"""Sampling grid of every feature map of a network, in the classifier and in its dense form."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import fx, nn

from wavedil.core.padded_conv import axes_value
from wavedil.errors import WavedilError
from wavedil.vision.dense.spatial import SpatialOp, read_spatial_op
from wavedil.vision.dense.trace import SAMPLE_SIZE, Trace, describe_node
from wavedil.vision.dense.window import IntPair, Window


@dataclass(frozen=True)
class Grid:
    """Sampling grid of a feature map: cell i of the classifier is cell ``spacing * i`` of the dense network.

    Attributes:
        stride, dense_stride: pixels between cells in the classifier and in the dense network, (vertical, horizontal).
        size, dense_size: (height, width) of the map in both, for an image of SAMPLE_SIZE.
        field: first and last pixel, along each axis, in the receptive field of cell 0 of the dense network.
        sees_image: whether the cells depend on the full image as well.
    """

    stride: IntPair
    dense_stride: IntPair
    size: IntPair
    dense_size: IntPair
    field: tuple[IntPair, IntPair]
    sees_image: bool = False

    @property
    def spacing(self) -> IntPair:
        return tuple(full // dense for full, dense in zip(self.stride, self.dense_stride, strict=True))

    def find_axis(self, shape: tuple[int, ...]) -> int | None:
        """First of two consecutive axes of ``shape`` with the height and width of this map; None if there are none."""
        pairs = (axis for axis in range(1, len(shape) - 1) if shape[axis : axis + 2] == self.size)
        return next(pairs, None)


@dataclass(frozen=True)
class NonMap:
    """A value that was computed from a feature map but is not one, e.g. after pooling or flattening.

    Attributes:
        grid: grid of the feature map.
        error: why the operation has no dense form; None if it needs none.
    """

    grid: Grid
    error: WavedilError | None = None


# Layers that combine the full map, and those that pool it to a fixed size.
_GLOBAL_LAYERS = (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
_GLOBAL_LAYER_NAMES = ("GlobalResponseNorm",)
_FIXED_SIZE_LAYERS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_GLOBAL_FUNCTIONS = (F.group_norm, F.instance_norm)
_FIXED_SIZE_FUNCTIONS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)


class GridAnalysis:
    """Grids of all nodes of a trace, and the windows of the nodes to replace.

    Attributes:
        grids: a Grid or NonMap for each node that depends on the image.
        windows: the window in the dense network, for each node that changes.
    """

    def __init__(self, trace: Trace, output_stride: IntPair):
        self.output_stride = output_stride
        self.root = trace.skeleton
        self.grids: dict[fx.Node, Grid | NonMap] = {}
        self.windows: dict[fx.Node, Window] = {}
        image = next(node for node in trace.graph.nodes if node.op == "placeholder")
        self.grids[image] = Grid((1, 1), (1, 1), SAMPLE_SIZE, SAMPLE_SIZE, ((0, 0), (0, 0)))
        for node in trace.graph.nodes:
            inputs = [self.grids[source] for source in node.all_input_nodes if source in self.grids]
            if inputs and node.op != "output" and node.meta["shape"] is not None:
                try:
                    self.grids[node] = self._analyze(node, inputs)
                except WavedilError as error:
                    grid = inputs[0] if isinstance(inputs[0], Grid) else inputs[0].grid
                    self.grids[node] = NonMap(grid, WavedilError(f"{describe_node(node)}: {error}"))

    def _analyze(self, node: fx.Node, inputs: list[Grid | NonMap]) -> Grid | NonMap:
        grids = [value for value in inputs if isinstance(value, Grid)]
        non_maps = [value for value in inputs if isinstance(value, NonMap)]
        is_spread = any(grid.spacing != (1, 1) for grid in grids)
        try:
            spatial = read_spatial_op(node, self.root)
        except WavedilError:
            if is_spread:
                raise
            spatial = None  # the operation stays as it is
        if spatial is not None and not spatial.window.is_pointwise:
            grid = self.grids.get(spatial.tensors[0])
            if isinstance(grid, Grid):
                return self._apply_window(node, spatial, grid)
            if isinstance(grid, NonMap):  # in the head, or after an operation without dense form
                return grid
        shapes = node.meta["shape"] if isinstance(node.meta["shape"], list) else [node.meta["shape"]]
        if grids:
            grid = _merge(grids)
            if all(grid.find_axis(shape) is not None for shape in shapes):
                return replace(grid, sees_image=grid.sees_image or bool(non_maps) or self.is_global(node))
            return self._change_size(node, grid, shapes[0])
        grid = non_maps[0].grid
        if non_maps[0].error is None and all(grid.find_axis(shape) is not None for shape in shapes):
            return replace(grid, sees_image=True)  # a map again, e.g. after attention
        return non_maps[0]

    def _apply_window(self, node: fx.Node, spatial: SpatialOp, grid: Grid) -> Grid:
        """The grid after a spatial operation; stores its window in the dense network if that differs."""
        window = spatial.window
        stride = tuple(before * s for before, s in zip(grid.stride, window.stride, strict=True))
        dense_stride = tuple(map(min, stride, self.output_stride))
        for before, full, dense, least in zip(grid.dense_stride, stride, dense_stride, self.output_stride, strict=True):
            if dense % before or full % dense:
                raise WavedilError(
                    f"goes from stride {before} to {full}: output_stride {least} must be a multiple of the first and a "
                    "divisor of the second"
                )
        size = node.meta["shape"][-2:]
        kept = tuple(dense // before for dense, before in zip(dense_stride, grid.dense_stride, strict=True))
        is_conv = len(spatial.tensors) == 3 or isinstance(self._module(node), nn.Conv2d)
        is_same = window.padding is None  # our layers can be traced for any size
        if grid.spacing != (1, 1) or kept != window.stride or is_same or (is_conv and window.dilation != (1, 1)):
            # An axis that does not change keeps its padding.
            changed = [
                pair != (1, s) for pair, s in zip(zip(grid.spacing, kept, strict=True), window.stride, strict=True)
            ]
            target = tuple(
                pixels // dense if n * full == pixels and differs else None
                for n, full, dense, pixels, differs in zip(
                    size, stride, dense_stride, SAMPLE_SIZE, changed, strict=True
                )
            )
            window = window.dilated(grid.spacing, kept, grid.dense_size, target)
            self.windows[node] = window
        field = tuple(
            (first - before * dense, last + (span - before) * dense)
            for (first, last), (before, _), span, dense in zip(
                grid.field, window.padding_for(grid.dense_size), window.span, grid.dense_stride, strict=True
            )
        )
        return Grid(stride, dense_stride, size, window.output_size(grid.dense_size), field, grid.sees_image)

    def _change_size(self, node: fx.Node, grid: Grid, shape: tuple[int, ...]) -> Grid | NonMap:
        """The grid after an unknown operation that changes the size of the map."""
        fixed = isinstance(self._module(node), _FIXED_SIZE_LAYERS) or node.target in _FIXED_SIZE_FUNCTIONS
        if fixed or len(shape) != 4 or min(shape[2:]) == 1:
            return NonMap(grid)
        strides = [full * n / m for full, n, m in zip(grid.stride, grid.size, shape[2:], strict=True)]
        fits = all(s == int(s) <= limit for s, limit in zip(strides, self.output_stride, strict=True))
        if grid.spacing == (1, 1) and fits:
            stride = tuple(map(int, strides))
            return Grid(stride, stride, shape[2:], shape[2:], grid.field, sees_image=True)
        raise WavedilError(f"changes the size of a map from {grid.size} to {shape[2:]} in a way that has no dense form")

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(node.target) if node.op == "call_module" else None

    def is_global(self, node: fx.Node) -> bool:
        """Whether the node is a known layer or function that combines the full map."""
        module = self._module(node)
        names = [cls.__name__ for cls in type(module).__mro__]
        return (
            isinstance(module, _GLOBAL_LAYERS)
            or any(name in _GLOBAL_LAYER_NAMES for name in names)
            or node.target in _GLOBAL_FUNCTIONS
        )


def _merge(grids: list[Grid]) -> Grid:
    """The grid of an operation on several maps of one grid."""
    first = grids[0]
    for grid in grids[1:]:
        if (grid.stride, grid.dense_size) != (first.stride, first.dense_size):
            raise WavedilError(
                f"combines maps of strides {axes_value(first.stride)} and {axes_value(grid.stride)} with dense sizes "
                f"{first.dense_size} and {grid.dense_size}: expected the same"
            )
    field = tuple(
        (min(low for low, _ in axis), max(high for _, high in axis))
        for axis in zip(*(grid.field for grid in grids), strict=True)
    )
    return replace(first, field=field, sees_image=any(grid.sees_image for grid in grids))


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes and all nodes that they are computed from."""
    found: set[fx.Node] = set()
    todo: list[fx.Node] = list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += node.all_input_nodes
    return found
