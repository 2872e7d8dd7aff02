"""Options made from a Python function's signature and docstring."""

import argparse
from collections.abc import Sequence

import pytest

from wavedil.cli.options import add_function_options, find_model, function_arguments, function_options


def example(
    model: object,
    data: str,
    *,
    text: str | None = None,
    count: int = 3,
    share: float | None = 0.5,
    flag: bool = False,
    scales: Sequence[float] = (1.0,),
    two_words: int = 1,
    progress: object = None,
) -> None:
    """An example.

    Args:
        model, data: are not options.
        text: a string, with a second
            line.
        count, share: two at once; 5 % of ``something`` in :func:`wavedil.audio.generate`.
        flag: a switch.
        progress: is not an option.

    Raises:
        ValueError: never.
    """


def test_a_run_folder_names_its_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "model").mkdir(parents=True)
    assert find_model("run") == "run" == find_model("run/").rstrip("/")  # no run: it has no config.yaml
    (tmp_path / "run" / "config.yaml").touch()
    assert find_model("run") == "run/model" and find_model("run/model") == "run/model"
    assert find_model("1..8 x2") == "1..8 x2"
    (tmp_path / "run" / "model").rmdir()
    with pytest.raises(argparse.ArgumentTypeError, match="run is a run without a model"):
        find_model("run")


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(prog="x")
    add_function_options(parser, example, "options of an example")
    return parser


def test_values_have_the_types_of_the_signature(parser):
    words = "--text a --count 4 --share 0.25 --flag --scales 1 2.5 --two-words 7".split()
    assert function_arguments(example, parser.parse_args(words)) == {
        "text": "a", "count": 4, "share": 0.25, "flag": True, "scales": [1.0, 2.5], "two_words": 7,
    }  # fmt: skip
    assert function_arguments(example, parser.parse_args([])) == {}
    assert function_options(example) == ["--text", "--count", "--share", "--flag", "--scales", "--two-words"]


def test_help_is_the_text_of_the_docstring(parser):
    text = " ".join(parser.format_help().split())
    assert "options of an example:" in text and "--text TEXT a string, with a second line" in text
    both = "two at once; 5 % of something in wavedil.audio.generate"
    assert f"--count N {both}" in text and f"--share X {both}" in text and "--flag a switch" in text
    assert "not option" not in text and "never" not in text


def test_other_types_are_refused():
    def strange(model, *, table: object = None):
        pass

    with pytest.raises(TypeError, match="an option needs str, int, float, bool"):
        add_function_options(argparse.ArgumentParser(), strange, "x")
