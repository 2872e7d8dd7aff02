"""Crops that continue each other."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from wavedil.audio.data.continued_crops import ContinuedCrops
from wavedil.audio.distributions.quantizers import mu_law_encode
from wavedil.errors import WavedilError


@pytest.mark.parametrize(("length", "lanes"), [(500, 1), (333, 3), (128, 7)])
def test_each_crop_of_each_file_occurs_once_per_round_and_in_order(corpus, length, lanes):
    crops = ContinuedCrops(corpus, length, lanes=lanes, seed=5)
    all_crops = {(file, start) for file in range(3) for start in range(0, corpus.lengths[file], length)}
    turns = -(-len(all_crops) // lanes)
    rounds = [[crops.place(index) for index in range(n * turns * lanes, (n + 1) * turns * lanes)] for n in range(3)]
    for places in rounds:
        counts = Counter(places)
        assert counts.keys() == all_crops and sum(counts.values()) - len(all_crops) < lanes
        for lane in range(lanes):
            row = places[lane::lanes]
            for (file, start), (next_file, next_start) in zip(row, row[1:], strict=False):
                ended = start + length >= corpus.lengths[file]
                assert next_start == 0 if ended else (next_file, next_start) == (file, start + length)
    assert rounds[0] != rounds[1]


def test_items_have_the_codes_of_their_place_and_count_all_samples(corpus):
    crops = ContinuedCrops(corpus, 500, lanes=2, size=60)
    codes = [mu_law_encode(torch.from_numpy(corpus.sound(i))) for i in range(3)]
    for index in range(60):
        item = crops[index]
        file, start = item["file"].item(), item["start"].item()
        assert (file, start) == crops.place(index)
        expected = codes[file][start : start + 500]
        assert torch.equal(item["codes"][: len(expected)], expected)
        assert torch.equal(item["mask"], torch.arange(500) < len(expected))
    batches = [list(DataLoader(crops, batch_size=4, num_workers=workers)) for workers in (0, 2)]
    for one, two in zip(*batches, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_file_that_cannot_be_read_is_replaced_by_the_start_of_another(corpus, monkeypatch):
    crops = ContinuedCrops(corpus, 500, lanes=2, max_skipped=1)
    read = corpus.sound

    def sound(file, start=0, length=None):
        if file == 0:
            raise WavedilError("broken")
        return read(file, start, length)

    monkeypatch.setattr(corpus, "sound", sound)
    items = [crops[index] for index in range(40)]
    assert {int(item["file"]) for item in items} == {1, 2} and len(crops.skipped) == 1
    replaced = [item for index, item in enumerate(items) if crops.place(index)[0] == 0]
    assert replaced and all(item["start"] == 0 for item in replaced)


def test_the_length_is_a_multiple_of_the_hop_length(corpus):
    class Features:
        hop_length = 64

    assert ContinuedCrops(corpus, 640, lanes=2, features=Features()).place(3)[1] % 64 == 0
    with pytest.raises(WavedilError, match="crop is 500 samples: expected a multiple of the hop length 64"):
        ContinuedCrops(corpus, 500, lanes=2, features=Features())


def test_a_million_files_take_one_order(corpus):
    lengths = np.random.default_rng(0).integers(1, 10**6, 10**6)
    corpus.lengths = lengths
    corpus.paths = range(len(lengths))
    crops = ContinuedCrops(corpus, 1000, lanes=64)
    files = {crops.place(index)[0] for index in range(640)}
    assert 60 < len(files) < 640
