"""Candidates of ``wavedil search``: schedules, budgets, proxy."""

import math

import numpy as np
import pytest

from wavedil import WavedilError, receptive_field
from wavedil.inspection.candidates import PlainStack, choose, rank_correlation, rank_schedules
from wavedil.inspection.frontier import plot_frontier, render_frontier
from wavedil.inspection.schedule import inspect_schedule


@pytest.mark.parametrize(
    ("field", "unit", "ndim", "budget"), [(2047, "multiply_adds", 1, 5000), (33, "parameters", 2, 999)]
)
def test_candidates_fill_the_budget_and_have_the_field(field, unit, ndim, budget):
    found = rank_schedules(field, [budget], unit, (2, 3, 5), ndim)
    for each in found:
        info = inspect_schedule(each.schedule, ndim, each.kernel_size, each.channels)
        assert info["dilations"] == list(each.dilations)
        for key in ("parameters", "multiply_adds", "receptive_field"):
            assert info[key] == getattr(each, key)
        assert each.receptive_field >= field and each.holes == info["holes"] == 0
        wider = inspect_schedule(each.schedule, ndim, each.kernel_size, each.channels + 1)
        assert info[unit] <= budget < wider[unit]
    assert len({(each.schedule, each.kernel_size) for each in found}) == len(found) > 15
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_schedules_of_networks_in_use_are_found():
    found = {(each.schedule, each.kernel_size) for each in rank_schedules(2000, [5000], kernel_sizes=(2, 3, 6))}
    assert {("1..512", 3), ("1..512 x2", 2), ("1..512 x3", 2), ("1,3,7,17,41,101,239", 6)} < found


def test_evenness_is_the_effective_number_of_inputs():
    """Uniform paths use the entire field; those of a repeated schedule crowd at the center."""
    found = {each.schedule: each for each in rank_schedules(16, [1e4], kernel_sizes=[2], schedules=["1 x15"])}
    assert found["1..8"].evenness == pytest.approx(1)
    binomial = np.array([math.comb(15, i) for i in range(16)]) / 2**15
    assert found["1 x15"].evenness == pytest.approx(math.exp(-(binomial * np.log(binomial)).sum()) / 16)
    assert found["1 x15"].score == pytest.approx(found["1 x15"].evenness * 15 * found["1 x15"].channels)


def test_own_schedules_are_kept_with_their_kernel_size():
    found = rank_schedules(100, [5000], kernel_sizes=[2], schedules=["2,4 : 3", ("2,4", 3), "1..8"])
    given = {(each.schedule, each.kernel_size) for each in found if each.kind == "given"}
    assert given == {("2,4", 3), ("1..8", 2)}
    assert next(each for each in found if each.schedule == "2,4").holes == 6
    assert {each.schedule for each in choose(found, 2)} == {"2,4", "1..8"}


def test_each_kind_and_kernel_size_has_a_candidate_before_another_has_two():
    found = rank_schedules(255, [5000])
    groups = {(each.kind, each.kernel_size) for each in found}
    chosen = choose(found, len(groups))
    assert {(each.kind, each.kernel_size) for each in chosen} == groups
    for each in chosen:
        others = [one.score for one in found if (one.kind, one.kernel_size) == (each.kind, each.kernel_size)]
        assert each.score == max(others)
    assert len(choose(found, 10_000)) == len(found)


def test_a_network_of_two_convolutions_for_each_dilation():
    class Twice(PlainStack):
        convolutions = 2

    for each in rank_schedules(61, [1e4], kernel_sizes=[2, 3], network=Twice()):
        assert each.receptive_field == receptive_field(each.dilations, each.kernel_size) >= 61 and each.holes == 0


def test_nanoseconds_are_measured():
    class Clocked(PlainStack):
        def nanoseconds(self, dilations, kernel_size, channels):
            assert super().nanoseconds(dilations, kernel_size, 1) > 0
            return 10.0 * channels

    for each in rank_schedules(9, [85], "nanoseconds", [3], network=Clocked()):
        assert (each.channels, each.nanoseconds) == (8, 80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"field": 0}, "field is 0"),
        ({"field": 2**30}, "field is 1073741824"),
        ({"budgets": [math.nan]}, "multiply_adds is nan"),
        ({"budgets": [3.0, math.inf]}, "multiply_adds is inf"),
        ({"budgets": [-1]}, "multiply_adds is -1"),
        ({"budgets": []}, "budgets is empty"),
        ({"budgets": [2]}, "multiply_adds is 2: too small for a receptive field of 64; the smallest candidate, of 1"),
        ({"kernel_sizes": [1]}, "kernel_sizes is [1]"),
        ({"kernel_sizes": []}, "kernel_sizes is empty"),
        ({"unit": "parameter"}, "did you mean parameters?"),
        ({"schedules": ["1,x"]}, "'x' is not an integer"),
        ({"schedules": ["1,2:1"]}, "schedule '1,2' has kernel size 1: expected 2 to 64"),
        ({"schedules": ["1,2:three"]}, "has kernel size 'three'"),
        ({"schedules": [""]}, "empty"),
        ({"ndim": 4}, "ndim is 4"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(WavedilError, match="^[^\n]+$") as error:
        rank_schedules(**{"field": 64, "budgets": [500], **arguments})
    assert message in str(error.value)


def test_rank_correlation():
    assert rank_correlation([3, 2, 1], [0.1, 0.2, 0.9]) == pytest.approx(1)
    assert rank_correlation([3, 2, 1], [0.9, 0.2, 0.1]) == pytest.approx(-1)
    # Scipy's spearmanr; equal values have the mean of their ranks.
    assert rank_correlation([1, 2, 2, 3, 9], [0.5, 0.4, 0.1, 0.3, 0.2]) == pytest.approx(0.5642880936468347)
    assert rank_correlation([1, 2], [1, 2]) is None and rank_correlation([1, 2, 3], [1, 1, 1]) is None


def test_table_and_picture(tmp_path):
    rows = [vars(each) for each in rank_schedules(64, [500, 2000], kernel_sizes=[2, 3])]
    result = {"field": 64, "unit": "multiply_adds", "candidates": rows}
    text = render_frontier(result, 8000)
    assert text.count("at most") == 2 and "1..32 x2" in text and max(map(len, text.splitlines())) <= 110
    plot_frontier(result, tmp_path / "proxy.png")
    for number, row in enumerate(rows[::5]):
        row |= {"error": 1 / (number + 1), "note": ""}
    rows[1]["note"] = "diverged"
    result |= {"metric": "valid_esr", "rank_correlation": {"500": 0.25, "2000": None}}
    text = render_frontier(result)
    assert "valid_esr" in text and "diverged" in text and "trained order: 0.25" in text
    plot_frontier(result, tmp_path / "error.png")
    assert (tmp_path / "proxy.png").read_bytes() != (tmp_path / "error.png").read_bytes()
