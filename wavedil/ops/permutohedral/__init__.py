"""Gaussian filters in many dimensions on a permutohedral lattice (Adams, Baek & Davis 2010), and mean fields on it."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from wavedil.errors import WavedilError
from wavedil.ops.permutohedral import cpu, reference
from wavedil.ops.permutohedral.reference import Lattice, gaussian_matrix

__all__ = ["Lattice", "build_lattice", "exact_mean_field", "lattice_filter", "mean_field", "reference"]


def build_lattice(features: Tensor) -> Lattice:
    """The normalized lattice around features (dims, points), for a Gaussian of standard deviation 1 in each of them.

    Knows no gradient with respect to the features. On the CPU, as numba loops where numba is installed.

    Raises:
        WavedilError: no points, or features that are not finite, or too large or too wide spread for exact numbers.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise WavedilError(f"features have shape {tuple(features.shape)}: expected (dims, points), neither of them 0")
    form = cpu if cpu.supports_features(features) else reference
    return form.normalized(form.build_lattice(features))


def lattice_filter(values: Tensor, lattice: Lattice, reverse: bool = False) -> Tensor:
    """Near `sum over j of k_ij v_j / sqrt(sum of k_i * sum of k_j)`, `k_ij = exp(-|f_i - f_j|^2 / 2)`, j = i included.

    Shapes: (points, labels) to (points, labels). Linear in the values; `reverse`, which blurs along the axes from the
    last to the first, is its exact adjoint, so gradients with respect to the values are exact and of any order.

    float32 on the CPU runs as numba loops, half precision is filtered in float32, all else runs as plain PyTorch.

    Raises:
        WavedilError: values that do not fit the lattice.
    """
    if values.ndim != 2 or values.shape[0] != lattice.points or not values.shape[1]:
        raise WavedilError(f"values have shape {tuple(values.shape)}: expected ({lattice.points}, labels)")
    if values.dtype in (torch.bfloat16, torch.float16):
        return lattice_filter(values.float(), lattice, reverse).to(values.dtype)
    return (cpu if cpu.supports(values) else reference).lattice_filter(values, lattice, reverse)


@torch.no_grad()
def mean_field(
    scores: Tensor,
    lattices: Sequence[Lattice],
    strengths: Sequence[float],
    penalty: Tensor | None = None,
    iterations: int = 10,
) -> Tensor:
    """`Q = softmax(scores - penalty @ sum of strength * filter(Q))`, so many times from Q = softmax(scores) on.

    Shapes: scores and result (labels, points), penalty (labels, labels); None is Potts' model, 1 off the diagonal.
    strengths: a number of 0 or more for each lattice. Knows no gradients.
    """
    if cpu.supports(scores, penalty):
        return cpu.mean_field(scores, lattices, strengths, penalty, iterations)
    filters = [partial(reference.lattice_filter, lattice=lattice) for lattice in lattices]
    return reference.mean_field(scores, filters, strengths, penalty, iterations)


@torch.no_grad()
def exact_mean_field(
    scores: Tensor,
    features: Sequence[Tensor],
    strengths: Sequence[float],
    penalty: Tensor | None = None,
    iterations: int = 10,
) -> Tensor:
    """:func:`mean_field` with exact Gaussian sums over features (dims, points): quadratic in the number of points."""
    filters = [gaussian_matrix(f.to(scores.dtype)).mm for f in features]
    return reference.mean_field(scores, filters, strengths, penalty, iterations)
