"""Gaussian filtering in many dimensions in plain PyTorch: exact sums, and the permutohedral lattice near them.

The lattice (Adams, Baek & Davis 2010, "Fast High-Dimensional Filtering Using the Permutohedral Lattice") is what the
loops are tested against, and the sums are what the lattice stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wavedil.errors import WavedilError

_REACH = 2**20  # of coordinates: beyond it, float32 knows a point's place in its simplex to an eighth only


@dataclass(frozen=True)
class Lattice:
    """Points of dims features among the vertices of a lattice, each in a simplex with corners = dims + 1.

    index: (points, corners) int32, the vertices around each point. They count from 1: 0 stands for all that no point
        touches, where the values are 0.
    weights: (points, corners) float32, barycentric, times a factor of the point.
    neighbors: (corners, vertices + 1, 2) int32, the vertices one step up and down each axis.
    """

    index: Tensor
    weights: Tensor
    neighbors: Tensor

    @property
    def points(self) -> int:
        return self.index.shape[0]

    @property
    def vertices(self) -> int:
        return self.neighbors.shape[1] - 1

    def scaled(self, factors: Tensor) -> Lattice:
        """The lattice whose filter multiplies by factors (points,) before and after."""
        return replace(self, weights=self.weights * factors[:, None])


def gaussian_matrix(features: Tensor) -> Tensor:
    """`k_ij / sqrt(sum of row i * sum of row j)`, `k_ij = exp(-|f_i - f_j|^2 / 2)`, (points, points): exact, for few.

    features (dims, points). A matrix product with it is what a normalized lattice's filter is near.
    """
    points = features.t()
    kernel = torch.exp(torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square() / -2)
    root = kernel.sum(1).rsqrt()
    return root[:, None] * kernel * root


def elevate(features: Tensor) -> Tensor:
    """(dims, points) into the hyperplane of coordinates that sum to 0, (dims + 1, points), float32.

    The scale makes the whole of splat, blur and slice near a Gaussian of standard deviation 1 (section 3.1).
    """
    dims = features.shape[0]
    rows: list[Tensor] = []
    total = features.new_zeros(features.shape[1], dtype=torch.float32)
    for axis in range(dims, 0, -1):
        scaled = features[axis - 1].float() * ((dims + 1) * math.sqrt(2 / 3 / (axis * (axis + 1))))
        rows.append(total - axis * scaled)
        total = total + scaled
    return torch.stack([total, *reversed(rows)])


def packing(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """lowest and radix, (corners,) int64: the exact key of a vertex is `sum of (coordinate - lowest) * radix`.

    The last coordinate is minus the sum of the rest and has no part in it. A vertex around a point is less than two
    times `corners` away from it along each coordinate, and a neighbor of such a vertex less than three times.

    Raises:
        WavedilError: points that are not finite, too far out, or spread over more vertices than 62 bits can number.
    """
    corners = elevated.shape[0]
    low, high = (torch.stack(bound) for bound in zip(*map(torch.aminmax, elevated), strict=True))
    reach = torch.maximum(-low, high).max().item()
    if not reach < _REACH:  # NaN too
        raise WavedilError(
            f"features reach {reach:.3g} steps of the lattice from 0: expected finite features within {_REACH}, "
            "so take larger standard deviations"
        )
    lowest = low.floor().long() - 3 * corners
    sizes = (high.ceil().long() + 3 * corners - lowest + 1).tolist()[:-1]
    if math.prod(sizes) >= 2**62:
        raise WavedilError(
            f"features reach over {' x '.join(map(str, sizes))} steps of the lattice, more than 2^62: "
            "expected fewer, so take larger standard deviations"
        )
    return lowest, torch.tensor([math.prod(sizes[:i]) for i in range(corners - 1)] + [0])


def simplices(elevated: Tensor, lowest: Tensor, radix: Tensor) -> tuple[Tensor, Tensor]:
    """The simplex around each point: keys of its corners and barycentric weights, (points, corners) each."""
    corners = elevated.shape[0]
    part = torch.tensor(1 / corners, dtype=torch.float32)
    elevated = elevated.t()
    nearest = torch.round(elevated * part)
    order = torch.argsort(elevated - nearest * corners, dim=1, descending=True, stable=True)
    # The rounded coordinates must sum to 0: those that were rounded the most go to the other side.
    rank = torch.argsort(order, dim=1) + nearest.sum(1, keepdim=True).long()
    base = (nearest.long() + (rank < 0).long() - (rank >= corners).long()) * corners
    rank = rank % corners
    height = (elevated - base) * part
    weights = elevated.new_zeros(elevated.shape[0], corners + 1)
    weights.scatter_add_(1, corners - 1 - rank, height)
    weights.scatter_add_(1, corners - rank, -height)
    weights[:, 0] += 1 + weights[:, corners]
    # Corner k is k steps up all axes, less a whole round along the k axes of the last ranks.
    k = torch.arange(corners)[:, None]
    coordinates = base[:, None, :] + k - corners * (rank[:, None, :] > corners - 1 - k)
    return ((coordinates - lowest) * radix).sum(2), weights[:, :corners].contiguous()


def build_lattice(features: Tensor) -> Lattice:
    """The lattice around features (dims, points)."""
    elevated = elevate(features)
    lowest, radix = packing(elevated)
    keys, weights = simplices(elevated, lowest, radix)
    vertices, index = torch.unique(keys, return_inverse=True)
    neighbors = torch.zeros(len(radix), len(vertices) + 1, 2, dtype=torch.int32)
    for axis, step in enumerate(steps(radix).tolist()):
        for side, wanted in enumerate((vertices + step, vertices - step)):
            at = torch.searchsorted(vertices, wanted).clamp(max=len(vertices) - 1)
            neighbors[axis, 1:, side] = torch.where(vertices[at] == wanted, at + 1, 0)
    return Lattice((index + 1).int(), weights, neighbors)


def steps(radix: Tensor) -> Tensor:
    """What one step up each axis adds to a key: 1 to all coordinates, less `corners` along the axis."""
    return radix.sum() - len(radix) * radix


def lattice_filter(values: Tensor, lattice: Lattice, reverse: bool = False) -> Tensor:
    """Splat, blur along each axis in turn, slice: (points, labels) -> (points, labels)."""
    corners = list(zip(lattice.index.long().t(), lattice.weights.to(values.dtype).t()[..., None], strict=True))
    vertices = values.new_zeros(lattice.vertices + 1, values.shape[1])
    for at, weights in corners:
        vertices = vertices.index_add(0, at, values * weights)
    for beside in lattice.neighbors.flip(0) if reverse else lattice.neighbors:
        up, down = beside[1:].long().t()
        vertices = torch.cat([vertices[:1], vertices[1:] + (vertices[up] + vertices[down]) / 2])
    return sum(vertices[at] * weights for at, weights in corners)


def normalized(lattice: Lattice) -> Lattice:
    """The lattice of the filter divided by the square roots of what 1 everywhere gives at both ends of each path."""
    return lattice.scaled(lattice_filter(torch.ones_like(lattice.weights[:, :1]), lattice)[:, 0].rsqrt())


def mean_field(
    scores: Tensor,
    filters: Sequence[Callable[[Tensor], Tensor]],
    strengths: Sequence[float],
    penalty: Tensor | None,
    iterations: int,
) -> Tensor:
    """From Q = softmax(scores), so many times `Q = softmax(scores - penalty @ sum of strength * filter(Q))`.

    Shapes: scores and result (labels, points), penalty (labels, labels), the filters' (points, labels). No penalty is
    minus the identity: Potts' model, but for a summand that all labels share.
    """
    q = torch.softmax(scores.t(), 1)
    for _ in range(iterations):
        message = sum(strength * apply(q) for strength, apply in zip(strengths, filters, strict=True))
        q = torch.softmax(scores.t() + (message if penalty is None else -message @ penalty.t()), 1)
    return q.t().contiguous()
