"""Messages of errors are one printable line, whatever is in the names of files."""

import pytest

from wavedil.audio.data.audio_files import read
from wavedil.errors import WavedilError, count_text, one_of, printable, similar, with_article


def test_control_characters_and_bytes_that_are_not_text_are_escaped(tmp_path):
    assert printable("é 漢 😀 'x'") == "é 漢 😀 'x'"
    assert printable("a\nb\x1b[31m\udcff\u202e") == r"a\nb\x1b[31m\udcff\u202e"
    with pytest.raises(WavedilError, match=r"a\\nb\\udcff.wav: no such file") as caught:
        read(tmp_path / "a\nb\udcff.wav")
    assert str(caught.value).isprintable() and caught.value.args == (str(caught.value),)


def test_unknown_names_are_answered_with_a_similar_one():
    assert one_of("graph", ["auto", "torch", "graphs"]) == "one of auto, torch, graphs; did you mean graphs?"
    assert one_of("Theoo", ["theo", "ann"], some=True) == "some of theo, ann; did you mean theo?"
    assert one_of("x", [1, 2]) == "one of 1, 2" and one_of("x", []) == "none"
    assert similar("max_stepz", ["max_time", "max_steps"]) == "max_steps" and similar(3, ["max_steps"]) is None


def test_counted_nouns_have_their_plural():
    assert [count_text(count, "class") for count in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
    assert [count_text(1, "axis"), count_text(3, "axis"), count_text(2, "entry")] == ["1 axis", "3 axes", "2 entries"]


def test_class_names_have_articles():
    class Effect: ...

    class WaveNet: ...

    assert (with_article(Effect), with_article(WaveNet())) == ("an Effect", "a WaveNet")
