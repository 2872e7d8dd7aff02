"""Odd arguments of functions of the core."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import wavedil
from wavedil import core
from wavedil.core import gridding

HUGE = 10**400
Call = tuple[Any, dict[str, Any], dict[str, Iterable[Any]]]


@cache
def convolution() -> core.DilatedConv:
    return core.DilatedConv(1, 2, 2, 3)


#: Name -> function, valid arguments, and more odd values of some arguments.
CALLS: dict[str, Call] = {
    "doubling": (wavedil.doubling, {"maximum": 8, "repeats": 2}, {"repeats": [10**9], "maximum": [2**62]}),
    "sawtooth": (core.sawtooth, {"dilations": "1,2", "repeats": 2}, {"repeats": [10**9]}),
    "hybrid": (core.hybrid, {"layers": 3, "field": 17, "kernel_size": 3},
               {"layers": [10_001], "field": [2**40], "kernel_size": [2**30]}),
    "parse_schedule": (
        core.parse_schedule, {"schedule": "1..8"},
        {"schedule": ["1..512 x1000000000", [2**62], "1..2 x10000", "(" * 10**5, "1," * 10**5, "hybrid(999, 99999)",
                      "1..99999999999999999999", "sawtooth(sawtooth(1..9, 1000), 1000)", range(10**9 + 1), "x3", "٣"]},
    ),
    "format_schedule": (core.format_schedule, {"dilations": [1, 2]}, {"dilations": [range(1, 10_000)]}),
    "receptive_field": (
        wavedil.receptive_field, {"dilations": "1..8", "kernel_size": 2, "strides": 1, "ndim": 1},
        {"dilations": ["1..512 x1000000000", [2**62]], "kernel_size": [[2] * 4, [2] * 3, np.array([2] * 4), [HUGE] * 4],
         "strides": [[1] * 4, [2**62] * 4]},
    ),
    "audit_gridding": (
        wavedil.audit_gridding, {"dilations": "1..8", "kernel_size": 3, "ndim": 2},
        {"dilations": [[2**24] * 3, "1 x10000", [2**62]], "kernel_size": [(3, 5), (2**20, 3)]},
    ),
    "suggest_schedules": (gridding.suggest_schedules, {"dilations": [2, 4], "kernel_size": 3, "ndim": 1},
                          {"dilations": [[1000, 1000]]}),
    "measure_receptive_field": (
        wavedil.measure_receptive_field,
        {"module": convolution, "example": 2, "ndim": 1, "size": 16, "seeds": 1,
         "coverage": 0.95},
        {"module": [torch.nn.Linear(2, 2), torch.nn.Embedding(3, 2), torch.nn.Flatten(), torch.nn.ReLU],
         "example": [torch.zeros(1, 2, 16), torch.zeros(1, 2, 16).long(), 3, 10**9],
         "size": [10**12, (16,), (16, 16), 3],
         "seeds": [10**9], "ndim": [2, 4]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_valid_arguments_are_accepted(name, outcome):
    function, valid, _ = CALLS[name]
    assert outcome(function, valid) == ""


@pytest.mark.filterwarnings("ignore:.*outside:UserWarning")
@pytest.mark.parametrize("name", CALLS)
def test_odd_arguments_give_a_result_or_one_line(name, check_odd_arguments):
    check_odd_arguments(*CALLS[name])
