"""A model of another package: its class names its evaluation, and the shell takes the options from it."""

import json

import pytest

from wavedil.cli import main

MODULE = '''
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from wavedil.errors import WavedilError
from wavedil.weights import register


@dataclass(frozen=True)
class Mean:
    mean: float
    count: int

    def __str__(self):
        return f"mean {self.mean:.1f} of {self.count} numbers"


def evaluate_numbers(model, data, *, power: int = 1, skip_first: bool = False, progress=None):
    """Mean of the numbers in a file, times the model's weight.

    Args:
        power: raise each number to this power.
        skip_first: leave out the first number.
    """
    if power < 1:
        raise WavedilError(f"power is {power}: expected at least 1")
    numbers = [float(text) ** power for text in Path(data).read_text().split()][skip_first:]
    progress(len(numbers), len(numbers))
    return Mean(model.weight.item() * sum(numbers) / len(numbers), len(numbers))


@register
class Scale(nn.Module):
    def __init__(self, start: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))

    @staticmethod
    def evaluation():
        return evaluate_numbers
'''


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A command line that evaluates a saved model of the module above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_scale.py").write_text(MODULE)
    (tmp_path / "numbers.txt").write_text("1 2 6")
    import my_scale

    from wavedil.weights import save

    save(my_scale.Scale(2.0), tmp_path / "model")
    return ["evaluate", "model", "numbers.txt", "--import", "my_scale"]


def test_the_shell_has_the_options_of_the_evaluation(words, capsys):
    assert main(words) == 0 and capsys.readouterr().out == "mean 6.0 of 3 numbers\n"
    assert main([*words, "--power", "2", "--skip-first", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"mean": 40.0, "count": 2}
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    help = " ".join(capsys.readouterr().out.split())
    assert "options of a Scale:" in help and "--power N raise each number to this power" in help


def test_bad_options_are_refused_in_one_line(words, capsys):
    for options, message in (
        (["--power", "0"], "power is 0: expected at least 1"),
        (["--power", "x"], "--power is 'x': expected an integer"),
        (["--held-out"], "--held-out is not an option of a Scale: expected one of --power, --skip-first"),
    ):
        assert main([*words, *options]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_without_import_the_class_is_not_known(words, capsys, monkeypatch):
    import my_scale

    from wavedil import registry

    monkeypatch.delitem(registry._REGISTERED, registry.import_path(my_scale.Scale))
    assert main(words[:3]) == 2
    assert "which is not registered: import the module that defines it first" in capsys.readouterr().err
