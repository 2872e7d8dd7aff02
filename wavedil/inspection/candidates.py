"""Dilation schedules of several kinds that fit a budget, ranked by a proxy that needs no training."""

import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from wavedil.core.gridding import audit_gridding
from wavedil.core.schedule import MAX_DILATION, Schedule, format_schedule, hybrid, parse_schedule
from wavedil.core.schema import Dimensions, Range, checked
from wavedil.errors import WavedilError, one_of, shown
from wavedil.inspection.schedule import stack_cost

#: Units of a budget, each a number of :class:`Candidate`.
UNITS = {
    "multiply_adds": "multiply-adds per output position",
    "parameters": "parameters",
    "nanoseconds": "measured nanoseconds per output position",
}
_MAX_FIELD = 2**18
_MAX_LAYERS, _MAX_REPEATS, _MAX_CHANNELS = 64, 4, 512
_TIMED = 8192  # positions of one measurement
_MAX_KERNEL = 64
Kernel = Annotated[int, Range(2, _MAX_KERNEL)]
Field = Annotated[int, Range(2, _MAX_FIELD)]


@dataclass(frozen=True)
class Candidate:
    """A schedule with the kernel size and the channels that fill a budget, and its numbers.

    Attributes:
        kind: how the schedule was made, e.g. "doubling".
        schedule: as text; ``dilations`` are those of all convolutions.
        budget: the budget that the channels fill.
        receptive_field: along one axis, in positions; ``holes`` of them are not used.
        evenness: number of inputs that the output effectively uses, divided by the field that was asked for, at most 1:
            the exponential of the entropy of the path counts.
        parameters, multiply_adds, nanoseconds: the cost; nanoseconds only if the budget is in this unit.
        score: the proxy, see :func:`rank_schedules`.
    """

    kind: str
    schedule: str
    dilations: tuple[int, ...]
    kernel_size: int
    channels: int
    budget: float
    receptive_field: int
    holes: int
    evenness: float
    parameters: int
    multiply_adds: int
    nanoseconds: float | None
    score: float


class PlainStack:
    """The cost of a stack of plain convolutions; :func:`rank_schedules` takes others that have the same methods."""

    #: Convolutions with the dilation of one entry of a schedule.
    convolutions = 1

    def __init__(self, ndim: int = 1):
        self.ndim = ndim

    def cost(self, dilations: Sequence[int], kernel_size: int, channels: int) -> tuple[int, int]:
        """Parameters and multiply-adds per output position."""
        return stack_cost(len(dilations), kernel_size**self.ndim, channels)

    def nanoseconds(self, dilations: Sequence[int], kernel_size: int, channels: int) -> float:
        """Time of the forward pass per output position, measured in PyTorch on this machine."""
        import torch

        from wavedil.core import ConvBlock, DilatedStack

        size = round(_TIMED ** (1 / self.ndim))
        stack = DilatedStack(self.ndim, channels, tuple(dilations), kernel_size, block=ConvBlock, causal=self.ndim == 1)
        return measure_nanoseconds(lambda: stack(torch.zeros(1, channels, *[size] * self.ndim)), size**self.ndim)


@checked
def rank_schedules(
    field: Field,
    budgets: Sequence[float],
    unit: str = "multiply_adds",
    kernel_sizes: Sequence[Kernel] = (2, 3, 6),
    ndim: Dimensions = 1,
    *,
    schedules: Sequence[Any] = (),
    network: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Candidate]:
    """Makes dilation schedules, fills each budget with channels, and ranks the candidates by a proxy.

    The schedules are powers of 2, 3 and 4, the ratio of NAM's A2 (1, 3, 7, 17, 41, 101, 239: about 1 + sqrt(2), each a
    prime), all also repeated up to four times, and :func:`wavedil.core.hybrid`. Schedules with holes are left out.

    The proxy is ``evenness`` times the number of hidden units, channels x layers. For the same cost, more units can
    compute more; repeats and small kernels buy them. But random weights pass on a gradient in proportion to the number
    of paths, so a schedule whose paths crowd at the center of its field effectively uses fewer inputs. The proxy does
    not know the data: compare the candidates by short trainings (``wavedil search -c RECIPE``).

    Args:
        field: smallest receptive field, in positions along one axis.
        budgets: costs that each candidate may have at most; the result has candidates for each.
        unit: one of :data:`UNITS`.
        kernel_sizes: taps along each axis.
        ndim: number of space axes.
        schedules: your own, as for :func:`wavedil.core.parse_schedule`, each tried with all ``kernel_sizes``, or with
            its own: ``("1..512", 3)``, or as text ``"1..512:3"``. They are kept also with holes or a smaller field.
        network: computes the cost, see :class:`PlainStack`; default plain convolutions.
        progress: called with the number of finished and of all candidates.

    Returns:
        The candidates, by budget and descending score. The width is at most 512 channels.

    Raises:
        WavedilError: an invalid argument, no schedule with this field, or a budget that fits no candidate.
    """
    if unit not in UNITS:
        raise WavedilError(f"unit is {unit!r}: expected {one_of(unit, UNITS)}")
    for budget in budgets:
        if not 0 < budget <= 1e15:
            raise WavedilError(f"{unit} is {budget:g}: expected a number above 0 and at most 1e+15")
    if not budgets or not kernel_sizes:
        raise WavedilError(f"{'kernel_sizes' if budgets else 'budgets'} is empty: expected at least one number")
    network = PlainStack(ndim) if network is None else network
    shapes = list(_schedules(field, sorted(set(kernel_sizes)), network.convolutions, schedules))
    if not shapes:
        raise WavedilError(
            f"field is {field}: no schedule of at most {_MAX_LAYERS} layers has it; choose larger kernels"
        )
    found: list[Candidate] = []
    for number, budget in enumerate(sorted(set(budgets))):
        fitting: list[Candidate] = []
        least = math.inf
        filled: dict[tuple[int, int], int] = {}  # the width depends on the number of layers, not on their dilations
        for index, (kind, dilations, kernel_size) in enumerate(shapes):

            def cost(channels: int, dilations: tuple = dilations, kernel_size: int = kernel_size) -> float:
                if unit == "nanoseconds":
                    return network.nanoseconds(dilations, kernel_size, channels)
                return network.cost(dilations, kernel_size, channels)[unit == "multiply_adds"]

            key = len(dilations), kernel_size
            if key not in filled:
                filled[key], smallest = _fill(cost, budget)
                least = min(least, smallest)
            if filled[key]:
                try:
                    candidate = _candidate(kind, dilations, kernel_size, filled[key], budget, unit, field, network)
                except WavedilError:  # path counts beyond all bounds
                    if kind == "given":
                        raise
                else:
                    fitting.append(candidate)
            if progress is not None:
                progress(number * len(shapes) + index + 1, len(budgets) * len(shapes))
        if not fitting:
            raise WavedilError(
                f"{unit} is {budget:g}: too small for a receptive field of {field}; the smallest candidate, of 1 "
                f"channel, has {least:,.0f}; raise the budget, or lower field"
            )
        found += sorted(fitting, key=lambda each: -each.score)
    return found


def measure_nanoseconds(forward: Callable[[], Any], positions: int) -> float:
    """Median time of three calls per position, after one that is not counted."""
    import torch

    times = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter_ns()
            forward()
            times.append(time.perf_counter_ns() - start)
    return statistics.median(times[1:]) / positions


def choose(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The candidates of one budget to train: those of the user, and the best of the others, ``count`` in all.

    The best kind of each kernel size comes first, then the second of each, and a kind has its second candidate of a
    kernel size only when each kind has one. So the proxy chooses within kinds, and the trainings compare them.
    """
    ordered = sorted(candidates, key=lambda each: -each.score)
    turns: list[tuple[int, int, Candidate]] = []
    for each in ordered:
        of_size = [(turn, one.kind) for turn, _, one in turns if one.kernel_size == each.kernel_size]
        turn = -1 if each.kind == "given" else sum(kind == each.kind for _, kind in of_size)
        turns.append((turn, sum(other == turn for other, _ in of_size), each))
    return [each for _, _, each in sorted(turns, key=lambda turn: turn[:2])][:count]


def rank_correlation(scores: Sequence[float], errors: Sequence[float]) -> float | None:
    """Spearman's correlation of scores and low errors: 1 if the order is the same; None of fewer than 3, or of ties."""
    if len(scores) < 3 or len(set(scores)) == 1 or len(set(errors)) == 1:
        return None
    columns = [np.array(values, dtype=float) for values in (scores, [-error for error in errors])]
    # Equal values have the mean of their ranks.
    ranks = [[(values < each).sum() + (values == each).sum() / 2 for each in values] for values in columns]
    return float(np.corrcoef(*ranks)[0, 1])


def _schedules(
    field: int, kernel_sizes: Sequence[int], convolutions: int, given: Sequence[Schedule]
) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Kind, dilations and kernel size of all candidates, each once."""
    seen = set()
    for entry in given:
        schedule, sizes = _with_kernel(entry)
        for kernel_size in sizes or kernel_sizes:
            shape = parse_schedule(schedule), kernel_size
            if shape not in seen:
                seen.add(shape)
                yield "given", *shape
    for kernel_size in kernel_sizes:
        needed = -(-(field - 1) // ((kernel_size - 1) * convolutions))  # sum of the dilations
        for kind, dilations in _of_kernel(needed, kernel_size, convolutions):
            shape = dilations, kernel_size
            if shape not in seen and _has_no_holes(*shape, convolutions):
                seen.add(shape)
                yield kind, *shape


def _with_kernel(entry: Any) -> tuple[Schedule, list[int]]:
    """A schedule of the user, and its kernel size if it has one."""
    if isinstance(entry, str) and ":" in entry:
        text, _, digits = entry.rpartition(":")
        entry = text, int(digits) if re.fullmatch(r" *[0-9]{1,9} *", digits) else digits
    elif not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)):
        return entry, []
    if isinstance(entry[1], bool) or not isinstance(entry[1], int) or not 2 <= entry[1] <= _MAX_KERNEL:
        raise WavedilError(
            f"schedule {shown(entry[0])} has kernel size {shown(entry[1])}: expected 2 to {_MAX_KERNEL}, e.g. 1..512:3"
        )
    return entry[0], [entry[1]]


def _of_kernel(needed: int, kernel_size: int, convolutions: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    bases = {"doubling": _powers(2), "tripling": _powers(3), "quadrupling": _powers(4), "A2-like": _a2_like()}
    for kind, sequence in bases.items():
        for repeats in range(1, _MAX_REPEATS + 1):
            period: list[int] = []
            while sum(period) * repeats < needed and len(period) < len(sequence):
                period.append(sequence[len(period)])
            if sum(period) * repeats >= needed and len(period) * repeats <= _MAX_LAYERS:
                yield kind, tuple(period) * repeats
    made = 0
    for layers in range(1, _MAX_LAYERS + 1):  # the fewest layers, and a few more
        try:
            dilations = hybrid(layers, 1 + (kernel_size - 1) * needed, kernel_size)
        except WavedilError:
            continue
        made += 1
        if made in (1, 3, 5):
            yield "hybrid", dilations
        if made == 5:
            return


def _powers(base: int) -> list[int]:
    return [base**power for power in range(64) if base**power <= _MAX_FIELD]


def _a2_like() -> list[int]:
    """1, 3, 7, 17, 41, 101, 239, 577 ...: half companion Pell numbers, each raised to the next prime."""
    one, other, found = 1, 3, [1]
    while other <= min(_MAX_FIELD, MAX_DILATION):
        prime = other
        while any(prime % divisor == 0 for divisor in range(2, math.isqrt(prime) + 1)):
            prime += 1
        found.append(prime)
        one, other = other, 2 * other + one
    return found


def _has_no_holes(dilations: Sequence[int], kernel_size: int, convolutions: int) -> bool:
    """Whether no dilation exceeds the field of the smaller ones, in any order."""
    field = 1
    for dilation in sorted(dilations):
        if dilation > field:
            return False
        field += (kernel_size - 1) * convolutions * dilation
    return True


def _fill(cost: Callable[[int], float], budget: float) -> tuple[int, float]:
    """The largest number of channels within a budget, 0 if there is none, and the cost of 1 channel."""
    low, smallest = 1, cost(1)
    if smallest > budget:
        return 0, smallest
    high, guess = _MAX_CHANNELS + 1, 16
    while high - low > 1:
        spent = cost(guess)
        low, high = (guess, high) if spent <= budget else (low, guess)
        # Costs grow with the square of the width.
        guess = min(max(round(guess * math.sqrt(budget / spent) - 0.4), low + 1), high - 1)
    return low, smallest


def _candidate(
    kind: str,
    dilations: tuple[int, ...],
    kernel: int,
    channels: int,
    budget: float,
    unit: str,
    field: int,
    network: Any,
) -> Candidate:
    audit = audit_gridding([each for each in dilations for _ in range(network.convolutions)], kernel)
    counts = audit.counts()
    shares = np.array([float(each) for each in counts / counts.sum()])
    shares = shares[shares > 0]
    evenness = min(1.0, math.exp(-float((shares * np.log(shares)).sum())) / field)
    parameters, multiply_adds = network.cost(dilations, kernel, channels)
    return Candidate(
        kind=kind,
        schedule=format_schedule(dilations),
        dilations=audit.dilations,
        kernel_size=kernel,
        channels=channels,
        budget=budget,
        receptive_field=audit.receptive_field,
        holes=audit.holes,
        evenness=evenness,
        parameters=parameters,
        multiply_adds=multiply_adds,
        nanoseconds=network.nanoseconds(dilations, kernel, channels) if unit == "nanoseconds" else None,
        score=evenness * channels * len(dilations),
    )
