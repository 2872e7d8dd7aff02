"""The permutohedral lattice and CRF mean fields on it with numba kernels.

Each iteration of the mean field slices the vertices' values at a pixel, computes the pixel's Q and splats it to the
vertices of the next iteration, for all lattices in one pass. So neither messages nor Q are written to memory: per pixel
only the scores and the indices and weights of its corners are read.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.fallback import flat_numpy, is_eager_cpu, load_kernels
from wavedil.ops.permutohedral.reference import Lattice, elevate, key_encoding, key_steps
from wavedil.ops.threads import run_in_threads

_INT32_LIMIT = 2**31  # offsets below it are stored as int32


@cache
def compiled_kernels() -> ModuleType | None:
    """The module of filter kernels, after a trial; None if numba does not work."""

    def trial(kernels: ModuleType) -> None:
        one = torch.ones(1, 1, dtype=torch.float32)
        lattice = Lattice(one.int(), one, torch.zeros(1, 2, 2, dtype=torch.int32))
        _filter(kernels, one, lattice, False)

    return load_kernels("wavedil.ops.permutohedral.kernels", trial)


@cache
def compiled_builders() -> ModuleType | None:
    """The module of kernels that build lattices, after a trial; None if numba does not work."""
    return load_kernels("wavedil.ops.permutohedral.build_kernels", lambda kernels: _build(kernels, torch.zeros(1, 1)))


def supports(*tensors: Tensor | None) -> bool:
    """Whether the kernels support these values."""
    return (
        is_eager_cpu(*tensors)
        and all(t is None or t.dtype == torch.float32 for t in tensors)
        and compiled_kernels() is not None
    )


def supports_features(features: Tensor) -> bool:
    """Whether the kernels can build this lattice."""
    return is_eager_cpu(features) and compiled_builders() is not None


def build_lattice(features: Tensor) -> Lattice:
    """The lattice of features ``(dims, points)``, not normalized."""
    return _build(compiled_builders(), features)


def _build(kernels: ModuleType, features: Tensor) -> Lattice:
    elevated = elevate(features.detach()).contiguous()
    lowest, radix = key_encoding(elevated)
    corners, points = elevated.shape
    keys = torch.empty(points, corners, dtype=torch.int64)
    weights = elevated.new_empty(points, corners)
    arrays = [t.numpy() for t in (elevated, keys, weights, lowest, radix)]
    run_in_threads(partial(kernels.simplices, *arrays, (0,) * corners), points, corners * corners)
    index = torch.empty(points, corners, dtype=torch.int32)
    table, numbers, found, count = kernels.number_vertices(keys.numpy(), index.numpy())
    neighbors = torch.empty(corners, count + 1, 2, dtype=torch.int32)
    kernels.find_neighbors(table, numbers, found, key_steps(radix).numpy(), neighbors.numpy())
    return Lattice(index, weights, neighbors)


def normalized(lattice: Lattice) -> Lattice:
    """A lattice whose filter divides by the square root of the filtered ones, before and after."""
    filtered = lattice.weights.new_empty(lattice.points)
    compiled_builders().filter_ones(*(t.numpy() for t in (lattice.index, lattice.weights, lattice.neighbors, filtered)))
    return lattice.scaled(filtered.rsqrt_())


def lattice_filter(values: Tensor, lattice: Lattice, reverse: bool) -> Tensor:
    """Splat, blur along each axis in turn, slice: ``(points, labels) -> (points, labels)``."""
    return _Filter.apply(values, lattice, reverse)


class _Filter(torch.autograd.Function):
    """The filter; its adjoint blurs along the axes in reverse order."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, lattice: Lattice, reverse: bool) -> Tensor:
        ctx.adjoint = lattice, not reverse
        return _filter(compiled_kernels(), values, lattice, reverse)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Filter.apply(grad, *ctx.adjoint), None, None


class _Vertices:
    """Values at the vertices of all lattices, lattice after lattice, as rows of labels; row 0 is 0 and shared.

    Holds the target of splatting for each thread, the blurred values, and a second array for blurring.
    """

    def __init__(self, kernels: ModuleType, lattices: Sequence[Lattice], strengths: Sequence[float], labels: int):
        self.kernels = kernels
        self.width = -(-labels // kernels.LANES) * kernels.LANES
        rows = 1 + sum(lattice.vertices for lattice in lattices)
        first = lattices[0].weights
        self.points = len(first)
        corners = sum(lattice.index.shape[1] for lattice in lattices)
        # Another thread needs another target to clear and add, which must not dominate the work.
        self.threads = max(min(torch.get_num_threads(), self.points * corners // rows), 1)
        self.splats = first.new_empty(self.threads, rows, self.width)
        self.spare, self.values = first.new_zeros(rows, self.width), first.new_zeros(rows, self.width)
        index_dtype = torch.int32 if rows * self.width < _INT32_LIMIT else torch.int64
        index = torch.empty(self.points, corners, dtype=index_dtype)
        weights = first.new_empty(self.points, corners)
        self.axes: list[tuple[int, list[Tensor]]] = []  # per lattice: index offset, neighbors per axis
        before = done = 0
        for lattice, strength in zip(lattices, strengths, strict=True):
            columns = slice(done, done + lattice.index.shape[1])
            # The square root of the strength applies in splatting and again in slicing.
            torch.mul(lattice.weights, strength**0.5, out=weights[:, columns])
            torch.mul(lattice.index.to(index.dtype), self.width, out=index[:, columns])
            index[:, columns] += before * self.width
            neighbors = lattice.neighbors[:, 1:]
            self.axes.append((before, list(torch.where(neighbors > 0, neighbors + before, 0))))
            before, done = before + lattice.vertices, columns.stop
        self.table = flat_numpy(index), flat_numpy(weights), (0,) * corners, self.width

    def splat(self, kernel: Callable[..., None], source: Tensor, *values: Tensor) -> None:
        """Runs ``kernel(source, *values, target, *table, first, last)`` on all points; the sum is ``splats[0]``."""
        arrays = [flat_numpy(t) for t in (source, *values)]

        def run_threads(first: int, last: int) -> None:
            for thread in range(first, last):
                target = self.splats[thread].zero_()
                begin, end = (self.points * t // self.threads for t in (thread, thread + 1))
                kernel(*arrays, flat_numpy(target), *self.table, begin, end)

        run_in_threads(run_threads, self.threads, self.points * self.width // self.threads)
        for other in self.splats[1:]:
            self.splats[0] += other

    def blur(self, reverse: bool = False) -> None:
        """Blurs ``splats[0]`` along all axes of each lattice into ``values``."""
        for before, axes in self.axes:
            source = self.splats[0]
            for remaining, neighbors in reversed(list(enumerate(axes if reverse else axes[::-1]))):
                target = self.spare if remaining % 2 else self.values
                arrays = flat_numpy(source), flat_numpy(target), flat_numpy(neighbors), self.width, before + 1
                run_in_threads(partial(self.kernels.blur, *arrays), len(neighbors), self.width)
                source = target

    def mix(self, matrices: Sequence[Tensor | None]) -> None:
        """Multiplies the rows of each lattice by its matrix ``(width, width)``: the same as doing so after slicing."""
        for (before, axes), matrix in zip(self.axes, matrices, strict=True):
            if matrix is not None:
                rows = slice(before + 1, before + 1 + len(axes[0]))
                self.values[rows] = self.values[rows] @ matrix


def _filter(kernels: ModuleType, values: Tensor, lattice: Lattice, reverse: bool) -> Tensor:
    labels = values.shape[1]
    vertices = _Vertices(kernels, [lattice], [1.0], labels)
    rows = torch.nn.functional.pad(values, (0, vertices.width - labels)).contiguous()
    vertices.splat(kernels.splat, rows)
    vertices.blur(reverse)
    rows = torch.empty_like(rows)
    arrays = flat_numpy(vertices.values), flat_numpy(rows), *vertices.table
    run_in_threads(partial(kernels.slice_, *arrays), len(rows), vertices.width)
    return rows[:, :labels].contiguous()


def mean_field(
    scores: Tensor,
    lattices: Sequence[Lattice],
    strengths: Sequence[float],
    penalties: Sequence[Tensor | None],
    iterations: int,
) -> Tensor:
    """Arguments as in :func:`wavedil.ops.permutohedral.mean_field`."""
    kernels = compiled_kernels()
    labels, points = scores.shape
    vertices = _Vertices(kernels, lattices, strengths, labels)
    width = vertices.width
    logits = scores.new_empty(points, width)
    arrays = flat_numpy(scores.contiguous()), flat_numpy(logits), labels, points, width
    run_in_threads(partial(kernels.to_rows, *arrays), points, width)
    pad = (0, width - labels, 0, width - labels)
    matrices = [None if each is None else torch.nn.functional.pad(-each.t(), pad) for each in penalties]
    for _ in range(iterations):  # in the first iteration the values are 0, so Q is softmax(scores)
        vertices.splat(kernels.mean_field_step, logits, vertices.values)
        vertices.blur()
        vertices.mix(matrices)
    q = scores.new_empty(labels, points)
    arrays = flat_numpy(logits), flat_numpy(vertices.values), flat_numpy(q), labels, points, *vertices.table
    run_in_threads(partial(kernels.mean_field_result, *arrays), points, width)
    return q
