"""Gridding: which inputs of its receptive field a stack of dilated convolutions really uses.

The paths from an output back to the inputs are counted exactly. One layer with kernel k and
dilation d reaches offsets 0, d, ..., (k-1) d along each axis, so a stack's path counts are the
convolution of its layers' combs, and in several dimensions the outer product of the axes' counts.
An input inside the field that no path reaches is a hole; a large ratio of path counts is the
milder, uneven form. Order of the layers does not matter.

Beside it stands the rule of hybrid dilated convolution (HDC, Wang et al., arXiv 1702.08502, 3.2),
which the counts show to be neither sufficient nor necessary: for a kernel of 3, (2, 2, 2) passes
it with holes, and (1, 2, 5, 1, 2, 5) fails it without any.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wavedil.core.path_counts import Counts, count_map, path_counts, path_ratio, placed, reached
from wavedil.core.schedule import MAX_DILATION, Schedule, format_schedule, hybrid, parse_schedule
from wavedil.errors import WavedilError

# Above these the counts would take gigabytes; no network in use comes near.
_MAX_FIELD = 2**24
_MAX_POSITIONS = 2**24


@dataclass(frozen=True)
class GriddingAudit:
    """What one output of a stack (or of parallel stacks that are summed) sees of its field.

    Attributes:
        branches: dilations of each parallel stack; one of them for a plain schedule.
        kernel_size: kernel along each axis.
        ndim: number of space axes.
        receptive_field: positions along the longest axis.
        extent: receptive field along each axis; their product is the number of positions.
        reached: positions that at least one path reaches.
        holes: positions inside the field that none does.
        path_counts: for each branch, one array per axis: the number of paths by position, first
            to last. The count at a position is the product over the axes, summed over branches.
        path_ratio: largest count over smallest count, among the reached positions.
        hdc_m: M_1, ..., M_n of the HDC rule (M_n = r_n); empty for parallel branches.
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

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilations of all layers; those of parallel branches one branch after another."""
        return sum(self.branches, ())

    @property
    def layers(self) -> int:
        """Number of convolutions, all branches together."""
        return len(self.dilations)

    @property
    def hdc_m2(self) -> int | None:
        """M_2 of the HDC rule; None where it says nothing (one layer, or parallel branches)."""
        return self.hdc_m[1] if len(self.hdc_m) > 1 else None

    @property
    def hdc_passes(self) -> bool | None:
        """Whether M_2 is within the kernel (its smallest axis above 1); None as for `hdc_m2`."""
        widths = [k for k in self.kernel_size if k > 1]
        return None if self.hdc_m2 is None or not widths else self.hdc_m2 <= min(widths)

    def counts(self, axis: int = 0) -> NDArray:
        """Paths by position along one axis `(extent[axis],)`: the 1-D coverage picture; 0 is a hole.

        For parallel branches their sum, which in several dimensions is the picture of that axis
        taken alone.
        """
        return np.sum([counts[axis] for counts in self.path_counts], axis=0)

    def count_map(self) -> NDArray:
        """Paths by position in all dimensions, `extent`-shaped; 0 is a hole.

        Raises:
            WavedilError: the field has more than 2**24 positions.
        """
        if math.prod(self.extent) > _MAX_POSITIONS:
            raise WavedilError(
                f"a path map of {_times(self.extent)} positions is too large to make; "
                "use path_counts, whose outer product it is"
            )
        return count_map(self.path_counts)


@dataclass(frozen=True)
class Suggestion:
    """A way to mend a schedule, checked: its audit has no holes.

    Attributes:
        kind: "return to 1", "hybrid rates" or "parallel branches".
        text: what to do, in a sentence.
        audit: the audit of the mended schedule, to compare with the original's.
    """

    kind: str
    text: str
    audit: GriddingAudit


def audit_gridding(dilations: Schedule, kernel_size: int | Sequence[int] | None = None, ndim: int = 1) -> GriddingAudit:
    """Exact coverage and path counts of a schedule; see `GriddingAudit`.

    Args:
        dilations: the schedule, as for `parse_schedule`.
        kernel_size: kernel of every layer, one integer or one per axis; 2 in one dimension and 3
            in more when None.
        ndim: space axes, 1 to 3.

    >>> audit = audit_gridding([2, 4, 8], kernel_size=3)
    >>> audit.receptive_field, audit.holes
    (29, 14)

    Raises:
        WavedilError: no schedule, kernel or ndim of this kind, or a field above 2**24 positions.
    """
    return audit_branches([dilations], kernel_size, ndim)


def audit_branches(
    schedules: Sequence[Schedule],
    kernel_size: int | Sequence[int] | None = None,
    ndim: int = 1,
    causal: bool | None = None,
) -> GriddingAudit:
    """The audit of parallel stacks whose outputs are summed, as `audit_gridding` for one.

    Args:
        schedules: one schedule per branch.
        kernel_size, ndim: as for `audit_gridding`, the same for all branches.
        causal: whether branches of different lengths end at the same input (True) or have the same
            center (False; a half position is rounded to the right). None: True in one dimension
            with an even kernel, the layout of causal sound models; else False.

    Raises:
        WavedilError: as `audit_gridding`, or no branch at all.
    """
    if not 1 <= ndim <= 3:
        raise WavedilError(f"ndim must be 1, 2 or 3, got {ndim!r}")
    branches = tuple(parse_schedule(schedule) for schedule in schedules)
    if not branches:
        raise WavedilError("there is no branch to audit; give at least one schedule")
    kernel = _kernel_per_axis(kernel_size, ndim)
    if causal is None:
        causal = ndim == 1 and kernel[0] % 2 == 0
    extent = tuple(max(1 + (k - 1) * sum(rates) for rates in branches) for k in kernel)
    if max(extent) > _MAX_FIELD:
        raise WavedilError(f"the field has {max(extent)} positions; at most {_MAX_FIELD} are audited")
    counts = []
    for rates in branches:
        by_kernel = {k: path_counts(rates, k) for k in set(kernel)}
        axes = zip(kernel, extent, strict=True)
        counts.append(tuple(placed(by_kernel[k], size, causal) for k, size in axes))
    used = reached(counts)
    return GriddingAudit(
        branches=branches,
        kernel_size=kernel,
        ndim=ndim,
        receptive_field=max(extent),
        extent=extent,
        reached=used,
        holes=math.prod(extent) - used,
        path_counts=tuple(counts),
        path_ratio=path_ratio(counts),
        hdc_m=hdc_distances(branches[0]) if len(branches) == 1 else (),
    )


def hdc_distances(dilations: Schedule) -> tuple[int, ...]:
    """M_1, ..., M_n of the HDC rule: M_n = r_n, M_i = max(M_{i+1} - 2 r_i, 2 r_i - M_{i+1}, r_i).

    M_i is meant as the largest distance between two inputs in use from layer i on; the rule wants
    M_2 within the kernel (Wang et al., arXiv 1702.08502, equation 2; stated for kernels of 3).

    >>> hdc_distances([1, 2, 9])
    (3, 5, 9)
    """
    rates = parse_schedule(dilations)
    distances = [rates[-1]]
    for rate in rates[-2::-1]:
        distances.append(max(abs(distances[-1] - 2 * rate), rate))
    return tuple(reversed(distances))


def suggest_schedules(
    dilations: Schedule, kernel_size: int | Sequence[int] | None = None, ndim: int = 1
) -> list[Suggestion]:
    """Ways to mend a schedule that has holes; empty when it has none.

    Return to 1: a tail of falling rates behind the stack (as in DRN, arXiv 1705.09914, 4).
    Hybrid rates: `hybrid` at the same field, with the same number of layers or else the fewest.
    Parallel branches: a second stack with smaller first rates, summed with the first (fused
    branches against gridding: ESPNet, arXiv 1803.06815, 3.2).
    Each is returned only if its own audit has no holes.

    Raises:
        WavedilError: as `audit_gridding`.
    """
    original = audit_gridding(dilations, kernel_size, ndim)
    if not original.holes:
        return []
    candidates = (_return_to_one(original), _hybrid_rates(original), _parallel_branches(original))
    return [suggestion for suggestion in candidates if suggestion and not suggestion.audit.holes]


def _return_to_one(original: GriddingAudit) -> Suggestion | None:
    rates = original.dilations
    tail: tuple[int, ...] = ()
    while not tail or tail[0] < max(rates):
        tail = (2 * tail[0] if tail else 1, *tail)
        audit = audit_gridding(rates + tail, original.kernel_size, original.ndim)
        if not audit.holes:
            text = f"append {'layers' if len(tail) > 1 else 'a layer'} of dilation {_list(tail)}"
            return Suggestion("return to 1", text, audit)
    return None


def _hybrid_rates(original: GriddingAudit) -> Suggestion | None:
    kernel = min(k for k in original.kernel_size if k > 1)
    field = 1 + (kernel - 1) * sum(original.dilations)
    for layers in range(len(original.dilations), sum(original.dilations) + 1):
        try:
            rates = hybrid(layers, field, kernel)
        except WavedilError:
            continue  # too few layers to reach so far without holes
        audit = audit_gridding(rates, original.kernel_size, original.ndim)
        more = layers - len(original.dilations)
        cost = f"with {more} more {'layers' if more > 1 else 'layer'}" if more else "as many layers"
        return Suggestion("hybrid rates", f"use dilations {_list(rates)}: same field, {cost}", audit)
    return None


def _parallel_branches(original: GriddingAudit) -> Suggestion | None:
    """A second branch: the same stack with its first rates brought down to 1, 2, 4, ..."""
    rates = original.dilations
    for changed in range(1, len(rates) + 1):
        start = tuple(min(2**i, rate) for i, rate in enumerate(rates[:changed]))
        second = start + rates[changed:]
        audit = audit_branches([rates, second], original.kernel_size, original.ndim)
        if not audit.holes:
            text = f"sum it with a parallel stack of dilations {_list(second)}"
            return Suggestion("parallel branches", text, audit)
    return None


def _kernel_per_axis(kernel_size: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    if kernel_size is None:
        kernel_size = 2 if ndim == 1 else 3
    kernel = (kernel_size,) * ndim if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(kernel) != ndim or not all(
        isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= MAX_DILATION for k in kernel
    ):
        raise WavedilError(f"kernel_size must be a positive integer or {ndim} of them, got {kernel_size!r}")
    return kernel


def _list(rates: tuple[int, ...]) -> str:
    return ", ".join(map(str, rates)) if len(rates) <= 8 else format_schedule(rates)


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
