import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wavedil.audio.data import audio_files
from wavedil.audio.data.corpus import (
    Corpus,
    Piece,
    RandomCrops,
    WholeFiles,
    check_crop,
    split_files,
)
from wavedil.audio.distributions.quantizers import Linear, MuLaw, mu_law_encode
from wavedil.errors import WavedilError

RATE = 8000


def ramp(length, first=0):
    """Every sample of a corpus different: value v stands for sample number v * 20000."""
    return ((first + np.arange(length)) / 20_000).astype(np.float32)


@pytest.fixture
def corpus(tmp_path):
    """Three files of 9000, 1000 and 300 samples that together count from 0 to 10299."""
    files, first = [], 0
    for number, length in enumerate((9000, 1000, 300)):
        sound = ramp(length, first)
        files.append(audio_files.write(tmp_path / f"{number}.wav", sound, RATE, subtype="FLOAT"))
        first += length
    return Corpus(files, RATE)


def numbers(sound):
    return np.round(sound * 20_000).astype(int)


# ---- the split


def test_every_tenth_sorted_file_validates():
    files = [f"d/{i:02d}.wav" for i in range(25)]
    split = split_files(files[::-1] + files[:3])
    assert [piece.path.name for piece in split.validation] == ["00.wav", "10.wav", "20.wav"]
    assert len(split.train) == 22
    assert not {p.path for p in split.train} & {p.path for p in split.validation}
    assert split == split_files(files)
    assert "22 train, 3 validate" in split.note
    assert len(split_files(files[:2]).train) == 1
    assert len(split_files(files, every=5).validation) == 5


def test_a_single_file_is_split_in_time(tmp_path):
    path = audio_files.write(tmp_path / "a.wav", ramp(1000), RATE, subtype="FLOAT")
    split = split_files([path])
    assert "its first 90% trains and its last 10% validates" in split.note
    train, held_out = Corpus(split.train, RATE), Corpus(split.validation, RATE)
    assert numbers(train.sound(0)).tolist() == list(range(900))
    assert numbers(held_out.sound(0)).tolist() == list(range(900, 1000))


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
def test_split_errors(options, words):
    with pytest.raises(WavedilError, match=words):
        split_files(["a.wav", "b.wav"], **options)
    with pytest.raises(WavedilError, match="files is empty"):
        split_files([])


# ---- the corpus


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


def test_levels(tmp_path):
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


def test_trimming_drops_silent_files_and_says_how_many(tmp_path):
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
    with pytest.raises(WavedilError, match="left none of the 2 files .*1.wav.*above 0.0001") as e:
        Corpus(files[1:3], RATE, trim_db=40)
    assert "set trim_db to null" in str(e.value)


def test_corpus_errors(tmp_path, corpus):
    for files, options, words in [
        ([], {}, "at least one file"),
        (corpus.paths, {"normalize": "loud"}, "expected 'peak', 'rms' or None"),
        (corpus.paths, {"trim_db": -40}, "positive number of dB"),
        ([*corpus.paths, tmp_path / "gone.wav"], {}, "gone.wav: no such file"),
        ([Piece(corpus.paths[0], 0.5, 0.50001)], {}, "0.wav: 9000 samples .* leave nothing"),
    ]:
        with pytest.raises(WavedilError, match=words):
            Corpus(files, RATE, **options)


# ---- crops


def test_crops_are_stretches_of_one_file(corpus):
    crops = RandomCrops(corpus, 500, context=100, size=300)
    whole = [mu_law_encode(torch.from_numpy(corpus.sound(i))) for i in range(3)]
    files = set()
    for index in range(300):
        item, (file, start) = crops[index], crops.place(index)
        files.add(file)
        real = min(500, len(whole[file]) - start)
        assert item["codes"].dtype == torch.int64 and item["mask"].dtype == torch.bool
        assert torch.equal(item["codes"][:real], whole[file][start : start + real])
        assert (item["codes"][real:] == 128).all()
        expected = torch.zeros(500, dtype=torch.bool)
        expected[100 if start else 0 : real] = True
        assert torch.equal(item["mask"], expected) and expected.any()
        assert real == 500 or file == 2
    assert files == {0, 1, 2}


def test_every_sample_of_the_corpus_counts_about_equally_often(corpus):
    crops = RandomCrops(corpus, 300, context=50)
    counted = np.zeros(10_300)
    ends = np.cumsum(corpus.lengths)
    aimed = np.zeros(3)
    for index in range(20_000):
        file, start = crops.place(index)
        aimed[file] += 1
        first = ends[file] - corpus.lengths[file] + start
        counted[first + (50 if start else 0) : min(first + 300, ends[file])] += 1
    assert counted.min() > 0
    # Files in proportion to their lengths, and flat inside a file, away from its edges.
    assert aimed / 20_000 == pytest.approx(corpus.lengths / 10_300, rel=0.1)
    inside = counted[400:8600].reshape(-1, 200).mean(axis=1)
    assert inside.std() / inside.mean() < 0.06


def test_crop_i_depends_on_the_seed_and_i_alone(corpus):
    crops = RandomCrops(corpus, 200, seed=3, size=64)
    batches = list(DataLoader(crops, batch_size=8, shuffle=False))
    assert batches[0]["codes"].shape == batches[0]["mask"].shape == (8, 200)
    with_workers = list(DataLoader(crops, batch_size=8, num_workers=2))
    again = RandomCrops(corpus, 200, seed=3)
    resumed = list(DataLoader(again, batch_size=8, sampler=range(24, 64)))
    for one, two in zip(batches, with_workers, strict=True):
        assert torch.equal(one["codes"], two["codes"])
    for one, two in zip(batches[3:], resumed, strict=True):
        assert torch.equal(one["codes"], two["codes"])
    other = RandomCrops(corpus, 200, seed=4, size=64)
    assert [crops.place(i) for i in range(64)] != [other.place(i) for i in range(64)]
    torch.manual_seed(0)
    np.random.seed(0)
    assert crops.place(5) == again.place(5)
    with pytest.raises(IndexError):
        crops[64]


def test_crop_lengths_are_checked(corpus):
    check_crop(1025, 1024)
    with pytest.raises(WavedilError, match="1024 samples is not longer .* at least 1025, better"):
        check_crop(1024, 1024)
    for length, context in [(100, 100), (0, 0), (10, -1)]:
        with pytest.raises(WavedilError, match="length must exceed context"):
            RandomCrops(corpus, length, context=context)


def test_whole_files_in_order(corpus):
    files = list(DataLoader(WholeFiles(corpus, MuLaw(1024)), batch_size=1))
    assert [item["codes"].shape for item in files] == [(1, 9000), (1, 1000), (1, 300)]
    assert torch.equal(files[1]["codes"][0], mu_law_encode(torch.from_numpy(corpus.sound(1)), num_codes=1024))
    linear = WholeFiles(corpus, Linear(65536))[1]["codes"]
    assert torch.equal(linear, Linear(65536).encode(torch.from_numpy(corpus.sound(1))))
    short = RandomCrops(corpus, 10_000, quantizer=Linear(65536))[0]
    assert (short["codes"][~short["mask"]] == 32768).all()
