"""Split of audio files into training and validation."""

import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.split import split_files
from wavedil.errors import WavedilError


def test_every_tenth_sorted_file_validates():
    files = [f"d/{i:02d}.wav" for i in range(25)]
    split = split_files(files[::-1] + files[:3])
    assert [piece.path.name for piece in split.validation] == ["00.wav", "10.wav", "20.wav"]
    assert len(split.train) == 22
    assert not {p.path for p in split.train} & {p.path for p in split.validation}
    assert split == split_files(files)
    assert "22 for training, 3 for validation" in split.note
    assert len(split_files(files[:2]).train) == 1
    assert len(split_files(files, every=5).validation) == 5


def test_a_single_file_is_split_in_time(tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 1000).astype(np.float32)
    path = audio_files.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    split = split_files([path])
    assert "its first 90% is for training, its last 10% for validation" in split.note
    train, held_out = Corpus(split.train, 8000), Corpus(split.validation, 8000)
    np.testing.assert_array_equal(train.sound(0), sound[:900])
    np.testing.assert_array_equal(held_out.sound(0), sound[900:])


def test_split_by_pattern_and_by_list():
    files = [f"root_3/{speaker}/{d}_{i}.wav" for speaker in "ab" for d in (0, 7) for i in range(8)]
    split = split_files(files, validation=r"_[0-4]$")
    assert len(split.validation) == 20 and len(split.train) == 12
    split = split_files(files, validation=r"^a/", exclude=r"7_\d$")
    assert {p.path.parent.name for p in split.validation} == {"a"}
    assert len(split.train) == len(split.validation) == 8
    split = split_files(files, validation=files[:2])
    assert [p.path.as_posix() for p in split.validation] == files[:2] and len(split.train) == 30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 1}, "every is 1: expected 2 or more"),
        ({"validation": "nothing"}, "2 files to train on and 0 to validate on"),
        ({"validation": "."}, "0 files to train on and 2 to validate on"),
        ({"exclude": "."}, "matches all 2 files"),
        ({"validation": "("}, r"validation='\(' is not a regular expression"),
        ({"validation": ["c.wav"]}, "validation lists c.wav, which is not among the 2 files"),
    ],
)
def test_bad_arguments_raise(options, words):
    with pytest.raises(WavedilError, match=words):
        split_files(["a.wav", "b.wav"], **options)
    with pytest.raises(WavedilError, match="files is empty"):
        split_files([])
