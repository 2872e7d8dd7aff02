"""Models of piano rolls in the shell: MIDI and sound."""

import json

import numpy as np
import pytest
import torch

from wavedil.audio import save
from wavedil.audio.data import audio_files
from wavedil.audio.models.tcn import TCN
from wavedil.audio.piano_rolls import make_rolls
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.extras import install_extra


@pytest.fixture
def tcn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return str(save(TCN(88, 88, 8, "1,2", 2), tmp_path / "tcn"))


def test_pieces_are_sound_also_without_mido(tcn, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "mido", None)
    assert main(["sample", tcn, "--steps", "3", "--num", "2", "--out", "clips"]) == 0
    out = capsys.readouterr()
    assert f"MIDI files are not written: mido is not installed: {install_extra('midi')}" in out.err
    assert json.loads(out.out)["files"] == ["clips/clip_000_seed0.wav", "clips/clip_001_seed0.wav"]
    sounds = [audio_files.read(path)[0] for path in json.loads(out.out)["files"]]
    assert sounds[0].shape == (1, 24000) and (sounds[0] != sounds[1]).any()
    assert main(["sample", tcn, "--out", "x.mid"]) == 2 and not (tmp_path / "x.mid").exists()
    assert capsys.readouterr().err == f"error: mido is not installed: {install_extra('midi')}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps 0", "steps is 0: expected 1 to"),
        ("--steps 2 --seconds 1", "set only one of them"),
        ("--seconds nan", "seconds is nan"),
        ("--temperature 0", "temperature is 0.0"),
        ("--with-prime", "prime is not"),
        ("--speaker ann", "--speaker is not an option of a TCN: expected one of --steps"),
        ("--prime nowhere.mat", "nowhere.mat"),
    ],
)
def test_bad_options_of_pieces_are_refused(tcn, tmp_path, capsys, words, message):
    before = sorted(tmp_path.rglob("*"))
    assert main(["sample", tcn, "--out", "clips", *words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


def test_midi_files_are_read_as_they_were_written(tmp_path):
    pytest.importorskip("mido")
    from wavedil.audio.piano_roll_files import read_midi, write_midi

    for index, roll in enumerate(make_rolls(5).train):
        write_midi(tmp_path / f"{index}.mid", roll)
        np.testing.assert_array_equal(read_midi(tmp_path / f"{index}.mid"), roll)
    (tmp_path / "bad.mid").write_bytes(b"MThd")
    write_midi(tmp_path / "silent.mid", np.zeros((4, 88), np.uint8))
    for name, message in (("bad", "cannot be read"), ("silent", "has no notes"), ("missing", "missing.mid")):
        with pytest.raises(WavedilError, match=message):
            read_midi(tmp_path / f"{name}.mid")


def test_a_piece_continues_a_midi_file(tcn, tmp_path, capsys):
    pytest.importorskip("mido")
    from wavedil.audio.piano_roll_files import read_midi, write_midi

    roll = make_rolls(1).train[0]
    write_midi(tmp_path / "start.mid", roll)
    assert main(["sample", tcn, "--prime", "start.mid", "--with-prime", "--steps", "5", "--out", "new.mid"]) == 0
    np.testing.assert_array_equal(read_midi(tmp_path / "new.mid")[:8], roll[:8])
