"""Speaker names from folders, a table and file names."""

import pytest

from wavedil.audio.conditioning.speakers import speakers_of
from wavedil.errors import WavedilError


def test_three_sources(tmp_path):
    paths = [tmp_path / "ann" / "7_theo_3.wav", tmp_path / "bob" / "deep" / "1_jack_0.flac"]
    table = tmp_path / "who.csv"
    table.write_text("\ufeffspeaker,file\nx,ann/7_theo_3.wav\ny,bob/deep/1_jack_0.flac\n")
    known = ["ann", "bob", "theo", "jack", "x", "y"]
    assert speakers_of(paths, tmp_path, "folders", known) == ["ann", "bob"]
    assert speakers_of(paths, tmp_path, str(table), known) == ["x", "y"]
    assert speakers_of(paths, tmp_path, "_([a-z]+)_", known) == ["theo", "jack"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folders", "is directly in .*: expected one folder"),
        ("gone.csv", "gone.csv: cannot be read as a table"),
        ("[", "not a regular expression"),
        ("_x_", "has 0 groups: expected one"),
        ("-([a-z]+)-", "finds no speaker in 7_theo_3"),
        ("_([a-z])", "speaker 't' is unknown: this model knows ann"),
        (None, "speakers is not set, but the model has the speakers ann"),
    ],
)
def test_bad_sources_raise(tmp_path, source, message):
    with pytest.raises(WavedilError, match=message):
        speakers_of([tmp_path / "7_theo_3.wav"], tmp_path, source, ["ann"])


def test_bad_tables_raise(tmp_path):
    table, path = tmp_path / "who.csv", tmp_path / "a.wav"
    for text, message in (("name,who\na.wav,ann\n", "columns file and speaker"), ("file,speaker\nb,x\n", "add a row")):
        table.write_text(text)
        with pytest.raises(WavedilError, match=message):
            speakers_of([path], tmp_path, str(table), ["ann"])
