"""The hold-out rule that audio files, recordings of effects and images share."""

from pathlib import Path

import pytest

from wavedil.errors import WavedilError
from wavedil.splits import describe_split, hold_out

PATHS = [Path(f"root/{name}.wav") for name in ("a_0", "a_1", "b_0", "b_1", "b_1")]  # one input may occur twice


def test_three_ways_to_choose():
    assert hold_out(PATHS)[0] == [True, False, False, False, False]
    assert hold_out(PATHS, every=2)[0] == [True, False, True, False, True]
    assert hold_out(PATHS, "_1$")[0] == [False, True, False, True, True]
    assert hold_out([path.resolve() for path in PATHS[:2]] + PATHS[2:], "_1$")[0] == hold_out(PATHS, "_1$")[0]
    assert hold_out(PATHS, [str(PATHS[2])])[0] == [False, False, True, False, False]
    assert hold_out(PATHS, [])[0] == [False] * 5


def test_description():
    rule = hold_out(PATHS, kind="recordings")[1]
    assert (
        describe_split(rule, 4, 1) == "one of every 10 sorted recordings is held out: 4 for training, 1 for validation"
    )
    for counts in ((0, 3), (3, 0)):
        with pytest.raises(WavedilError, match=f"{counts[0]} images to train on and {counts[1]} to validate on"):
            describe_split(rule, *counts, "images")


def test_bad_arguments_raise():
    for options, message in (
        ({"every": 1}, "every is 1: expected 2 or more"),
        ({"validation": "("}, "is not a regular expression"),
        ({"validation": ["c.wav"], "kind": "images"}, "lists c.wav, which is not among the 5 images"),
    ):
        with pytest.raises(WavedilError, match=message):
            hold_out(PATHS, **options)
