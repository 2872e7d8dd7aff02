"""Arguments are checked against their annotations."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from wavedil.audio import WaveNet
from wavedil.core import ConvBlock, DilatedConv, DilatedConv2d, DilatedStack, GatedBlock, Schedule, audit_gridding
from wavedil.core.schema import Range, check, checked
from wavedil.errors import WavedilError, shown

Width = Annotated[int, Range(1, 8)]
Share = Annotated[float, Range(0, 1, exclude_low=True, exclude_high=True)]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Width, 8),
        (Width, np.int16(3)),
        (Width, torch.tensor(3)),
        (Width | None, None),
        (Share, 0.5),
        (float, 1),
        (float, math.inf),
        (float, np.float32(0.5)),
        (bool, np.True_),
        (Sequence[Width], range(1, 4)),
        (Sequence[Width], np.array([1, 2])),
        (Sequence[float], torch.tensor([1.0, 2.0])),
        (tuple[int, int], [1, 2]),
        (tuple[int, ...], []),
        (list[str], ("a",)),
        (Width | Sequence[Width], (1, 2)),
        (Mapping[str, Share], {"a": 0.5}),
        (Literal["a", 1], 1),
        (Callable[..., Any], len),
        (Iterable[int], iter([1])),
        (nn.Module, nn.ReLU()),
        (Schedule, "1..4 x2"),
        (Any, object()),
        ("a name for type checkers", object()),
    ],
)
def test_allowed(hint, value):
    found = check("x", value, hint)
    assert not isinstance(found, np.generic | np.ndarray) and (hint is Any or not isinstance(found, torch.Tensor))
    if not isinstance(value, np.generic | np.ndarray | torch.Tensor):
        assert found is value or found == value


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (Width, 9, "x is 9: expected a positive integer up to 8"),
        (Width, True, "x is True: expected a positive"),
        (Width, 2.0, "x is 2.0: expected a positive"),
        (Width, "2", "x is '2': expected a positive"),
        (Width, None, "x is None: expected a positive"),
        (Annotated[int, Range(1, 3)], 4, "x is 4: expected 1, 2 or 3"),
        (Annotated[int, Range(0, 5)], -1, "x is -1: expected an integer from 0 to 5"),
        (Share, 1, "x is 1: expected a number above 0 and below 1"),
        (Share, math.nan, "x is nan: expected a number"),
        (float, True, "x is True: expected a number"),
        (float, [1.0], r"x is \[1.0\]: expected a number"),
        (bool, 1, "x is 1: expected true or false"),
        (str, 1, "x is 1: expected a text"),
        (Width | None, 0, "x is 0: expected a positive integer up to 8 or None"),
        (Sequence[str], "ab", "x is 'ab': expected a list of texts"),
        (Sequence[Width], [1, 9], r"x is \[1, 9\]: expected a list of positive integers up to 8"),
        (Sequence[Width], torch.ones(2, 2), "x is a Tensor: expected a list"),
        (tuple[int, int], [1], r"x is \[1\]: expected a list of 2 integers"),
        (Mapping[str, Width], {1: 1}, "x is {1: 1}: expected a dictionary"),
        (Mapping[str, Width], {"a": 0}, "x is {'a': 0}: expected a dictionary of positive integers"),
        (Mapping[str, Any], {1: 0}, "x is {1: 0}: expected a dictionary"),
        (Literal["a", 1], True, "x is True: expected one of a, 1"),
        (nn.Module, nn.ReLU, "x is the class ReLU: expected a Module"),
        (Schedule, [1, [2]], r"x is \[1, \[2\]\]: expected dilations; write"),
        (Schedule, [0], "dilation of layer 1 is 0"),
        (Schedule, [1] * 1001, "the schedule has 1001 layers: expected at most 1000"),
    ],
)
def test_refused_in_one_line(hint, value, message):
    with pytest.raises(WavedilError, match=message) as error:
        check("x", value, hint)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_an_integer_of_many_digits_is_refused():
    with pytest.raises(WavedilError, match="x is an integer of more than 80 digits: expected a positive"):
        check("x", 10**5000, Width)


def test_defaults_and_missing_arguments_are_those_of_the_function():
    @checked
    def join(first: int, *others: int, end: int = None, **named: Width):
        return first, others, end, named

    assert join(1, np.int64(2), a=3) == (1, (2,), None, {"a": 3})
    with pytest.raises(TypeError, match="missing 1 required"):
        join()
    with pytest.raises(WavedilError, match="a is 9: expected"):
        join(1, a=9)
    with pytest.raises(WavedilError, match="others is 'x': expected an integer"):
        join(1, "x")


@pytest.mark.parametrize(
    ("call", "name", "meant"),
    [
        (lambda: DilatedStack(ndim=1, chanels=4), "chanels", "channels"),
        (lambda: DilatedStack(1, 4, dilation=[1, 2]), "dilation", "dilations"),
        (lambda: GatedBlock(1, 4, skip_chanels=2), "skip_chanels", "skip_channels"),
        (lambda: WaveNet(4, 4, "1,2", sampel_rate=8000), "sampel_rate", "sample_rate"),
        (lambda: audit_gridding([1, 2], kernelsize=3), "kernelsize", "kernel_size"),
    ],
)
def test_a_misspelt_argument_is_named(call, name, meant):
    with pytest.raises(WavedilError, match=rf"^{name} is not an argument of \w+: did you mean {meant}\?$"):
        call()


def test_values_are_shown_in_one_short_line():
    endless: list = []
    endless.append(endless)
    for value in ("a\n" * 999, endless, {"a": [nn.ReLU()] * 999}, 10**9999, object(), [float("nan")]):
        assert len(shown(value)) <= 80 and "\n" not in shown(value)


BAD = {
    "ndim": [0, 4, True, 1.0, "1", None, [1]],
    "channels": [0, -1, 2.0, "8", [], [8, 8, 8], True, 10**9, None, math.nan],
    "kernel_size": [0, "3", 2.5, [3, 3], 10**12, math.inf],
    "dilation": [0, -2, "x", [1, 1, 1, 1], math.nan],
    "groups": [0, 3, "1", None],
    "causal": [1, "yes", None, [True, True]],
    "hidden_channels": [0, -1, "4", math.inf],
    "skip_channels": [-1, "4", 0.5],
    "condition_channels": [-1, None, "x"],
    "residual_scale": [math.nan, math.inf, "1", None, True],
    "skip_scale": [math.nan, [1.0], "1"],
    "checkpoint_layers": [-1, 1.5, "x"],
    "dilations": ["", [], [0], "x", None, {}, 0, 2**30, [1.5], "1 x2000", math.nan],
    "padding": ["left", 3, ["same", "same"]],
    "bias": ["yes", None, 2],
    "block": [3, None, "GatedBlock"],
}


GATED = (
    "ndim channels hidden_channels skip_channels condition_channels residual_scale skip_scale kernel_size causal bias"
)


@pytest.mark.parametrize(
    ("build", "arguments", "names"),
    [
        (DilatedConv, {"ndim": 1, "in_channels": 2, "out_channels": 2, "kernel_size": 2},
         "ndim in_channels out_channels kernel_size dilation padding groups bias"),
        (DilatedConv2d, {"in_channels": 2, "out_channels": 2, "kernel_size": 2}, "in_channels out_channels dilation"),
        (GatedBlock, {"ndim": 1, "channels": 2}, GATED),
        (ConvBlock, {"ndim": 1, "channels": 2}, "ndim channels groups padding kernel_size dilation causal"),
        (DilatedStack, {"ndim": 1, "channels": 2, "dilations": "1,2"}, f"dilations checkpoint_layers block {GATED}"),
    ],
)  # fmt: skip
def test_the_core_refuses_bad_arguments(build, arguments, names):
    build(**arguments)
    for name in names.split():
        for value in BAD[name.removeprefix("in_").removeprefix("out_")]:
            with pytest.raises(WavedilError) as error:
                build(**{**arguments, name: value})
            assert "\n" not in str(error.value), (name, value)
