"""``wavedil search`` without trainings; those are in tests/train/test_search.py."""

import json

import pytest


def test_a_table_json_and_a_picture(run, tmp_path):
    words = ["search", "--field", "64", "--kernel-sizes", "2", "3"]
    text = run(*words, "--multiply-adds", "500", "2000", "--rate", "8000", "--plot", tmp_path / "plot.png").out
    assert text.count("at most") == 2 and "1..32 x2" in text and (tmp_path / "plot.png").stat().st_size > 5000
    result = json.loads(run(*words, "--parameters", "700", "--schedule", "1,2,9:3", "--json").out)
    assert (result["field"], result["unit"]) == (64, "parameters")
    given = [each for each in result["candidates"] if each["kind"] == "given"]
    assert [(each["schedule"], each["kernel_size"], each["holes"]) for each in given] == [("1,2,9", 3, 4)]
    assert all(each["parameters"] <= 700 for each in result["candidates"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--field", "64"], "--multiply-adds, --parameters or --nanoseconds is missing"),
        (["--multiply-adds", "64"], "--field is missing"),
        (["--field", "64", "--multiply-adds", "nan"], "--multiply-adds is nan"),
        (["--field", "64", "--multiply-adds", "3"], "the smallest candidate, of 1 channel, has 12"),
        (["--field", "64", "--multiply-adds", "5", "--parameters", "5"], "--parameters: not allowed with"),
        (["--field", "64", "--multiply-adds", "500", "--steps", "5"], "--steps is for training runs"),
        (["--field", "64", "--multiply-adds", "500", "--data.root", "x"], "--data.root is unknown"),
        (["--field", "64", "--multiply-adds", "500", "--plot", "a.gif"], "a.gif: expected a file name that ends"),
    ],
)
def test_bad_options(refused, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("search", *words)
    assert not list(tmp_path.iterdir())
