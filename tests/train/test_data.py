"""The base data module: the order of training items."""

from itertools import islice
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.fingerprints import compared
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


@pytest.mark.parametrize("batch_size", [2, None])
def test_a_run_continues_with_the_next_item_in_any_number_of_processes(batch_size):
    """With other batch sizes and accumulation, also when it is resumed twice; None: the data set has batches."""

    def data(step, processes, accumulate, size, state=None, rank=0):
        data = TrainingData(batch_size=size)
        data.trainer = SimpleNamespace(
            global_step=step, accumulate_grad_batches=accumulate, world_size=processes, global_rank=rank
        )
        if state is not None:
            data.load_state_dict(state)
        loader = data.endless_loader(torch.arange(10**6), **({} if batch_size else {"batch_size": None}))
        return data, iter(loader.sampler)

    first, _ = data(5, processes=3, accumulate=2, size=2)
    state = first.state_dict()
    second, indices = data(5, processes=1, accumulate=1, size=4, state=state)
    assert next(indices) == (60 if batch_size else 60 // 4)
    second.trainer.global_step = 8
    _, indices = data(8, processes=2, accumulate=5, size=6, state=second.state_dict(), rank=1)
    assert list(islice(indices, 3)) == ([73, 75, 77] if batch_size else [13, 15, 17])


def test_a_new_training_with_the_same_data_starts_with_the_first_item():
    data = TrainingData(batch_size=2)
    data.load_state_dict({"items_used": 99, "step": 7})
    data.trainer = SimpleNamespace(global_step=0, accumulate_grad_batches=1, world_size=1, global_rank=0)
    data.setup("fit")
    assert next(iter(data.endless_loader(torch.arange(100)).sampler)) == 0


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_epochs_of_limited_length_have_different_items(tmp_path):
    seen = []

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch, batch_idx):
            seen.extend(batch.tolist())
            return self.weight.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    class Data(TrainingData):
        def train_dataloader(self):
            return self.endless_loader(torch.arange(1000))

    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"default_root_dir": tmp_path, "limit_train_batches": 3, "max_epochs": 4}
    L.Trainer(**options).fit(Module(), Data(batch_size=2))
    assert seen == list(range(24))


def test_batches_of_the_data_set_are_counted_as_items():
    data = TrainingData(batch_size=8)
    data.trainer = SimpleNamespace(global_step=5, accumulate_grad_batches=1, world_size=1, global_rank=0)
    assert next(iter(data.endless_loader(torch.arange(100), batch_size=None))) == 5


def test_evenly_spaced():
    assert evenly_spaced(101, 4) == [0, 25, 50, 75] and evenly_spaced(101, 500) == list(range(101))


def test_an_empty_batch_is_refused():
    with pytest.raises(WavedilError, match="batch_size is 0"):
        TrainingData(batch_size=0)


@pytest.mark.parametrize(
    ("before", "logged"),
    [
        ("4 files\n3 classes", ""),
        (None, ""),  # a checkpoint of an older version
        ("5 files\n3 classes", "the data are not those of the checkpoint: 4 files; before: 5 files"),
    ],
)
def test_a_resumed_run_says_that_its_data_have_changed(caplog, before, logged):
    class Data(TrainingData):
        def read_data(self):
            return "4 files\n3 classes"

    data = Data(2)
    data.trainer = SimpleNamespace(global_step=0, is_global_zero=True, accumulate_grad_batches=1, world_size=1)
    data.setup("fit")
    state = data.state_dict()
    assert state["summary"] == "4 files\n3 classes"
    state |= {"summary": before}
    if before is None:
        del state["summary"]
    data.load_state_dict(state)
    assert caplog.messages == ([logged] if logged else [])


def test_a_resumed_run_says_that_files_have_other_content(tmp_path, caplog, monkeypatch):
    paths = [tmp_path / f"{index}.bin" for index in range(5)]
    for index, path in enumerate(paths):
        path.write_bytes(bytes([index]) * 5000)

    def data():
        data = TrainingData(2)
        monkeypatch.setattr(data, "data_files", lambda: [paths[:2], paths[2:]])
        data.trainer = SimpleNamespace(global_step=0, is_global_zero=True, accumulate_grad_batches=1, world_size=1)
        data.setup("fit")
        return data

    state = data().state_dict()
    data().load_state_dict(state)
    data().load_state_dict(state | {"packed": True, "fingerprints": [0] * 5})  # packed sound has other bytes
    assert not caplog.messages
    paths[1].write_bytes(b"\1" * 4999 + b"\2")
    paths[4].write_bytes(b"\4" * 5001)
    data().load_state_dict(state)
    assert caplog.messages == [
        f"the data are not those of the checkpoint: 2 of 5 files that were compared have other content, e.g. {paths[1]}"
    ]


def test_few_of_many_files_are_compared():
    class Paths:
        taken = 0

        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            self.taken += 1
            return index

    paths = Paths()
    assert compared(paths)[:2] == [0, 1000] and paths.taken == 1000 and compared([]) == []
