"""The cache of decoded images and volumes."""

import numpy as np
import pytest
import torch

from wavedil.vision.data import pair_dataset
from wavedil.vision.data.pair_dataset import PairDataset


class Counted(PairDataset):
    """Items of 8 bytes; counts how often each is decoded."""

    def __init__(self):
        super().__init__([0, 1, 2])
        self.decoded = []

    def load(self, index):
        self.decoded.append(index)
        return np.full(4, index, np.uint8), np.zeros(4, np.uint8)

    def item(self, image, truth):
        return {"image": torch.from_numpy(image)}


def test_items_are_decoded_once_as_long_as_they_fit(monkeypatch):
    monkeypatch.setattr(pair_dataset, "CACHE_BYTES", 16)
    items = Counted()
    items.read(2, cache=False)
    assert [int(items[index]["image"][0]) for index in (0, 1, 2, 0, 1, 2)] == [0, 1, 2, 0, 1, 2]
    assert items.decoded == [2, 0, 1, 2, 2] and len(items) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"item {index} of 3"):
            items[index]
