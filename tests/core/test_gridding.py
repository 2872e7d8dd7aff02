import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil import DilatedStack
from wavedil.core.gridding import audit_branches, audit_gridding, hdc_distances, suggest_schedules
from wavedil.core.measured_field import measure_receptive_field
from wavedil.errors import WavedilError

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def brute_counts(dilations, kernel, ndim):
    """Paths by position, by convolving a single one with kernels of ones, layer by layer."""
    paths = torch.ones([1, 1] + [1] * ndim, dtype=torch.float64)
    for d in dilations:
        pad = [p for k in reversed(kernel) for p in [(k - 1) * d] * 2]
        weight = torch.ones(1, 1, *kernel, dtype=torch.float64)
        paths = CONV[ndim](F.pad(paths, pad), weight, dilation=d)
    return paths[0, 0].numpy()


@pytest.mark.parametrize(
    ("ndim", "kernel"), [(1, 2), (1, 3), (1, 4), (2, 3), (2, (1, 3)), (2, (2, 3)), (3, 3), (3, (3, 1, 2))]
)
@pytest.mark.parametrize("dilations", [(1,), (2, 2), (1, 2, 4), (2, 4, 3), (1, 1, 3)])
def test_counts_equal_brute_force(ndim, kernel, dilations):
    audit = audit_gridding(dilations, kernel, ndim)
    counts = brute_counts(dilations, (kernel,) * ndim if isinstance(kernel, int) else kernel, ndim)
    assert audit.extent == counts.shape
    assert np.array_equal(audit.count_map(), counts)
    assert audit.reached == (counts > 0).sum()
    assert audit.holes == (counts == 0).sum()
    assert audit.path_ratio == counts.max() / counts[counts > 0].min()


@pytest.mark.parametrize(
    ("dilations", "field", "holes", "m2", "passes"),
    [
        ((1, 2, 5), 17, 0, 2, True),  # the good example of the paper
        ((1, 2, 9), 25, 4, 5, False),  # its bad example
        ((2, 2, 2), 13, 6, 2, True),  # not sufficient: passes with holes
        ((2, 2), 9, 4, 2, True),
        ((1, 2, 5, 1, 2, 5), 33, 0, 5, False),  # not necessary: fails without holes
        ((2, 4, 8), 29, 14, 4, False),
        ((5, 9, 17), 63, 36, 9, False),
        ((6, 12, 18), 73, 60, 12, False),
        ((1, 2, 4), 15, 0, 2, True),
        ((1, 2, 4, 8, 16), 63, 0, 2, True),
        ((1, 1, 2, 4, 8, 16, 1), 67, 0, 1, True),
    ],
)
def test_known_schedules(dilations, field, holes, m2, passes):
    audit = audit_gridding(dilations, kernel_size=3)
    assert (audit.receptive_field, audit.holes) == (field, holes)
    assert (audit.hdc_m2, audit.hdc_passes) == (m2, passes)


def test_context_module_has_uneven_counts():
    """Yu and Koltun's context module: 54 paths from inputs near the center, one from the corners."""
    assert audit_gridding("1,1..16,1", 3).path_ratio == 54
    assert audit_gridding("1,1..16,1", 3, ndim=2).path_ratio == 54**2


def test_doubling_has_one_path_per_input():
    audit = audit_gridding("1..512")
    assert (audit.receptive_field, audit.holes, audit.path_ratio) == (1024, 0, 1)
    assert audit.counts().tolist() == [1] * 1024


def test_hdc_rule_does_not_apply_to_one_layer():
    audit = audit_gridding(3, 3)
    assert (hdc_distances(3), audit.hdc_m2, audit.hdc_passes) == ((3,), None, None)


def test_counts_above_64_bits_are_exact():
    audit = audit_gridding("1 x64", kernel_size=3)  # central trinomial coefficients
    row = [1]
    for _ in range(64):
        row = [sum(row[max(0, i - 2) : i + 1]) for i in range(len(row) + 2)]
    assert audit.counts().tolist() == row
    assert audit.path_ratio == pytest.approx(max(row))
    assert audit_gridding("1 x1000", 3).path_ratio > 10**400  # above the range of floats


def test_large_three_dimensional_field():
    audit = audit_gridding("2..256", 3, ndim=3)
    assert audit.holes == 1021**3 - 511**3
    with pytest.raises(WavedilError, match="a map has at most 16777216"):
        audit.count_map()


@pytest.mark.parametrize("dilations", [(1, 2, 4), (2, 4), (1, 5), (3, 2)])
@pytest.mark.parametrize(("ndim", "kernel"), [(1, 3), (2, 3), (2, (1, 3)), (3, 3)])
def test_equals_gradients_through_convolutions(dilations, ndim, kernel):
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[ndim]
    layers = [m for d in dilations for m in (conv(2, 2, kernel, dilation=d, padding="same"), nn.ReLU())]
    measured = measure_receptive_field(nn.Sequential(*layers), 2, ndim, seeds=1)
    audit = audit_gridding(dilations, kernel, ndim)
    assert (measured.extent, measured.reached, measured.holes) == (audit.extent, audit.reached, audit.holes)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_branches_equal_brute_force(ndim):
    schedules = [(2, 4), (3, 1), (1,), (5,)]
    audit = audit_branches(schedules, 3, ndim)
    total = np.zeros(audit.extent)
    for rates in schedules:
        spare = audit.receptive_field - 1 - 2 * sum(rates)
        total += np.pad(brute_counts(rates, (3,) * ndim, ndim), spare // 2)
    assert np.array_equal(audit.count_map(), total)
    assert audit.reached == (total > 0).sum()
    assert audit.holes == (total == 0).sum()
    assert audit.path_ratio == total.max() / total[total > 0].min()


def test_causal_branches_are_aligned_at_the_end():
    assert audit_branches([(4,), (1,)], 2).counts().tolist() == [1, 0, 0, 1, 2]
    assert audit_branches([(4,), (1,)], 3, causal=False).counts().tolist() == [1, 0, 0, 1, 2, 1, 0, 0, 1]


@pytest.mark.parametrize("dilations", [(2, 4, 8), (1, 2, 9), (2, 2, 2), (5, 9, 17), (6, 12, 18), (7,)])
@pytest.mark.parametrize(("kernel", "ndim"), [(2, 1), (3, 1), (3, 2), (5, 1)])
def test_suggestions_have_no_holes(dilations, kernel, ndim):
    original = audit_gridding(dilations, kernel, ndim)
    suggestions = suggest_schedules(dilations, kernel, ndim)
    assert bool(suggestions) == bool(original.holes)
    for suggestion in suggestions:
        branches = suggestion.audit.branches
        union = sum(brute_branch(rates, kernel, ndim, suggestion.audit.receptive_field) for rates in branches)
        assert (union > 0).all(), suggestion.text
        assert suggestion.audit.receptive_field >= original.receptive_field
    if original.holes:
        assert {"return to 1", "hybrid rates"} <= {s.kind for s in suggestions}


def brute_branch(rates, kernel, ndim, field):
    counts = np.zeros(field)
    start = field - 1 - (kernel - 1) * sum(rates)
    offset = start if kernel % 2 == 0 else start // 2
    for taps in itertools.product(range(kernel), repeat=len(rates)):
        counts[offset + sum(t * r for t, r in zip(taps, rates, strict=True))] += 1
    return counts if ndim == 1 else np.multiply.outer(counts, counts)


def test_suggestions_for_even_rates():
    suggested = {s.kind: s.audit for s in suggest_schedules((2, 4, 8), 3)}
    assert suggested["parallel branches"].branches == ((2, 4, 8), (1, 4, 8))
    assert suggested["return to 1"].dilations == (2, 4, 8, 1)
    assert suggested["hybrid rates"].receptive_field == 29


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ndim": 4}, "ndim is 4: expected 1, 2 or 3"),
        ({"kernel_size": 0}, "kernel_size is 0: expected a positive integer"),
        ({"kernel_size": (3, 3)}, r"kernel_size is \(3, 3\): expected a positive integer"),
        ({"kernel_size": 3, "dilations": 2**24}, "has 33554433 positions: expected at most 16777216"),
        ({"kernel_size": 3, "dilations": "8192 x100"}, "audit one period"),
    ],
)
def test_invalid_arguments(kwargs, message):
    with pytest.raises(WavedilError, match=message):
        audit_gridding(**({"dilations": (1, 2)} | kwargs))
    with pytest.raises(WavedilError, match="schedules is empty"):
        audit_branches([])


def test_an_audit_is_readable_and_takes_a_stack():
    text = str(audit_gridding([2, 4, 8], kernel_size=3))
    assert text.splitlines()[:3] == [
        "2..8: 3 layers, kernel 3",
        "receptive field 29",
        "holes           14 of 29 positions",
    ]
    stack = DilatedStack(2, 3, "2,2", 3)
    assert str(audit_gridding(stack)) == str(audit_gridding("2,2", 3, ndim=2)) and "56 of 81" in str(
        audit_gridding(stack)
    )
    with pytest.raises(WavedilError, match="dilations differ between the axes: audit each axis"):
        audit_gridding(DilatedStack(2, 3, [(1, 2)], 3))
