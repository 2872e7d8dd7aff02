"""Gridding: inputs inside the receptive field that a stack of dilated convolutions does not use, or uses unevenly.

The paths from every input to one output are counted exactly. Along one axis, a layer with kernel k and dilation d is a
comb of k ones at distance d; the path counts of a stack are the convolution of the combs of all layers, in any order.
In several dimensions they are the outer product of the counts along the axes. An input inside the field without a path
is a hole; a large ratio of path counts is a milder form of gridding.

An audit also has the result of the rule of hybrid dilated convolution (HDC, Wang et al., arXiv 1702.08502, section
3.2), which is neither sufficient nor necessary: for a kernel of 3, (2, 2, 2) passes it with holes, and (1, 2, 5, 1, 2,
5) fails it without holes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavedil.core.receptive_field import default_kernel_size, per_axis
from wavedil.core.schedule import Schedule, format_schedule, hybrid, parse_schedule
from wavedil.core.schema import Dimensions, Taps, checked
from wavedil.errors import WavedilError

# Limits of memory and time, far above networks in use.
_MAX_POSITIONS = 2**24
_MAX_BIG_INTEGER_WORK = 2**24

Counts = tuple[NDArray, ...]  # number of paths by position, one array per axis


@dataclass(frozen=True)
class GriddingAudit:
    """Path counts of one output of a stack, or of parallel stacks whose outputs are summed.

    Attributes:
        branches: dilations of each parallel stack; one entry for a single stack.
        kernel_size: along each axis.
        ndim: number of space axes.
        receptive_field: positions along the longest axis.
        extent: receptive field along each axis, whose product is the number of positions.
        reached: number of positions with at least one path.
        holes: number of positions inside the field without a path.
        path_counts: for each branch, one array per axis: the number of paths by position, first to last. The count at a
            position is the product over the axes, summed over the branches.
        path_ratio: largest count over smallest count, among the reached positions.
        hdc_m: M_1, ..., M_n of the HDC rule, see :func:`hdc_distances`; empty for parallel branches.
    """

    branches: tuple[tuple[int, ...], ...]
    kernel_size: tuple[int, ...]
    ndim: int
    receptive_field: int
    extent: tuple[int, ...]
    reached: int
    holes: int
    path_counts: tuple[Counts, ...]
    path_ratio: float
    hdc_m: tuple[int, ...]

    def __str__(self) -> str:
        kernel, field = (" x ".join(map(str, values)) for values in (self.kernel_size, self.extent))
        schedule = " + ".join(format_schedule(branch) for branch in self.branches)
        ratio = f"{self.path_ratio:,.1f}" if self.path_ratio < 1e6 else f"{float(min(self.path_ratio, 1e300)):.1e}"
        lines = [
            f"{schedule}: {self.layers} layer{'s' * (self.layers != 1)}, kernel {kernel}",
            f"receptive field {field}",
            f"holes           {self.holes:,} of {math.prod(self.extent):,} positions",
            f"path ratio      {ratio}",
        ]
        if self.hdc_passes is not None:
            lines.append(f"HDC rule        M_2 = {self.hdc_m2}, {'passes' if self.hdc_passes else 'fails'}")
        return "\n".join(lines)

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilations of all layers, branch after branch."""
        return sum(self.branches, ())

    @property
    def layers(self) -> int:
        """Number of convolutions in all branches."""
        return len(self.dilations)

    @property
    def hdc_m2(self) -> int | None:
        """M_2 of the HDC rule; None where the rule does not apply (one layer, or parallel branches)."""
        return self.hdc_m[1] if len(self.hdc_m) > 1 else None

    @property
    def hdc_passes(self) -> bool | None:
        """Whether M_2 is at most the smallest kernel size above 1; None if M_2 is None or all kernels are 1."""
        widths = [k for k in self.kernel_size if k > 1]
        return None if self.hdc_m2 is None or not widths else self.hdc_m2 <= min(widths)

    def counts(self, axis: int = 0) -> NDArray:
        """Number of paths by position along one axis, ``(extent[axis],)``; 0 is a hole. Summed over branches."""
        return np.sum([counts[axis] for counts in self.path_counts], axis=0)

    def count_map(self) -> NDArray:
        """Number of paths by position in all dimensions, of shape ``extent``; 0 is a hole.

        Raises:
            WavedilError: the field has more than 2**24 positions.
        """
        if math.prod(self.extent) > _MAX_POSITIONS:
            raise WavedilError(
                f"the field has {' x '.join(map(str, self.extent))} positions: a map has at most {_MAX_POSITIONS}; "
                "use the outer product of path_counts"
            )
        return _count_map(self.path_counts)


@dataclass(frozen=True)
class Suggestion:
    """A change of a schedule that removes its holes.

    Attributes:
        kind: "return to 1", "hybrid rates" or "parallel branches".
        text: the change as one sentence.
        audit: the audit of the changed schedule.
    """

    kind: str
    text: str
    audit: GriddingAudit


@checked
def audit_gridding(
    dilations: Any, kernel_size: Taps | Sequence[Taps] | None = None, ndim: Dimensions = 1
) -> GriddingAudit:
    """Counts the paths from each input to the output of a schedule, and the holes; see :class:`GriddingAudit`.

    Args:
        dilations: the schedule, as for :func:`wavedil.core.parse_schedule`; or a stack, such as
            :class:`wavedil.DilatedStack`, whose kernel and axes are then used.
        kernel_size: kernel of every layer, one integer or one per axis; default 2 in one dimension, 3 in more.
        ndim: number of space axes, 1 to 3.

    >>> audit = audit_gridding([2, 4, 8], kernel_size=3)
    >>> audit.receptive_field, audit.holes
    (29, 14)

    Raises:
        WavedilError: an invalid argument, or a receptive field of more than 2**24 positions along an axis.
    """
    if hasattr(dilations, "dilations") and hasattr(dilations, "kernel_size"):
        stack, ndim = dilations, getattr(dilations, "ndim", ndim)
        dilations, kernel_size = stack.dilations, stack.kernel_size if kernel_size is None else kernel_size
        if has_irregular_taps(stack):
            raise WavedilError(
                "dilations is a stack with learned or merged taps: its schedule does not say where they are; use "
                "measure_receptive_field, whose footprint has the holes"
            )
        if any(isinstance(each, tuple) for each in dilations):
            raise WavedilError("dilations differ between the axes: audit each axis, e.g. [2, 4] of [(1, 2), (1, 4)]")
    return audit_branches([dilations], kernel_size, ndim)


def has_irregular_taps(model: Any) -> bool:
    """Whether a module has learned or merged taps, whose positions do not follow from the dilations."""
    return any(hasattr(part, "offsets") for part in getattr(model, "modules", list)())


@checked
def audit_branches(
    schedules: Sequence[Any],
    kernel_size: Taps | Sequence[Taps] | None = None,
    ndim: Dimensions = 1,
    causal: bool | None = None,
) -> GriddingAudit:
    """:func:`audit_gridding` of parallel stacks whose outputs are summed.

    Args:
        schedules: one schedule per branch.
        kernel_size, ndim: as for :func:`audit_gridding`, the same for all branches.
        causal: whether branches of different lengths are aligned at their last input (True) or at their center (False;
            half positions are rounded to the right). Default: True in one dimension with an even kernel, as in causal
            audio models, else False.

    Raises:
        WavedilError: as :func:`audit_gridding`, or no branch.
    """
    branches = tuple(parse_schedule(schedule) for schedule in schedules)
    if not branches:
        raise WavedilError("schedules is empty: expected at least one schedule")
    kernel = per_axis("kernel_size", default_kernel_size(ndim) if kernel_size is None else kernel_size, ndim)
    if causal is None:
        causal = ndim == 1 and kernel[0] % 2 == 0
    extent = tuple(max(1 + (k - 1) * sum(dilations) for dilations in branches) for k in kernel)
    if max(extent) > _MAX_POSITIONS:
        raise WavedilError(f"the field has {max(extent)} positions: expected at most {_MAX_POSITIONS}")
    counts = []
    for dilations in branches:
        by_kernel = {k: _count_paths(dilations, k) for k in set(kernel)}
        counts.append(tuple(_pad(by_kernel[k], size, causal) for k, size in zip(kernel, extent, strict=True)))
    reached = _count_reached(counts)
    return GriddingAudit(
        branches=branches,
        kernel_size=kernel,
        ndim=ndim,
        receptive_field=max(extent),
        extent=extent,
        reached=reached,
        holes=math.prod(extent) - reached,
        path_counts=tuple(counts),
        path_ratio=_path_ratio(counts),
        hdc_m=hdc_distances(branches[0]) if len(branches) == 1 else (),
    )


def hdc_distances(dilations: Schedule) -> tuple[int, ...]:
    """M_1, ..., M_n of the HDC rule: M_n = r_n, M_i = max(M_{i+1} - 2 r_i, 2 r_i - M_{i+1}, r_i).

    r_i is the dilation of layer i, and M_i the largest distance between neighboring inputs that layers i to n use. The
    rule is that M_2 is at most the kernel size (Wang et al., arXiv 1702.08502, equation 2; stated for kernels of 3).

    >>> hdc_distances([1, 2, 9])
    (3, 5, 9)
    """
    *others, last = parse_schedule(dilations)
    distances = [last]
    for dilation in reversed(others):
        distances.append(max(abs(distances[-1] - 2 * dilation), dilation))
    return tuple(reversed(distances))


def suggest_schedules(
    dilations: Schedule, kernel_size: int | Sequence[int] | None = None, ndim: int = 1
) -> list[Suggestion]:
    """Changes that remove the holes of a schedule, verified by an audit; an empty list if it has none.

    - Return to 1: append layers of falling dilations (as in DRN, arXiv 1705.09914, section 4).
    - Hybrid rates: :func:`wavedil.core.hybrid` with the same field, and as few layers as have no holes, but not fewer
      than the schedule.
    - Parallel branches: sum the output with that of a second stack, whose first dilations are smaller (as ESPNet does
      against gridding, arXiv 1803.06815, section 3.2).

    Raises:
        WavedilError: as :func:`audit_gridding`.
    """
    original = audit_gridding(dilations, kernel_size, ndim)
    if not original.holes:
        return []
    candidates = (_return_to_one(original), _hybrid_rates(original), _parallel_branches(original))
    return [suggestion for suggestion in candidates if suggestion and not suggestion.audit.holes]


def _return_to_one(original: GriddingAudit) -> Suggestion | None:
    dilations = original.dilations
    tail: tuple[int, ...] = ()
    while not tail or tail[0] < max(dilations):
        tail = (2 * tail[0] if tail else 1, *tail)
        audit = audit_gridding(dilations + tail, original.kernel_size, original.ndim)
        if not audit.holes:
            text = f"append {'layers' if len(tail) > 1 else 'a layer'} of dilation {_list(tail)}"
            return Suggestion("return to 1", text, audit)
    return None


def _hybrid_rates(original: GriddingAudit) -> Suggestion | None:
    kernel = min(k for k in original.kernel_size if k > 1)
    field = 1 + (kernel - 1) * sum(original.dilations)
    for layers in range(original.layers, sum(original.dilations) + 1):
        try:
            dilations = hybrid(layers, field, kernel)
        except WavedilError:
            continue  # too few layers for this field without holes
        audit = audit_gridding(dilations, original.kernel_size, original.ndim)
        more = layers - original.layers
        cost = f"with {more} more layer{'s' * (more > 1)}" if more else "as many layers"
        return Suggestion("hybrid rates", f"use dilations {_list(dilations)}: same field, {cost}", audit)
    return None


def _parallel_branches(original: GriddingAudit) -> Suggestion | None:
    """A second branch with the first dilations reduced to 1, 2, 4, ..."""
    dilations = original.dilations
    for changed in range(1, len(dilations) + 1):
        second = tuple(min(2**i, dilation) for i, dilation in enumerate(dilations[:changed])) + dilations[changed:]
        audit = audit_branches([dilations, second], original.kernel_size, original.ndim)
        if not audit.holes:
            text = f"sum it with a parallel stack of dilations {_list(second)}"
            return Suggestion("parallel branches", text, audit)
    return None


def _list(dilations: tuple[int, ...]) -> str:
    return ", ".join(map(str, dilations)) if len(dilations) <= 8 else format_schedule(dilations)


def _count_paths(dilations: tuple[int, ...], kernel: int) -> NDArray:
    """Number of paths by position along one axis: int64, or Python integers where counts can exceed 64 bits."""
    field = 1 + (kernel - 1) * sum(dilations)
    fits = kernel ** len(dilations) < 2**63  # the sum of all counts
    if not fits and len(dilations) * field > _MAX_BIG_INTEGER_WORK:
        raise WavedilError(
            f"the path counts of {len(dilations)} layers over {field} positions are too large; audit one period of the "
            "schedule instead"
        )
    counts = np.ones(1, dtype=np.int64 if fits else object)
    for dilation in dilations:
        width = len(counts) + (kernel - 1) * dilation
        # The sum over taps is a difference of cumulative sums along every dilation-th position.
        row = np.zeros(-(-width // dilation) * dilation, counts.dtype)
        row[: len(counts)] = counts
        sums = row.reshape(-1, dilation).cumsum(0)
        sums[kernel:] -= sums[:-kernel].copy()
        counts = sums.reshape(-1)[:width]
    return counts


def _pad(counts: NDArray, size: int, causal: bool) -> NDArray:
    """``counts`` zero-padded to ``size``: at the end (causal), or centered."""
    total = size - len(counts)
    before = total if causal else (total + 1) // 2
    return np.pad(counts, (before, total - before))


def _count_map(branches: Sequence[Counts]) -> NDArray:
    """Counts in all dimensions: the outer product of the axes, summed over branches."""
    highest = sum(math.prod(int(axis.max()) for axis in counts) for counts in branches)
    dtype = np.int64 if highest < 2**63 else object
    total: NDArray = np.zeros((), dtype=dtype)
    for counts in branches:
        product: NDArray = np.ones((), dtype=dtype)
        for axis in counts:
            product = np.multiply.outer(product, axis.astype(dtype))
        total = total + product
    return total


def _count_reached(branches: Sequence[Counts]) -> int:
    """Number of positions that any branch reaches, without a map of all positions.

    Each branch reaches a product of one set per axis. Intersections of such products are again products, so the size of
    the union follows by inclusion and exclusion.
    """
    terms: list[tuple[int, tuple[NDArray, ...]]] = []
    for counts in branches:
        sets = tuple(axis > 0 for axis in counts)
        overlaps = [(-sign, tuple(a & b for a, b in zip(sets, other, strict=True))) for sign, other in terms]
        terms += [(1, sets), *overlaps]
    return sum(sign * math.prod(int(axis.sum()) for axis in sets) for sign, sets in terms)


def _path_ratio(branches: Sequence[Counts]) -> float:
    """Largest over smallest count among the reached positions; an integer where it exceeds the range of floats."""
    if len(branches) == 1:
        high = math.prod(int(axis.max()) for axis in branches[0])
        low = math.prod(int(axis[axis > 0].min()) for axis in branches[0])
    else:
        # Positions along an axis with the same counts in all branches are equivalent: keep one of each.
        axes = [sorted(set(zip(*axis, strict=True))) for axis in zip(*branches, strict=True)]
        extremes = []
        for first in axes[0]:  # slice by slice, to limit the memory
            slices = [
                tuple(np.array([counts[branch] for counts in axis], dtype=object) for axis in ([first], *axes[1:]))
                for branch in range(len(branches))
            ]
            total = _count_map(slices)
            if (total > 0).any():
                extremes += [int(total[total > 0].min()), int(total.max())]
        high, low = max(extremes), min(extremes)
    try:
        return high / low
    except OverflowError:
        return high // low
