"""A command from outside the package: a module with ``add_arguments`` and ``run``."""

import sys
from importlib import metadata
from types import ModuleType

import pytest

from wavedil.cli import main, register_command
from wavedil.cli import parser as shell
from wavedil.errors import WavedilError


@pytest.fixture
def module(monkeypatch):
    """A module as a user would write it."""
    module = ModuleType("double")

    def add_arguments(parser):
        parser.add_argument("number", type=int)
        parser.add_argument("--plus", type=int, default=0)

    def run(arguments):
        if arguments.number < 0:
            raise WavedilError(f"number is {arguments.number}: expected 0 or more")
        print(2 * arguments.number + arguments.plus)

    module.add_arguments, module.run = add_arguments, run
    monkeypatch.setattr(shell, "COMMANDS", dict(shell.COMMANDS))
    monkeypatch.setitem(sys.modules, "double", module)
    return module


def check(capsys):
    assert main(["double", "4", "--plus", "1"]) == 0 and capsys.readouterr().out == "9\n"
    assert main(["double", "-1"]) == 2 and "unknown arguments" not in (err := capsys.readouterr().err)
    assert err == "error: number is -1: expected 0 or more\n"
    assert main(["double", "4", "--plu", "1"]) == 2  # no abbreviations
    assert capsys.readouterr().err == "error: --plu is unknown: did you mean --plus?; see wavedil double --help\n"
    assert main([]) == 0 and "double" in capsys.readouterr().out


@pytest.mark.parametrize("by_path", [False, True])
def test_a_registered_command_runs(capsys, module, by_path):
    register_command("double", "double" if by_path else module, "Double a number.")
    check(capsys)
    with pytest.raises(SystemExit, match="0"):
        main(["double", "--help"])
    assert "Double a number." in capsys.readouterr().out


def test_an_imported_module_registers_its_command(capsys, module, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_commands.py").write_text(
        "from wavedil.cli import register_command\nregister_command('double', 'double', 'Double a number.')\n"
    )
    assert main(["--import", "my_commands", "double", "4"]) == 0 and capsys.readouterr().out == "8\n"


def test_a_command_of_an_installed_package_is_found_by_its_entry_point(capsys, module, monkeypatch):
    point = metadata.EntryPoint("double", "double", "wavedil.commands")
    monkeypatch.setattr(shell.metadata, "entry_points", lambda group: [point] if group == point.group else [])
    check(capsys)


def test_a_command_whose_module_is_missing_is_named(capsys, module):
    register_command("triple", "no_such_module", "Triple a number.")
    assert main(["triple", "1"]) == 2
    assert capsys.readouterr().err == "error: command triple: module no_such_module is not installed\n"
