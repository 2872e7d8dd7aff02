"""Truncated back-propagation: batches continue the sounds of the last batch with the state carried over."""

import pytest
import torch

from wavedil.audio import WaveNet, load
from wavedil.errors import WavedilError
from wavedil.train import AudioModule
from wavedil.train.carried_state import CarriedState
from wavedil.train.run import train

LENGTHS = {0: 130, 1: 75}


@pytest.fixture
def network():
    return WaveNet(channels=4, skip_channels=4, dilations="1..32", num_codes=16, sample_rate=4000).eval()


def batch(codes, places, length):
    """Rows of a batch from files: ``places`` has a file and a start per row."""
    rows = [codes[file][start : start + length] for file, start in places]
    masks = [torch.arange(length) < len(row) for row in rows]
    rows = [torch.cat([row, row.new_zeros(length - len(row))]) for row in rows]
    files, starts = torch.tensor(places).T
    return {"codes": torch.stack(rows), "mask": torch.stack(masks), "file": files, "start": starts}


def test_outputs_of_continued_crops_are_those_of_the_complete_file(network):
    codes = {file: torch.randint(16, (length,)) for file, length in LENGTHS.items()}
    expected = {file: network(row[None])[0] for file, row in codes.items()}
    carried, length = CarriedState(), 25  # shorter than the receptive field of 65
    turns = [[(0, 0), (1, 0)], [(0, 25), (1, 25)], [(0, 50), (1, 50)], [(0, 75), (0, 0)], [(0, 100), (0, 25)]]
    for places in turns:
        each = batch(codes, places, length)
        outputs, state = network.step(each["codes"], carried.before(each, network.start))
        carried.store(each, state)
        for output, (file, start) in zip(outputs, places, strict=True):
            there = expected[file][:, start : start + length]
            torch.testing.assert_close(output[:, : there.shape[1]], there)
    assert not any(value.requires_grad for value in carried._last.values())


@pytest.mark.parametrize("places", [[(0, 50), (1, 50)], [(1, 25), (0, 25)]])
def test_rows_that_continue_nothing_start_with_zero_history(network, places):
    codes = {file: torch.randint(16, (length,)) for file, length in LENGTHS.items()}
    carried = CarriedState()
    first = batch(codes, [(0, 0), (1, 0)], 25)
    carried.store(first, network.step(first["codes"], carried.before(first, network.start))[1])
    other = batch(codes, places, 25)
    state = carried.before(other, network.start)
    assert all(torch.equal(value, state[name]) for name, value in network.start(2).items())
    one_row = batch(codes, [(0, 25)], 25)  # another batch size
    assert carried.before(one_row, network.start)["previous"].shape == (1, 1)


def test_the_state_of_an_incomplete_step_is_undone(network):
    codes = {file: torch.randint(16, (length,)) for file, length in LENGTHS.items()}
    carried, batches = CarriedState(), [batch(codes, [(0, start)], 25) for start in (0, 25, 50)]
    for step, each in zip((0, 1, 1), batches, strict=True):  # step 1 has two batches
        carried.start_batch(step)
        carried.store(each, network.step(each["codes"], carried.before(each, network.start))[1])
    carried.undo_step(1)
    assert carried._last["next"].item() == 25
    carried.undo_step(2)
    restored = CarriedState()
    restored.load_state_dict(carried.state_dict(), 0)
    assert restored._last.keys() == carried._last.keys() and restored._last["next"].item() == 25
    restored.load_state_dict(carried.state_dict(), 1)  # a process more than before
    assert restored._last is None


@pytest.mark.parametrize("workers", [0, 1])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, small_recipe, interrupted_at, workers):
    data = {"truncated_bptt": True, "crop": 100, "batch_size": 2, "num_workers": workers}
    model = {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}}
    trainer = {"max_steps": 7, "val_check_interval": 6, "accumulate_grad_batches": 2}
    recipe = small_recipe(model, data, trainer)
    options = ["--model.network.dilations=1..64"]  # a receptive field of 129
    full = train(recipe, out=str(tmp_path / "full"), overrides=options)
    parts = str(tmp_path / "parts")
    interrupted_at(AudioModule, 5, lambda: train(recipe, out=parts, overrides=options))
    train(out=parts, resume="auto")
    expected = load(full / "model").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load(f"{parts}/model").state_dict().items())


def test_the_carried_state_matters(tmp_path, small_recipe, monkeypatch):
    """Guards the test above: without the state, training ends elsewhere."""
    data = {"truncated_bptt": True, "crop": 100, "batch_size": 2}
    model = {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}}
    recipe = small_recipe(model, data, {"max_steps": 5})
    with_state = load(train(recipe, out=str(tmp_path / "with")) / "model").state_dict()
    monkeypatch.setattr(CarriedState, "store", lambda *_: None)
    without = load(train(recipe, out=str(tmp_path / "without")) / "model").state_dict()
    assert any(not torch.equal(with_state[name], without[name]) for name in without)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"full_context": True}, [], "truncated_bptt is true: expected full_context false"),
        ({"balance": "files"}, [], "truncated_bptt is true: expected full_context false and balance null"),
        ({}, ["--model.network.checkpoint_layers=1"], "set checkpoint_layers to 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, small_recipe, data, options, message):
    recipe = small_recipe({}, {"truncated_bptt": True, "crop": 100} | data, {"max_steps": 2})
    with pytest.raises(WavedilError, match=message):
        train(recipe, out=str(tmp_path / "run"), overrides=options)
