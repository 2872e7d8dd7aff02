"""High-dimensional Gaussian filters on a permutohedral lattice (Adams, Baek & Davis 2010), and CRF mean fields."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from wavedil.errors import WavedilError
from wavedil.ops.permutohedral import cpu, reference
from wavedil.ops.permutohedral.reference import Lattice, gaussian_matrix

Penalty = Tensor | None | Sequence[Tensor | None]

__all__ = ["Lattice", "build_lattice", "exact_mean_field", "lattice_filter", "mean_field", "reference"]


def build_lattice(features: Tensor) -> Lattice:
    """The normalized lattice of a Gaussian with standard deviation 1 in each feature.

    There is no gradient with respect to the features. On the CPU it uses numba kernels.

    Args:
        features: ``(dims, points)``.

    Raises:
        WavedilError: no points, or features that are not finite, too large or too widely spread.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise WavedilError(f"features have shape {tuple(features.shape)}: expected (dims, points), both at least 1")
    implementation = cpu if cpu.supports_features(features) else reference
    return implementation.normalized(implementation.build_lattice(features))


def lattice_filter(values: Tensor, lattice: Lattice, reverse: bool = False) -> Tensor:
    """Approximates ``sum over j of k_ij v_j / sqrt(sum of k_i * sum of k_j)`` with ``k_ij = exp(-|f_i - f_j|^2 / 2)``.

    The sums include j = i. The filter is linear in the values and differentiable any number of times. float32 on the
    CPU uses numba kernels, half precision is filtered in float32, and other tensors use plain PyTorch.

    Args:
        values: ``(points, labels)``.
        lattice: from :func:`build_lattice`.
        reverse: blurs along the axes from last to first, which is the exact adjoint.

    Returns:
        ``(points, labels)``.

    Raises:
        WavedilError: values whose shape does not match the lattice.
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
    penalty: Penalty = None,
    iterations: int = 10,
) -> Tensor:
    """Mean-field iterations of a CRF, ``Q = softmax(scores - sum of penalty @ strength * filter(Q))``.

    There are no gradients.

    Args:
        scores: ``(labels, points)``; Q starts as ``softmax(scores)``.
        lattices: one per pairwise term.
        strengths: a nonnegative number per lattice.
        penalty: label compatibility, ``(labels, labels)``; default the Potts model, 1 off the diagonal. One for all
            lattices, or a sequence with one for each.
        iterations: number of updates.

    Returns:
        Q, ``(labels, points)``.
    """
    penalties = _one_each(penalty, len(lattices))
    if cpu.supports(scores, *penalties):
        return cpu.mean_field(scores, lattices, strengths, penalties, iterations)
    filters = [partial(reference.lattice_filter, lattice=lattice) for lattice in lattices]
    return reference.mean_field(scores, filters, strengths, penalties, iterations)


@torch.no_grad()
def exact_mean_field(
    scores: Tensor,
    features: Sequence[Tensor],
    strengths: Sequence[float],
    penalty: Penalty = None,
    iterations: int = 10,
) -> Tensor:
    """:func:`mean_field` with exact Gaussian sums over features ``(dims, points)``; quadratic in the points."""
    filters = [gaussian_matrix(f.to(scores.dtype)).mm for f in features]
    return reference.mean_field(scores, filters, strengths, _one_each(penalty, len(features)), iterations)


def _one_each(penalty: Penalty, count: int) -> list[Tensor | None]:
    return [penalty] * count if penalty is None or isinstance(penalty, Tensor) else list(penalty)
