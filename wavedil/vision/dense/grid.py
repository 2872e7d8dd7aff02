"""Where the cells of every map of a network lie in the image, in the classifier and in its dense form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from wavedil.errors import WavedilError
from wavedil.vision.dense.spatial import Spatial, read
from wavedil.vision.dense.trace import SAMPLE, Trace, layer_of
from wavedil.vision.dense.window import Pair, Window


@dataclass(frozen=True)
class Grid:
    """A map: cell i of the classifier's is cell ``hole * i`` of the dense network's. Sizes are those for SAMPLE.

    Attributes:
        stride, dense: pixels from one cell to the next in the classifier and in the dense network.
        size, dense_size: (height, width) of the two maps.
        field: for each axis the first and last pixel that the dense network's cell 0 depends on.
        whole: whether the cells depend on the whole image as well.
    """

    stride: int
    dense: int
    size: Pair
    dense_size: Pair
    field: tuple[Pair, Pair]
    whole: bool = False

    @property
    def hole(self) -> int:
        return self.stride // self.dense

    def axis_in(self, shape: tuple[int, ...]) -> int | None:
        """The first of the two axes that are this map's height and width; None where the shape has no such."""
        pairs = (axis for axis in range(1, len(shape) - 1) if shape[axis : axis + 2] == self.size)
        return next(pairs, None)


@dataclass(frozen=True)
class Lost:
    """A value that was made from a map and is none: pooled, or flattened. ``refused``: why what made it will not do."""

    grid: Grid
    refused: WavedilError | None = None


_WHOLE_MAP = (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
_WHOLE_MAP_NAMES = ("GlobalResponseNorm",)
_TO_FIXED_SIZE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_WHOLE_MAP_FUNCTIONS = (F.group_norm, F.instance_norm)
_TO_FIXED_SIZE_FUNCTIONS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)


class Grids:
    """The grid of every node of a trace, and the windows of the nodes that differ in the dense network.

    Attributes:
        of: a Grid or Lost for each node; nodes that do not stem from the image are left out.
        windows: for each node to be replaced, the window it has in the dense network.
    """

    def __init__(self, trace: Trace, output_stride: int):
        self.output_stride = output_stride
        self.root = trace.skeleton
        self.of: dict[fx.Node, Grid | Lost] = {}
        self.windows: dict[fx.Node, Window] = {}
        image = next(node for node in trace.graph.nodes if node.op == "placeholder")
        self.of[image] = Grid(1, 1, SAMPLE, SAMPLE, ((0, 0), (0, 0)))
        for node in trace.graph.nodes:
            known = [self.of[source] for source in node.all_input_nodes if source in self.of]
            if known and node.op != "output" and node.meta["shape"] is not None:
                try:
                    self.of[node] = self._place(node, known)
                except WavedilError as error:
                    message = f"{layer_of(node)}: {error}"
                    self.of[node] = Lost(
                        known[0] if isinstance(known[0], Grid) else known[0].grid, WavedilError(message)
                    )

    def _place(self, node: fx.Node, known: list[Grid | Lost]) -> Grid | Lost:
        grids = [value for value in known if isinstance(value, Grid)]
        lost = [value for value in known if isinstance(value, Lost)]
        hole = max([grid.hole for grid in grids], default=1)
        try:
            spatial = read(node, self.root)
        except WavedilError:
            if hole > 1:
                raise
            spatial = None  # stays as it is
        if spatial is not None and not spatial.window.is_point:
            at = self.of.get(spatial.tensors[0])
            if isinstance(at, Grid):
                return self._slide(node, spatial, at)
            if isinstance(at, Lost):  # a head, or behind what was refused
                return at
        shapes = node.meta["shape"] if isinstance(node.meta["shape"], list) else [node.meta["shape"]]
        if grids:
            grid = _join(grids)
            if all(grid.axis_in(shape) is not None for shape in shapes):
                return replace(grid, whole=grid.whole or bool(lost) or self.sees_all(node))
            return self._resized(node, grid, shapes[0])
        grid = lost[0].grid
        if lost[0].refused is None and all(grid.axis_in(shape) is not None for shape in shapes):
            return replace(grid, whole=True)  # a map again, e.g. behind attention
        return lost[0]

    def _slide(self, node: fx.Node, spatial: Spatial, grid: Grid) -> Grid:
        """The grid behind a spatial operation; notes its new window where it has one."""
        window = spatial.window
        if window.stride[0] != window.stride[1]:
            raise WavedilError(f"strides {window.stride} differ between the axes: expected one stride")
        stride = grid.stride * window.stride[0]
        dense = min(stride, self.output_stride)
        if dense % grid.dense or stride % dense:
            raise WavedilError(
                f"goes from stride {grid.stride} to {stride}: output stride {self.output_stride} is not on that way"
            )
        size, kept = node.meta["shape"][-2:], dense // grid.dense
        is_conv = len(spatial.tensors) == 3 or isinstance(self._module(node), nn.Conv2d)
        if grid.hole > 1 or kept != window.stride[0] or (is_conv and window.dilation != (1, 1)):
            target = tuple(
                whole // dense if n * stride == whole else None for n, whole in zip(size, SAMPLE, strict=True)
            )
            window = window.opened(grid.hole, kept, grid.dense_size, target)
            self.windows[node] = window
        field = tuple(
            (first - before * grid.dense, last + (span - before) * grid.dense)
            for (first, last), (before, _), span in zip(
                grid.field, window.pads(grid.dense_size), window.span, strict=True
            )
        )
        return Grid(stride, dense, size, window.out_size(grid.dense_size), field, grid.whole)

    def _resized(self, node: fx.Node, grid: Grid, shape: tuple[int, ...]) -> Grid | Lost:
        """What becomes of a map in an operation that is not known, and whose result has another size."""
        fixed = isinstance(self._module(node), _TO_FIXED_SIZE) or node.target in _TO_FIXED_SIZE_FUNCTIONS
        if fixed or len(shape) != 4 or min(shape[2:]) == 1:
            return Lost(grid)
        strides = {grid.stride * n / m for n, m in zip(grid.size, shape[2:], strict=True)}
        if grid.hole == 1 and len(strides) == 1 and (stride := strides.pop()) == int(stride) <= self.output_stride:
            return Grid(int(stride), int(stride), shape[2:], shape[2:], grid.field, whole=True)
        raise WavedilError(f"changes the size of a map from {grid.size} to {shape[2:]} in a way that has no dense form")

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(node.target) if node.op == "call_module" else None

    def sees_all(self, node: fx.Node) -> bool:
        """Whether this is a layer, of those known by name, that mixes the whole map."""
        module = self._module(node)
        names = [kind.__name__ for kind in type(module).__mro__]
        return (
            isinstance(module, _WHOLE_MAP)
            or any(name in _WHOLE_MAP_NAMES for name in names)
            or node.target in _WHOLE_MAP_FUNCTIONS
        )


def _join(grids: list[Grid]) -> Grid:
    first = grids[0]
    for grid in grids[1:]:
        if (grid.stride, grid.dense_size) != (first.stride, first.dense_size):
            raise WavedilError(
                f"joins maps of strides {first.stride} and {grid.stride}, {first.dense_size} and {grid.dense_size} "
                "when dense: expected the same"
            )
    field = tuple(
        (min(low for low, _ in axis), max(high for _, high in axis))
        for axis in zip(*(grid.field for grid in grids), strict=True)
    )
    return replace(first, field=field, whole=any(grid.whole for grid in grids))


def sources(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and all that they are computed from."""
    found: set[fx.Node] = set()
    todo: list[Any] = list(nodes)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += node.all_input_nodes
    return found
