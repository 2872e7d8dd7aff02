"""Training on piano rolls: the files of a run, the best network, exact resuming, errors."""

import csv
import json

import numpy as np
import pytest
import torch

from wavedil.audio import load, save
from wavedil.audio.models.tcn import TCN
from wavedil.audio.piano_rolls import KEYS, evaluate_rolls, make_rolls
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train import MusicModule
from wavedil.train.piano_roll import RollBatches
from wavedil.train.recipes import known_recipes, module_class
from wavedil.train.run import train

TINY = ["--data.root=null", "--model.network.channels=12", "--model.network.dilations=1,2"]
TINY += ["--model.network.dropout=0.1", "--model.warmup_steps=2", "--trainer.max_steps=12", "--trainer.max_time=null"]
TINY += ["--trainer.val_check_interval=3", "--previews.first=3", "--previews.length=10"]
TINY += ["--samples.num=1", "--samples.length=10"]


@pytest.fixture(scope="session")
def full_run(tmp_path_factory):
    return train("jsb", out=str(tmp_path_factory.mktemp("runs") / "full"), overrides=TINY)


def metrics(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_files_of_a_run_folder(full_run):
    names = {path.relative_to(full_run).as_posix() for path in full_run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "metrics.csv", "report.html", "likelihood.json", "model/config.json"}
    expected |= {"samples/sample_000.wav", "previews/step_000003_0.wav", "previews/target_0.png"}
    assert expected <= names
    rows = metrics(full_run)
    assert {3, 6, 9, 12} <= {int(row["step"]) for row in rows} and "frames_per_second" in rows[0]
    page = (full_run / "report.html").read_text()
    assert page.count("<audio") == 4 and "nats per step, held-out data" in page
    left = json.loads((full_run / "likelihood.json").read_text())
    rolls = make_rolls()
    model = load(full_run / "model")
    assert left["test"] == vars(evaluate_rolls(model, rolls.test))
    assert left["valid"]["nll_nats_per_step"] == pytest.approx(float(rows[-1]["valid_nll"]), abs=1e-4)


def test_it_learns(tmp_path):
    """Far better than the frequencies of the keys alone: the next chord follows from the key."""
    rolls = make_rolls()
    shares = torch.from_numpy(np.concatenate(rolls.train).mean(0)).clamp(1e-4, 1 - 1e-4)
    steps = torch.from_numpy(np.concatenate([roll[1:] for roll in rolls.test])).double()
    prior = -(steps * shares.log() + (1 - steps) * (1 - shares).log()).sum(1).mean().item()
    options = ["--trainer.max_steps=120", "--trainer.val_check_interval=60", "--model.network.channels=32"]
    folder = train(
        "jsb", out=str(tmp_path / "run"), overrides=[*TINY, *options, "--model.optimizer.lr=0.02", "--data.transpose=3"]
    )
    test = json.loads((folder / "likelihood.json").read_text())["test"]
    assert test["nll_nats_per_step"] < 0.7 * prior


def test_the_best_network_is_saved(tmp_path, monkeypatch):
    """From step 6 on the loss increases, so the saved network is that of step 6."""
    monkeypatch.setattr(MusicModule, "lr_factor", lambda self: 1.0 if self.trainer.global_step < 6 else -1.0)
    folder = train("jsb", out=str(tmp_path / "run"), overrides=[*TINY, "--model.optimizer.lr=0.02"])
    seen = {int(row["step"]): float(row["valid_nll"]) for row in metrics(folder) if row["valid_nll"] != "nan"}
    assert seen[3] > seen[6] < seen[9] < seen[12]
    left = evaluate_rolls(load(folder / "model"), make_rolls().valid).nll_nats_per_step
    assert left == pytest.approx(seen[6], abs=1e-3)


@pytest.mark.parametrize("at", [2, 8])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, full_run, interrupted_at, at):
    out = str(tmp_path / "run")
    folder = interrupted_at(MusicModule, at, lambda: train("jsb", out=out, overrides=TINY))
    assert train(out=out, resume="auto") == folder
    expected = load(full_run / "model").state_dict()
    for key, value in load(folder / "model").state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_interrupted_in_a_validation_and_resumed_equals_uninterrupted(tmp_path, interrupted_at):
    options = [*TINY, "--model.ema_decay=0.6", "--model.optimizer.lr=0.01"]
    full = train("jsb", out=str(tmp_path / "full"), overrides=options)
    out = str(tmp_path / "run")
    folder = interrupted_at(MusicModule, 6, lambda: train("jsb", out=out, overrides=options), hook="validation_step")
    assert int(metrics(folder)[-1]["step"]) < 6
    assert train(out=out, resume="auto") == folder
    expected = load(full / "model").state_dict()
    for key, value in load(folder / "model").state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert [row["valid_nll"] for row in metrics(folder)][-1] == metrics(full)[-1]["valid_nll"]


def test_the_saved_network_is_the_moving_average_after_a_resume(tmp_path, monkeypatch, interrupted_at):
    steps = []

    def keep(self, outputs, batch, batch_idx):
        steps.append({key: value.clone() for key, value in self.network.state_dict().items()})

    monkeypatch.setattr(MusicModule, "on_train_batch_end", keep)
    # Another rate and one validation, so that the best network is the last average.
    options = [*TINY, "--model.ema_decay=0.6", "--model.optimizer.lr=0.01", "--trainer.val_check_interval=12"]
    out = str(tmp_path / "run")
    folder = interrupted_at(MusicModule, 7, lambda: train("jsb", out=out, overrides=options))
    assert train(out=out, resume="auto") == folder
    assert len(steps) == 12
    expected = steps[0]
    for index, weights in enumerate(steps[1:], 1):
        decay = min(0.6, (1 + index) / (10 + index))
        expected = {key: decay * expected[key] + (1 - decay) * value for key, value in weights.items()}
    left = load(folder / "model")
    left.load_state_dict(expected)
    roll = torch.rand(1, KEYS, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(load(folder / "model")(roll), left(roll))
        left.load_state_dict(steps[-1])
        assert (left(roll) - load(folder / "model")(roll)).abs().max() > 1e-3


def test_each_epoch_has_each_piece_once_in_batches_of_similar_length():
    rolls = [np.eye(1, KEYS, index, dtype=np.uint8).repeat(2 + index % 5, 0) for index in range(50)]
    batches = RollBatches(rolls, batch_size=6, semitones=0, seed=1)
    assert batches.per_epoch == 9
    for epoch in range(2):
        seen = [batch["roll"][:, :, 0].argmax(1) for batch in map(batches.__getitem__, range(9 * epoch, 9 * epoch + 9))]
        assert sorted(torch.cat(seen).tolist()) == list(range(50))
    padding = [1 - float(batches[index]["mask"].float().mean()) for index in range(9)]
    assert sum(padding) / 9 < 0.15
    again = RollBatches(rolls, batch_size=6, semitones=0, seed=1)
    assert torch.equal(again[13]["roll"], batches[13]["roll"])
    other = RollBatches(rolls, batch_size=6, semitones=0, seed=2)
    assert not torch.equal(other[13]["roll"][:, :, 0], batches[13]["roll"][:, :, 0])


def test_fewer_pieces_are_transposed_in_later_batches():
    rolls = [np.eye(1, KEYS, 40, dtype=np.uint8).repeat(9, 0) for _ in range(50)]
    batches = RollBatches(rolls, 50, semitones=6, seed=0, transpose_batches=40)

    def moved(index):
        return float((batches[index]["roll"][:, 40, 0] == 0).float().mean())

    assert moved(0) > 0.7 and 0.3 < np.mean([moved(index) for index in range(15, 25)]) < 0.6
    assert moved(40) == moved(1000) == 0


def test_all_steps_of_a_piece_are_transposed_by_the_same_interval():
    rolls = [roll for roll in make_rolls(12).train]
    batch = RollBatches(rolls, 12, semitones=5, seed=0)[0]
    shifts = set()
    for roll, mask in zip(batch["roll"], batch["mask"], strict=True):
        moved = roll[:, mask].T.numpy().astype(np.uint8)
        found = [
            shift for each in rolls for shift in range(-5, 6)
            if len(each) == len(moved) and np.array_equal(np.roll(each, shift, 1), moved)
        ]  # fmt: skip
        assert found
        shifts.update(found)
    assert min(shifts) < 0 < max(shifts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.root=/nowhere.mat"], "nowhere.mat does not exist"),
        (["--data.batch_size=0"], "batch_size is 0"),
        (["--data.transpose=-1"], "transpose is -1"),
        (["--data.transpose_batches=0"], "transpose_batches is 0"),
        (["--model.ema_decay=1"], "ema_decay is 1"),
        (["--model.network.in_channels=87"], "87"),
        (["--model.network.out_channels=87"], "out_channels of TCN is 87: expected 88"),
        (["--model.network.dropout=1.5"], "dropout is 1.5"),
        (["--previews.seconds=3"], "seconds"),
    ],
)
def test_bad_runs_are_refused_in_one_line(tmp_path, options, message):
    with pytest.raises(WavedilError, match=message) as error:
        train("jsb", out=str(tmp_path / "run"), overrides=[*TINY, *options])
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name, path in known_recipes().items() if module_class(path) is MusicModule])
def test_each_recipe_builds_and_takes_a_step(tmp_path, name):
    limits = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.batch_size=1", "--data.root=null"]
    limits += ["--previews.first=1", "--previews.length=9", "--samples.num=1", "--samples.length=9"]
    folder = train(name, out=str(tmp_path / "run"), overrides=limits)
    assert load(folder / "model").receptive_field > 8


def test_the_shell_evaluates_inspects_and_refuses(tmp_path, full_run, capsys):
    io = pytest.importorskip("scipy.io")
    rolls, path, model = make_rolls(5), str(tmp_path / "x.mat"), str(full_run / "model")
    cells = {}
    for name, pieces in (("traindata", rolls.train), ("validdata", rolls.valid), ("testdata", rolls.test)):
        cells[name] = np.empty((1, len(pieces)), object)
        cells[name][0, :] = pieces if len(pieces) > 1 else [pieces[0]]
    io.savemat(path, cells)
    for options, pieces in (([], rolls.test), (["--held-out"], rolls.valid)):
        assert main(["evaluate", model, path, "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out) == vars(evaluate_rolls(load(model), pieces))
    assert main(["inspect", model]) == 0
    assert "receptive field" in capsys.readouterr().out
    other = str(save(TCN(3, 2, 4, "1"), tmp_path / "other"))
    for arguments, message in (
        (["evaluate", other, path], "in_channels and out_channels are (3, 2)"),
        (["evaluate", model, path, "--exclude", "x"], "--exclude is not an option of a TCN"),
        (["evaluate", model, path, "--tile", "8"], "--tile is not an option of a TCN"),
        (["evaluate", model, str(tmp_path)], "is not a regular file"),
        (["sample", other, "--out", str(tmp_path / "x")], "in_channels and out_channels are (3, 2)"),
    ):
        assert main(arguments) == 2
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1
