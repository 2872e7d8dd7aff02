"""``wavedil inspect``."""

import json

import pytest


def test_schedules(run):
    info = json.loads(run("inspect", "1,2,4,8,16", "--ndim", 2, "--kernel-size", 3, "--json").out)
    assert info["receptive_field"] == 63 and info["holes"] == 0
    plain = json.loads(run("inspect", "1 x7", "--kernel-size", 3, "--json").out)
    dilated = json.loads(run("inspect", "1..64", "--kernel-size", 3, "--json").out)
    assert plain["parameters"] == dilated["parameters"]
    assert (plain["receptive_field"], dilated["receptive_field"]) == (15, 255)
    bad = json.loads(run("inspect", "2,2,2", "--kernel-size", 3, "--json").out)
    assert (bad["holes"], bad["hdc_m2"]) == (6, 2)
    text = run("inspect", "1..512", "--rate", 16000).out
    assert "1024" in text and "64" in text and "ms" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("2 4 8", "SCHEDULE is in 3 arguments, 2 4 8: write wavedil inspect 2,4,8"),
        ("1, 2, 5 --ndim 2", "write wavedil inspect 1,2,5"),
        ("1..512 x3", 'write wavedil inspect "1..512 x3"'),
        ("1,2 shapes", "unexpected argument 'shapes'"),
        ("1,2 --kernal-size 3", "--kernal-size is unknown: did you mean --kernel-size?"),
        ("pulck", "did you mean pluck?"),
        ("runs/none", "SCHEDULE|MODEL is 'runs/none': expected a schedule"),
        ("nothing", 'expected a schedule, e.g. "1..512 x3", a model folder, or one of overdrive, pluck'),
        ("1,2,x", "'x' is not an integer"),
    ],
)
def test_a_schedule_in_several_words_and_misspelt_ones(refused, words, message):
    assert message in refused("inspect", *words.split())


def test_models(run, tmp_path, wavenet):
    output = run("inspect", wavenet, "--json", "--plot", tmp_path / "field.png")
    info = json.loads(output.out)
    assert output.err == f"wrote {tmp_path / 'field.png'}\n"
    assert info["dilations"] == [1, 2, 4, 8] and info["receptive_field"] == 16
    assert (tmp_path / "field.png").read_bytes().startswith(b"\x89PNG")
