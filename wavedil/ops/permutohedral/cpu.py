"""The permutohedral lattice in numba loops, and the mean field of a CRF on it with no message ever written down.

Each iteration of the mean field reads the vertices' values at a pixel, makes the pixel's Q of them and adds that to the
vertices of the next iteration, for all lattices in one pass: of what there is for each pixel only the scores and the
places and weights of its corners go through memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from wavedil.ops.fallback import flat, plain_eager, tried
from wavedil.ops.permutohedral.reference import Lattice, elevate, packing, steps
from wavedil.ops.threads import over_rows

_SHORT = 2**31  # places below it are kept as int32


@cache
def loops() -> ModuleType | None:
    """The module of loops over values, compiled and tried out; None where numba is not usable."""

    def trial(kernels: ModuleType) -> None:
        one = torch.ones(1, 1, dtype=torch.float32)
        lattice = Lattice(one.int(), one, torch.zeros(1, 2, 2, dtype=torch.int32))
        run(kernels, one, lattice, False)

    return tried("wavedil.ops.permutohedral.kernels", trial)


@cache
def builders() -> ModuleType | None:
    """The module of loops that build lattices, compiled and tried out; None where numba is not usable."""
    return tried("wavedil.ops.permutohedral.build", lambda build: built(build, torch.zeros(1, 1)))


def supports(*tensors: Tensor | None) -> bool:
    """Whether the loops can take these values."""
    return plain_eager(*tensors) and all(t is None or t.dtype == torch.float32 for t in tensors) and loops() is not None


def supports_features(features: Tensor) -> bool:
    """Whether the loops can build this lattice."""
    return plain_eager(features) and builders() is not None


def build_lattice(features: Tensor) -> Lattice:
    return built(builders(), features)


def built(build: ModuleType, features: Tensor) -> Lattice:
    elevated = elevate(features.detach()).contiguous()
    lowest, radix = packing(elevated)
    corners, points = elevated.shape
    keys = torch.empty(points, corners, dtype=torch.int64)
    weights = elevated.new_empty(points, corners)
    arrays = [t.numpy() for t in (elevated, keys, weights, lowest, radix)]
    over_rows(lambda first, last: build.simplices(*arrays, (0,) * corners, first, last), points, corners * corners)
    index = torch.empty(points, corners, dtype=torch.int32)
    table, numbers, found, count = build.number(keys.numpy(), index.numpy())
    beside = torch.empty(corners, count + 1, 2, dtype=torch.int32)
    build.neighbors(table, numbers, found, steps(radix).numpy(), beside.numpy())
    return Lattice(index, weights, beside)


def normalized(lattice: Lattice) -> Lattice:
    filtered = lattice.weights.new_empty(lattice.points)
    builders().filter_ones(*(t.numpy() for t in (lattice.index, lattice.weights, lattice.neighbors, filtered)))
    return lattice.scaled(filtered.rsqrt_())


def lattice_filter(values: Tensor, lattice: Lattice, reverse: bool) -> Tensor:
    return _Filter.apply(values, lattice, reverse)


class _Filter(torch.autograd.Function):
    """The filter is linear, and its adjoint is the filter that blurs along the axes in the reverse order."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, lattice: Lattice, reverse: bool) -> Tensor:
        ctx.adjoint = lattice, not reverse
        return run(loops(), values, lattice, reverse)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Filter.apply(grad, *ctx.adjoint), None, None


class _Vertices:
    """Values at the vertices of all lattices, one after the other, in rows of labels; row 0 is 0 for all of them.

    One splat for each thread, a spare to blur into, and the blurred values.
    """

    def __init__(self, kernels: ModuleType, lattices: Sequence[Lattice], strengths: Sequence[float], labels: int):
        self.kernels = kernels
        self.width = -(-labels // kernels.LANES) * kernels.LANES
        rows = 1 + sum(lattice.vertices for lattice in lattices)
        first = lattices[0].weights
        self.points = len(first)
        corners = sum(lattice.index.shape[1] for lattice in lattices)
        # A further sum must be cleared and added: not where that is most of the work.
        self.threads = max(min(torch.get_num_threads(), self.points * corners // rows), 1)
        self.splats = first.new_empty(self.threads, rows, self.width)
        self.spare, self.values = first.new_zeros(rows, self.width), first.new_zeros(rows, self.width)
        index = torch.empty(self.points, corners, dtype=torch.int32 if rows * self.width < _SHORT else torch.int64)
        weights = first.new_empty(self.points, corners)
        self.axes: list[tuple[int, list[Tensor]]] = []  # the number of vertices before a lattice's, its neighbors
        before = done = 0
        for lattice, strength in zip(lattices, strengths, strict=True):
            columns = slice(done, done + lattice.index.shape[1])
            # Half of a strength on the way to the vertices and half on the way back.
            torch.mul(lattice.weights, strength**0.5, out=weights[:, columns])
            torch.mul(lattice.index.to(index.dtype), self.width, out=index[:, columns])
            index[:, columns] += before * self.width
            beside = lattice.neighbors[:, 1:]
            self.axes.append((before, list(torch.where(beside > 0, beside + before, 0))))
            before, done = before + lattice.vertices, columns.stop
        self.table = flat(index), flat(weights), (0,) * corners, self.width

    def splat(self, kernel: Callable[..., None], source: Tensor, *values: Tensor) -> None:
        """kernel(source, ..., target, table, first, last) of all points, to one sum."""
        arrays = [flat(t) for t in (source, *values)]

        def part(first: int, last: int) -> None:
            for thread in range(first, last):
                target = self.splats[thread].zero_()
                begin, end = (self.points * t // self.threads for t in (thread, thread + 1))
                kernel(*arrays, flat(target), *self.table, begin, end)

        over_rows(part, self.threads, self.points * self.width // self.threads)
        for other in self.splats[1:]:
            self.splats[0] += other

    def blur(self, reverse: bool = False) -> None:
        """From the splat to the values along all axes of each lattice."""
        for before, axes in self.axes:
            source = self.splats[0]
            for left, beside in reversed(list(enumerate(axes if reverse else axes[::-1]))):
                target = self.spare if left % 2 else self.values
                arrays = flat(source), flat(target), flat(beside), self.width, before + 1
                over_rows(lambda first, last, a=arrays: self.kernels.blur(*a, first, last), len(beside), self.width)
                source = target

    def mix(self, matrix: Tensor) -> None:
        """Each row times a matrix (width, width): on labels, so it is the same before the slice and after it."""
        torch.mm(self.values, matrix, out=self.spare)
        self.values, self.spare = self.spare, self.values


def run(kernels: ModuleType, values: Tensor, lattice: Lattice, reverse: bool) -> Tensor:
    labels = values.shape[1]
    vertices = _Vertices(kernels, [lattice], [1.0], labels)
    rows = torch.nn.functional.pad(values, (0, vertices.width - labels)).contiguous()
    vertices.splat(kernels.splat, rows)
    vertices.blur(reverse)
    rows = torch.empty_like(rows)
    arrays = flat(vertices.values), flat(rows), *vertices.table
    over_rows(lambda first, last: kernels.slice_(*arrays, first, last), len(rows), vertices.width)
    return rows[:, :labels].contiguous()


def mean_field(
    scores: Tensor, lattices: Sequence[Lattice], strengths: Sequence[float], penalty: Tensor | None, iterations: int
) -> Tensor:
    kernels = loops()
    labels, points = scores.shape
    vertices = _Vertices(kernels, lattices, strengths, labels)
    width = vertices.width
    logits = scores.new_empty(points, width)
    arrays = flat(scores.contiguous()), flat(logits), labels, points, width
    over_rows(lambda first, last: kernels.to_rows(*arrays, first, last), points, width)
    if penalty is not None:
        matrix = scores.new_zeros(width, width)
        matrix[:labels, :labels] = -penalty.t()
    for _ in range(iterations):  # the first time the values are 0, and Q is that of the scores alone
        vertices.splat(kernels.mean_field_step, logits, vertices.values)
        vertices.blur()
        if penalty is not None:
            vertices.mix(matrix)
    q = scores.new_empty(labels, points)
    arrays = flat(logits), flat(vertices.values), flat(q), labels, points, *vertices.table
    over_rows(lambda first, last: kernels.mean_field_end(*arrays, first, last), points, width)
    return q
