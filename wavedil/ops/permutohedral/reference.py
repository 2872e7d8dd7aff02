"""High-dimensional Gaussian filtering in plain PyTorch: exact sums, and the permutohedral lattice.

The lattice (Adams, Baek & Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice") approximates
the exact sums; it is the definition for tests of the kernels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wavedil.errors import WavedilError

_MAX_COORDINATE = 2**20  # above it, float32 resolves a point's position in its simplex only to 1/8


@dataclass(frozen=True)
class Lattice:
    """Points in a lattice, each in a simplex with ``corners = dims + 1`` vertices.

    Attributes:
        index: ``(points, corners)`` int32, the vertices around each point, numbered from 1. All vertices that no point
            touches are vertex 0, whose value is 0.
        weights: ``(points, corners)`` float32, barycentric weights times a factor per point.
        neighbors: ``(corners, vertices + 1, 2)`` int32, the next vertices up and down along each axis.
    """

    index: Tensor
    weights: Tensor
    neighbors: Tensor

    @property
    def points(self) -> int:
        """Number of points."""
        return self.index.shape[0]

    @property
    def vertices(self) -> int:
        """Number of vertices that points touch."""
        return self.neighbors.shape[1] - 1

    def scaled(self, factors: Tensor) -> "Lattice":
        """A lattice that multiplies the input and the output of its filter by ``factors`` ``(points,)``."""
        return replace(self, weights=self.weights * factors[:, None])


def gaussian_matrix(features: Tensor) -> Tensor:
    """The matrix of the exact filter, for few points: ``k_ij / sqrt(sum of row i * sum of row j)``.

    Here ``k_ij = exp(-|f_i - f_j|^2 / 2)``. The filter of a normalized lattice approximates the product with it.

    Shapes: ``(dims, points) -> (points, points)``.
    """
    points = features.t()
    kernel = torch.exp(torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square() / -2)
    root = kernel.sum(1).rsqrt()
    return root[:, None] * kernel * root


def elevate(features: Tensor) -> Tensor:
    """Maps features into the hyperplane of coordinates with sum 0: ``(dims, points) -> (dims + 1, points)`` float32.

    The scale makes splat, blur and slice together approximate a Gaussian of standard deviation 1 (section 3.1).
    """
    dims = features.shape[0]
    rows: list[Tensor] = []
    total = features.new_zeros(features.shape[1], dtype=torch.float32)
    for axis in range(dims, 0, -1):
        scaled = features[axis - 1].float() * ((dims + 1) * math.sqrt(2 / 3 / (axis * (axis + 1))))
        rows.append(total - axis * scaled)
        total = total + scaled
    return torch.stack([total, *reversed(rows)])


def key_encoding(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """``lowest`` and ``radix`` of the unique key of a vertex, ``sum of (coordinate - lowest) * radix``.

    The last coordinate is minus the sum of the others and is not part of the key. Along each coordinate, a vertex
    around a point is less than ``2 * corners`` away from it, and a neighbor of such a vertex less than ``3 * corners``.

    Returns:
        Two tensors ``(corners,)`` int64.

    Raises:
        WavedilError: points that are not finite, too large, or spread over more than 2**62 vertices.
    """
    corners = elevated.shape[0]
    low, high = (torch.stack(bound) for bound in zip(*map(torch.aminmax, elevated), strict=True))
    reach = torch.maximum(-low, high).max().item()
    if not reach < _MAX_COORDINATE:  # NaN too
        raise WavedilError(
            f"features are up to {reach:.3g} lattice steps from 0: expected finite features within {_MAX_COORDINATE}; "
            "use larger standard deviations"
        )
    lowest = low.floor().long() - 3 * corners
    sizes = (high.ceil().long() + 3 * corners - lowest + 1).tolist()[:-1]
    if math.prod(sizes) >= 2**62:
        raise WavedilError(
            f"features span {' x '.join(map(str, sizes))} lattice steps: expected a product below 2^62; use larger "
            "standard deviations"
        )
    return lowest, torch.tensor([math.prod(sizes[:i]) for i in range(corners - 1)] + [0])


def simplices(elevated: Tensor, lowest: Tensor, radix: Tensor) -> tuple[Tensor, Tensor]:
    """The simplex around each point: keys of its corners and barycentric weights, ``(points, corners)`` each."""
    corners = elevated.shape[0]
    part = torch.tensor(1 / corners, dtype=torch.float32)
    elevated = elevated.t()
    nearest = torch.round(elevated * part)
    order = torch.argsort(elevated - nearest * corners, dim=1, descending=True, stable=True)
    # The rounded coordinates must sum to 0: those with the largest rounding errors are rounded to the other side.
    rank = torch.argsort(order, dim=1) + nearest.sum(1, keepdim=True).long()
    base = (nearest.long() + (rank < 0).long() - (rank >= corners).long()) * corners
    rank = rank % corners
    height = (elevated - base) * part
    weights = elevated.new_zeros(elevated.shape[0], corners + 1)
    weights.scatter_add_(1, corners - 1 - rank, height)
    weights.scatter_add_(1, corners - rank, -height)
    weights[:, 0] += 1 + weights[:, corners]
    # Corner k adds k to all coordinates and subtracts ``corners`` along the k axes of the last ranks.
    k = torch.arange(corners)[:, None]
    coordinates = base[:, None, :] + k - corners * (rank[:, None, :] > corners - 1 - k)
    return ((coordinates - lowest) * radix).sum(2), weights[:, :corners].contiguous()


def build_lattice(features: Tensor) -> Lattice:
    """The lattice of features ``(dims, points)``, not normalized."""
    elevated = elevate(features)
    lowest, radix = key_encoding(elevated)
    keys, weights = simplices(elevated, lowest, radix)
    vertices, index = torch.unique(keys, return_inverse=True)
    neighbors = torch.zeros(len(radix), len(vertices) + 1, 2, dtype=torch.int32)
    for axis, step in enumerate(key_steps(radix).tolist()):
        for side, wanted in enumerate((vertices + step, vertices - step)):
            at = torch.searchsorted(vertices, wanted).clamp(max=len(vertices) - 1)
            neighbors[axis, 1:, side] = torch.where(vertices[at] == wanted, at + 1, 0)
    return Lattice((index + 1).int(), weights, neighbors)


def key_steps(radix: Tensor) -> Tensor:
    """The change of a key for one step up each axis: 1 added to all coordinates, ``corners`` subtracted on the axis."""
    return radix.sum() - len(radix) * radix


def lattice_filter(values: Tensor, lattice: Lattice, reverse: bool = False) -> Tensor:
    """Splat, blur along each axis in turn, slice: ``(points, labels) -> (points, labels)``."""
    corners = list(zip(lattice.index.long().t(), lattice.weights.to(values.dtype).t()[..., None], strict=True))
    vertices = values.new_zeros(lattice.vertices + 1, values.shape[1])
    for at, weights in corners:
        vertices = vertices.index_add(0, at, values * weights)
    for neighbors in lattice.neighbors.flip(0) if reverse else lattice.neighbors:
        up, down = neighbors[1:].long().t()
        vertices = torch.cat([vertices[:1], vertices[1:] + (vertices[up] + vertices[down]) / 2])
    return sum(vertices[at] * weights for at, weights in corners)


def normalized(lattice: Lattice) -> Lattice:
    """A lattice whose filter divides by the square root of the filtered ones, before and after."""
    return lattice.scaled(lattice_filter(torch.ones_like(lattice.weights[:, :1]), lattice)[:, 0].rsqrt())


def mean_field(
    scores: Tensor,
    filters: Sequence[Callable[[Tensor], Tensor]],
    strengths: Sequence[float],
    penalties: Sequence[Tensor | None],
    iterations: int,
) -> Tensor:
    """Mean-field iterations; see :func:`wavedil.ops.permutohedral.mean_field`.

    Shapes: scores and result ``(labels, points)``, penalties ``(labels, labels)``, filters ``(points, labels)``. For
    None the matrix is minus the identity, which is the Potts model up to a constant for all labels.
    """
    q = torch.softmax(scores.t(), 1)
    for _ in range(iterations):
        messages = (strength * apply(q) for strength, apply in zip(strengths, filters, strict=True))
        pairs = zip(messages, penalties, strict=True)
        total = sum(each if penalty is None else -each @ penalty.t() for each, penalty in pairs)
        q = torch.softmax(scores.t() + total, 1)
    return q.t().contiguous()
