"""Lengths of many files, kept between runs, and compact lists of paths."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from wavedil import errors
from wavedil.audio.data import audio_files, headers
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import RandomCrops, balanced_weights
from wavedil.audio.data.headers import PathList, read_headers
from wavedil.errors import WavedilError


@pytest.mark.parametrize("paths", [[], ["a"], ["a/b c.wav", "é.flac", os.fsdecode(b"\xff.wav"), "x" * 200]])
def test_a_compact_list_equals_the_list(paths):
    expected = [Path(path) for path in paths]
    compact = PathList(paths)
    assert list(compact) == expected and len(compact) == len(paths) and compact == expected == compact[:]
    assert compact[1:3] == expected[1:3] and compact[::-1] == expected[::-1]
    assert pickle.loads(pickle.dumps(compact)) == compact and compact != [*expected, Path("z")]
    for index in (len(paths), -len(paths) - 1):
        with pytest.raises(IndexError):
            compact[index]
    assert all(compact[-1 - index] == expected[-1 - index] for index in range(len(paths)))


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(headers, "CACHED_FROM", 3)
    paths = [tmp_path / "sounds" / f"{index}.wav" for index in range(4)]
    for index, path in enumerate(paths):
        audio_files.write(path, np.full(10 + index, 0.1, np.float32), 8000)
    return paths


def test_only_new_and_changed_files_are_read_again(files, monkeypatch):
    read = []
    monkeypatch.setattr(headers, "info", lambda path: read.append(path) or audio_files.info(path))
    progress = []
    frames, rates = read_headers(files, lambda *numbers: progress.append(numbers))
    assert frames.tolist() == [10, 11, 12, 13] and rates.tolist() == [8000] * 4
    assert read == files and progress == [(4, 4)]
    audio_files.write(files[2], np.full(50, 0.1, np.float32), 16000)
    frames, rates = read_headers(files)
    assert frames.tolist() == [10, 11, 50, 13] and rates[2] == 16000 and read[4:] == [files[2]]
    read_headers(files[:2])  # few files: read, not looked up
    assert read[5:] == files[:2]


def test_an_interrupted_scan_continues(files, monkeypatch):
    read = []

    def interrupted(path):
        read.append(path)
        if len(read) == 3:
            raise KeyboardInterrupt
        return audio_files.info(path)

    monkeypatch.setattr(headers, "info", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read_headers(files)
    read_headers(files)
    assert read == [*files[:3], *files[2:]]


@pytest.mark.parametrize("damage", ["text", "folder", "table"])
def test_a_damaged_cache_is_not_used(files, tmp_path, damage, caplog, monkeypatch):
    monkeypatch.setattr(errors, "_unusable", set())
    database = tmp_path / "cache" / "wavedil" / "headers.sqlite"
    database.parent.mkdir(parents=True)
    if damage == "folder":
        database.mkdir()
    elif damage == "text":
        database.write_text("not a database " * 100)
    else:
        import sqlite3

        connection = sqlite3.connect(database)
        connection.execute("CREATE TABLE headers (other TEXT)")
        connection.commit()
        connection.close()
    assert read_headers(files)[0].tolist() == [10, 11, 12, 13]
    assert sum("cache of audio file headers" in record.message for record in caplog.records) == 1


def test_a_user_without_a_home_gets_no_folder_named_tilde(files, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(errors, "_unusable", set())
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it does without HOME and without an account
    monkeypatch.chdir(tmp_path)
    assert read_headers(files)[0].tolist() == [10, 11, 12, 13]
    assert [path.name for path in tmp_path.iterdir()] == ["sounds"]
    assert "cannot be used (this user has no home folder): all headers are read" in caplog.text


def test_missing_and_broken_files_are_refused(files):
    files[1].write_bytes(b"x")
    with pytest.raises(WavedilError, match="1.wav"):
        read_headers(files)
    files[1].unlink()
    with pytest.raises(WavedilError, match="1.wav: no such file"):
        read_headers(files)


def test_files_are_drawn_by_their_weights(tmp_path):
    for index, length in enumerate((1000, 3000, 500, 500)):
        audio_files.write(tmp_path / f"{index}.wav", np.full(length, 0.1, np.float32), 8000)
    corpus = Corpus(sorted(tmp_path.glob("*.wav")), 8000)

    def shares(weights):
        crops = RandomCrops(corpus, 100, weights=weights)
        places = [crops.place(index) for index in range(3000)]
        assert all(0 <= start <= corpus.lengths[file] - 100 for file, start in places)
        assert places[:50] == [RandomCrops(corpus, 100, weights=weights).place(index) for index in range(50)]
        return np.bincount([file for file, _ in places], minlength=4) / 3000

    np.testing.assert_allclose(shares(None), [0.2, 0.6, 0.1, 0.1], atol=0.03)
    np.testing.assert_allclose(shares(np.ones(4)), [0.25] * 4, atol=0.03)
    weights = balanced_weights(corpus.lengths, [0, 0, 1, 1])
    np.testing.assert_allclose(shares(weights), [0.125, 0.375, 0.25, 0.25], atol=0.03)
