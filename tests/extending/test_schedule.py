"""A dilation schedule from outside the package: one function and one call of ``register_schedule``."""

import json

import pytest

from wavedil import DilatedStack, WavedilError
from wavedil.audio import WaveNet, load, save
from wavedil.cli import main
from wavedil.core import parse_schedule, register_schedule, schedule


def fibonacci(layers):
    rates = [1, 2]
    while len(rates) < layers:
        rates.append(rates[-1] + rates[-2])
    return rates[:layers]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(schedule, "_FUNCTIONS", dict(schedule._FUNCTIONS))
    register_schedule("fibonacci", fibonacci)


def test_in_a_stack():
    stack = DilatedStack(1, 4, "fibonacci(6) x2")
    assert stack.dilations == (1, 2, 3, 5, 8, 13) * 2
    assert [layer.conv.dilation for layer in stack.layers] == [(rate,) for rate in stack.dilations]
    assert stack.receptive_field == 1 + 2 * 32


def test_in_a_model_and_its_folder(tmp_path):
    model = WaveNet(8, 8, dilations="fibonacci(6)")
    assert load(save(model, tmp_path / "model")).dilations == model.dilations == (1, 2, 3, 5, 8, 13)


def test_in_the_shell(capsys):
    assert main(["inspect", "fibonacci(layers=6)", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["dilations"] == [1, 2, 3, 5, 8, 13]
    assert main(["inspect", "fibonaci(6)"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: schedule 'fibonaci(6)': 'fibonaci' is not a known schedule; expected one of ")
    assert "fibonacci" in error and error.count("\n") == 1


def test_results_are_checked():
    register_schedule("broken", lambda: [1, 0])
    with pytest.raises(WavedilError, match=r"schedule 'broken\(\)': broken: dilation of layer 2 is 0: expected"):
        parse_schedule("broken()")


def test_names_are_checked():
    register_schedule("fibonacci", fibonacci)  # a second time, as in a notebook
    with pytest.raises(WavedilError, match="'fibonacci': another schedule has this name"):
        register_schedule("fibonacci", list)
    with pytest.raises(WavedilError, match="'my schedule': expected letters"):
        register_schedule("my schedule", fibonacci)
