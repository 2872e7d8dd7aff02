"""The ``wavedil`` command itself: help, errors in one line, and messages."""

import importlib
import re
import sys
import warnings
from types import ModuleType

import pytest

import wavedil
from wavedil.bench import BENCHMARKS
from wavedil.cli import bench, build_parser, main
from wavedil.cli.parser import COMMANDS
from wavedil.extras import install_extra
from wavedil.recipe_files import known_recipes, recipe_summary


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_command_help_is_printed_with_status_0(capsys, words):
    try:
        status = main(words)
    except SystemExit as exit:  # argparse's own way after --help
        status = exit.code
    out = capsys.readouterr()
    assert status == 0 and not out.err
    assert all(re.search(rf"^    {name} ", out.out, re.M) for name in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"{wavedil.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(capsys, name):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: wavedil {name}") and COMMANDS[name][1][:30] in out
    assert "--import MODULE" in out and "-q, --quiet" in out
    module = importlib.import_module(COMMANDS[name][0])
    assert len(module.EXAMPLES) > 1 and all(f"  {each}\n" in out for each in module.EXAMPLES)
    assert module.add_arguments and module.run


def test_every_command_imports_modules_first(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    for name in COMMANDS:
        message = refused(name, "--import", "no_such_module")
        assert "--import no_such_module: cannot import it (ModuleNotFoundError" in message
    (tmp_path / "broken_module.py").write_text("def")
    assert "--import broken_module: cannot import it (SyntaxError" in refused("train", "--import", "broken_module")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "nowhere"], "nowhere does not exist: expected a model folder"),
        (["evaluate", "{model}", "nowhere"], "nowhere"),
        (
            ["sample", "{model}", "--sconds", "1"],
            "--sconds is unknown: did you mean --seconds?; see wavedil sample --help",
        ),
        (["sample", "{model}", "--engin", "torch"], "--engin is unknown: did you mean --engine?"),  # no abbreviations
        (["sample", "{model}", "--num", "many"], "--num is 'many': expected an integer of at most 64 bits"),
        (["sample", "{model}", "--seconds", "1s"], "--seconds is '1s': expected a number"),
        (["inspect", "1,2", "--ndim", "9" * 30], f"--ndim is '{'9' * 30}': expected an integer of at most 64 bits"),
        (["inspect", "1,2", "--rate", "0"], "error: --rate is '0': expected a sample rate in Hz, from 1"),
        (["search", "--field", "9", "--parameters", "99", "--rate=-5"], "--rate is '-5': expected a sample rate"),
        (["segment", "shapes", "crf", "--crf", "--out", "x"], "error: crf does not exist: expected an image"),
        (["sample", "{model}", "--out="], "error: --out is empty: expected a value, or leave it out"),
        (["evaluate", "{model}", ""], "error: DATA is empty: expected a value; see wavedil evaluate --help"),
        (["sample", ""], "error: MODEL is empty: expected a value; see"),
        (["process", "{model}", "a.wav", "", "out"], "error: IN is empty: expected a value"),
        (["segment", "shapes", "", "--out", "x"], "error: IMAGE is empty: expected a value"),
        (["check", ""], "error: DATA is empty: expected a value, or leave it out"),
        (["pack", "data", "--exclude", ""], "error: --exclude is empty: expected a value, or leave it out"),
        (["train", "-c", "tiny", "-c", ""], "error: -c/--config is empty: expected a value, or leave it out"),
        (["surprise", "{model}", "x.wav", "--csv", ""], "error: --csv is empty: expected a value"),
        (
            ["sample", "{model}", "--speaker", "x"],
            "error: --speaker is given, but this model takes no speaker",
        ),
        (["evaluate", "{model}", ".", "--temperature=1"], "not for bits per sample: add --resynthesize"),
        (["sample"], "MODEL"),
        (["inspect", "1,0,2"], "0"),
        (["inspect", ""], "is empty: expected a value"),
        (["inspect", "1..500"], "512"),
        (["inspect", "1,2", "--plot", "picture.gif"], "png"),
        (["search", "--field", "1", "--parameters", "9"], "field is 1"),
        (["search", "-c", "Ampp"], "did you mean amp?"),
        (["report", "nowhere"], "nowhere"),
        (["bench", "nothing"], "conv"),
        (["train", "-c", "nothing.yaml"], "does not exist"),
        (["dance"], "command 'dance' is unknown: expected one of train, sample"),
        (["sampel"], "did you mean sample?"),
        (["train", "-c", "Ampp"], "did you mean amp?"),
        (["bench", "cods"], "did you mean codes?"),
        (["bench", "codes", "more", "--devic", "cpu"], "--devic is unknown: did you mean --device?"),
        (["inspect", "x", "y"], "unexpected argument 'y'"),
        (["--dance"], "--dance"),
    ],
)
def test_bad_input_is_refused_in_one_line(refused, tmp_path, monkeypatch, wavenet, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*[word.format(model=wavenet) for word in words])
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named_with_the_extra_that_installs_it(refused, monkeypatch):
    for package, extra in (("PIL", "vision"), ("onnx", "export"), ("librosa", "train"), ("other", "")):

        def fail(_, package=package):
            raise ModuleNotFoundError(name=f"{package}.part")

        monkeypatch.setattr("wavedil.cli.report.run", fail)
        remedy = f": {install_extra(extra)}" if extra else ""
        assert refused("report", "x") == f"error: {package}.part is not installed{remedy}\n"


def test_an_import_error_of_the_package_itself_is_not_hidden(monkeypatch):
    def fail(_):
        raise ModuleNotFoundError(name="wavedil.nothing")

    monkeypatch.setattr("wavedil.cli.report.run", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["report", "x"])


def test_the_parser_of_one_command_imports_no_other(monkeypatch):
    for name, (module, _) in COMMANDS.items():
        if name != "bench":
            monkeypatch.setitem(sys.modules, module, None)
    assert build_parser(["bench", "conv"]).parse_args(["bench", "conv"]).name == "conv"


def test_help_has_a_line_for_every_benchmark_and_recipe(capsys):
    assert sorted(bench.NAMES) == sorted(BENCHMARKS)
    for command, names in (("bench", BENCHMARKS), ("train", known_recipes())):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert all(re.search(rf"^  {name} +\w.{{10}}", text, re.M) for name in names)
    assert all(10 < len(recipe_summary(path)) < 110 for path in known_recipes().values())


@pytest.mark.parametrize("words", [["train", "--out=a", "--out", "b"], ["inspect", "1..8", "--ndim=1", "--ndim=2"]])
def test_an_option_given_twice_is_refused(words, capsys):
    assert main(words) == 2
    assert "given twice" in capsys.readouterr().err


def test_a_warning_is_one_line(run):
    """Of this package; others as Python prints them."""
    before = warnings.formatwarning

    def give(arguments):
        for category in (UserWarning, DeprecationWarning):
            print(warnings.formatwarning(category("a\nb"), category, "file.py", 3, "code()"), end="")

    module = ModuleType("warning_command")
    module.add_arguments, module.run = lambda parser: None, give
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COMMANDS, "warn", (module, "help"))
        lines = run("warn").out.splitlines()
    assert lines[0] == "warning: a\\nb" and lines[1] == "file.py:3: DeprecationWarning: a"
    assert warnings.formatwarning is before


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["sample", "pluck", "--num", "0"], "--num is 0: expected a positive integer"),
        (["sample", "pluck", "--top-k=-1"], "--top-k is -1: expected a positive integer up to"),
        (["search", "--field", "9", "--multiply-adds", "nan"], "--multiply-adds is nan: expected a number above 0"),
        (["inspect", "1..x"], "schedule '1..x': 'x' is not an integer"),  # no option
    ],
)
def test_an_error_about_an_argument_names_the_option(words, start, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # a first sampling prints that it compiles
    assert error.startswith(f"error: {start}") and "None" not in error
