"""Random crops and complete files of a corpus."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wavedil.audio.data.crops import RandomCrops, WholeFiles, check_crop
from wavedil.audio.distributions.quantizers import Linear, MuLaw, mu_law_encode
from wavedil.errors import WavedilError


def test_crops_are_consecutive_samples_of_one_file(corpus):
    crops = RandomCrops(corpus, 500, context=100, size=300)
    codes = [mu_law_encode(torch.from_numpy(corpus.sound(i))) for i in range(3)]
    files = set()
    for index in range(300):
        item, (file, start) = crops[index], crops.place(index)
        files.add(file)
        real = min(500, len(codes[file]) - start)
        assert item["codes"].dtype == torch.int64 and item["mask"].dtype == torch.bool
        assert torch.equal(item["codes"][:real], codes[file][start : start + real])
        assert (item["codes"][real:] == 128).all()
        expected = torch.zeros(500, dtype=torch.bool)
        expected[100 if start else 0 : real] = True
        assert torch.equal(item["mask"], expected) and expected.any()
        assert real == 500 or file == 2
    assert files == {0, 1, 2}


def test_samples_of_the_corpus_count_about_equally_often(corpus):
    crops = RandomCrops(corpus, 300, context=50)
    counted = np.zeros(10_300)
    ends = np.cumsum(corpus.lengths)
    crops_per_file = np.zeros(3)
    for index in range(20_000):
        file, start = crops.place(index)
        crops_per_file[file] += 1
        first = ends[file] - corpus.lengths[file] + start
        counted[first + (50 if start else 0) : min(first + 300, ends[file])] += 1
    assert counted.min() > 0
    # Files in proportion to their lengths, and flat inside a file, away from its edges.
    assert crops_per_file / 20_000 == pytest.approx(corpus.lengths / 10_300, rel=0.1)
    inside = counted[400:8600].reshape(-1, 200).mean(axis=1)
    assert inside.std() / inside.mean() < 0.06


def test_crop_i_depends_only_on_the_seed_and_i(corpus):
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
    with pytest.raises(WavedilError, match="crop is 1024 samples: expected more than .* at least 1025, better"):
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
