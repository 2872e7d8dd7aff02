"""Recordings at one rate: memory and disk, levels, silence, errors."""

import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.split import Piece
from wavedil.errors import WavedilError

RATE = 8000


def test_corpus_in_memory_and_on_disk_agree(tmp_path):
    generator = np.random.default_rng(0)
    files = []
    for number, rate in enumerate((8000, 16000, 44100)):
        sound = np.zeros((2, 2 * rate), np.float32)
        sound[:, rate // 4 : rate] = generator.uniform(-0.5, 0.5, (2, rate - rate // 4))
        files.append(audio_files.write(tmp_path / f"{number}.flac", sound, rate))
    for options in ({}, {"normalize": "peak"}, {"trim_db": 40.0, "normalize": "rms"}):
        memory = Corpus(files, 16000, **options)
        disk = Corpus(files, 16000, **options, preload_bytes=0)
        assert memory.preloaded and not disk.preloaded
        assert "in memory" in str(memory) and "read from disk" in str(disk)
        np.testing.assert_array_equal(memory.lengths, disk.lengths)
        assert memory.seconds == disk.seconds == memory.lengths.sum() / 16000
        for file in range(3):
            for start, frames in [(0, None), (5000, 1000), (int(memory.lengths[file]) - 5, 100)]:
                one, two = (c.sound(file, start, frames) for c in (memory, disk))
                assert one.dtype == two.dtype == np.float32
                np.testing.assert_allclose(one, two, atol=5e-6)
    assert Corpus(files, 16000).seconds == pytest.approx(6, abs=1e-3)
    # Sound from 0.25 s to 1 s, and at most two frames of 10 ms to spare on either side.
    assert Corpus(files, 16000, trim_db=40).lengths == pytest.approx([12_000 + 320] * 3, abs=330)


def test_normalization(tmp_path):
    wave = np.sin(np.arange(4000) * 0.3)
    spiky = wave * 0.01
    spiky[7] = 0.5
    files = [
        audio_files.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
        for name, sound in {"a": wave * 0.5, "b": wave * 0.005, "c": spiky, "d": 0 * wave}.items()
    ]
    as_is = Corpus(files, RATE)
    assert [np.abs(as_is.sound(i)).max() for i in range(4)] == pytest.approx([0.5, 0.005, 0.5, 0], rel=1e-3)
    peak = Corpus(files, RATE, normalize="peak")
    assert [np.abs(peak.sound(i)).max() for i in range(4)] == pytest.approx([0.9] * 3 + [0])
    rms = Corpus(files, RATE, normalize="rms")
    levels = [np.sqrt(np.square(rms.sound(i)).mean()) for i in range(4)]
    assert levels[:2] == pytest.approx([0.1, 0.1], rel=1e-4)
    assert np.abs(rms.sound(2)).max() <= 1.0 + 1e-6 and levels[2] < 0.1
    assert levels[3] == 0


def test_trimming_removes_and_counts_silent_files(tmp_path):
    sound = np.zeros(8000, np.float32)
    sound[3000:4000] = 0.005 * np.sin(np.arange(1000))  # quiet, but the loudest there is
    files = [
        audio_files.write(tmp_path / f"{i}.wav", value, RATE)
        for i, value in enumerate([sound, 0 * sound, sound * 0 + 2**-15, sound])
    ]
    corpus = Corpus(files, RATE, trim_db=40)
    assert corpus.paths == [files[0], files[3]] and corpus.dropped == files[1:3]
    assert "2 files" in str(corpus) and "2 silent files dropped" in str(corpus)
    # Whole frames of 80 samples around 3000..4000, and one more on each side.
    assert corpus.lengths.tolist() == [4080 - 2880] * 2
    assert corpus.sound(0)[3000 - 2880 + 1] == pytest.approx(0.005 * np.sin(1), abs=1e-4)
    assert len(Corpus(files, RATE)) == 4  # without trimming nothing is dropped
    with pytest.raises(WavedilError, match="trim_db is 40, which removes all 2 files .*1.wav.*above 0.0001") as e:
        Corpus(files[1:3], RATE, trim_db=40)
    assert "set trim_db to null" in str(e.value)


def test_bad_arguments_raise(tmp_path, corpus):
    for files, options, words in [
        ([], {}, "expected at least one file"),
        (corpus.paths, {"normalize": "loud"}, "expected 'peak', 'rms' or None"),
        (corpus.paths, {"trim_db": -40}, "positive number of dB"),
        ([*corpus.paths, tmp_path / "gone.wav"], {}, "gone.wav: no such file"),
        ([Piece(corpus.paths[0], 0.5, 0.50001)], {}, "0.wav has 9000 samples .* too short to use"),
    ]:
        with pytest.raises(WavedilError, match=words):
            Corpus(files, RATE, **options)
