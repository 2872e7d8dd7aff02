"""The base data module: the order of training items."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.train import TrainingData
from wavedil.train.data import evenly_spaced


def test_processes_divide_the_items_and_skip_those_of_earlier_steps():
    taken = []
    for rank in range(3):
        data = TrainingData(batch_size=2)
        data.trainer = SimpleNamespace(global_step=5, accumulate_grad_batches=2, world_size=3, global_rank=rank)
        loader = data.endless_loader(torch.arange(10**6))
        taken += [int(item) for batch in islice(loader, 4) for item in batch]
    assert sorted(taken) == list(range(60, 84))  # earlier: 5 steps of 2 batches of 2 items in 3 processes


def test_batches_of_the_data_set_are_counted_as_items():
    data = TrainingData(batch_size=8)
    data.trainer = SimpleNamespace(global_step=5, accumulate_grad_batches=1, world_size=1, global_rank=0)
    assert next(iter(data.endless_loader(torch.arange(100), batch_size=None))) == 5


def test_evenly_spaced():
    assert evenly_spaced(101, 4) == [0, 25, 50, 75] and evenly_spaced(101, 500) == list(range(101))


def test_an_empty_batch_is_refused():
    with pytest.raises(WavedilError, match="batch_size is 0"):
        TrainingData(batch_size=0)
