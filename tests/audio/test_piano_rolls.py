"""Piano rolls: files, transposition, sampling, and a likelihood computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from wavedil.audio.models.tcn import TCN
from wavedil.audio.piano_rolls import (
    KEYS,
    collate,
    evaluate_rolls,
    make_rolls,
    play,
    read_rolls,
    roll_nll,
    sample_rolls,
    transpose,
)
from wavedil.errors import WavedilError

ROLL = np.zeros((4, KEYS))


def write_mat(path, **parts):
    io = pytest.importorskip("scipy.io")
    cells = {}
    for name, rolls in parts.items():
        cells[name] = np.empty((1, len(rolls)), object)
        for index, roll in enumerate(rolls):
            cells[name][0, index] = roll
    io.savemat(path, cells)
    return path


def three_parts(rolls):
    return {"traindata": rolls.train, "validdata": rolls.valid, "testdata": rolls.test}


def test_reading_a_file(tmp_path):
    rolls = make_rolls(5)
    again = read_rolls(write_mat(tmp_path / "x.mat", **three_parts(rolls)))
    for name in ("train", "valid", "test"):
        for ours, read in zip(getattr(rolls, name), getattr(again, name), strict=True):
            assert read.dtype == np.uint8 and np.array_equal(ours, read)
    assert str(again).startswith("train 5 pieces of ")


def test_built_in_pieces_are_deterministic_and_differ():
    first, second = make_rolls(10), make_rolls(10)
    assert all(np.array_equal(a, b) for a, b in zip(first.train, second.train, strict=True))
    assert (len(first.train), len(first.valid)) == (10, 2)
    assert not any(np.array_equal(a, b) for a in first.train for b in (*first.valid, *first.test))
    assert all(roll.shape[1] == KEYS and 24 <= len(roll) <= 48 for roll in first.train)
    assert {int(n) for roll in first.train for n in roll.sum(1)} <= {3, 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no matlab", "cannot be read as a MATLAB file"),
        (b"", "cannot be read as a MATLAB file"),
        ({"traindata": [np.zeros((4, 88))]}, "has no pieces in validdata, testdata"),
        ({"traindata": [np.zeros((4, 87))], "validdata": [ROLL], "testdata": [ROLL]}, r"shape \(4, 87\)"),
        ({"traindata": [np.zeros((1, 88))], "validdata": [ROLL], "testdata": [ROLL]}, "time >= 2"),
        ({"traindata": [np.full((4, 88), 2)], "validdata": [ROLL], "testdata": [ROLL]}, "values other than 0 and 1"),
        ({"traindata": [], "validdata": [], "testdata": []}, "has no pieces in traindata, validdata, testdata"),
    ],
)
def test_bad_files_raise(tmp_path, content, message):
    path = tmp_path / "x.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_mat(path, **content)
    with pytest.raises(WavedilError, match=message):
        read_rolls(path)


def test_truncated_files_raise(tmp_path):
    path = write_mat(tmp_path / "x.mat", **three_parts(make_rolls(5)))
    data = path.read_bytes()
    for length in (60, 130, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:length])
        with pytest.raises(WavedilError, match="x.mat"):
            read_rolls(path)
    with pytest.raises(WavedilError, match="y.mat does not exist"):
        read_rolls(tmp_path / "y.mat")


def test_transposition_keeps_intervals_and_stays_on_the_keyboard():
    roll = np.zeros((3, KEYS), np.uint8)
    roll[[0, 1, 2], [2, 40, 85]] = 1
    assert np.argwhere(transpose(roll, 1)).tolist() == [[0, 3], [1, 41], [2, 86]]
    assert np.argwhere(transpose(roll, 9)).tolist() == [[0, 4], [1, 42], [2, 87]]
    assert np.argwhere(transpose(roll, -9)).tolist() == [[0, 0], [1, 38], [2, 83]]
    assert not transpose(np.zeros((3, KEYS), np.uint8), 5).any()


class QuarterOrKeep(nn.Module):
    """Predicts each key with probability 1/4, except key 0, which keeps its last state."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        logits = torch.full_like(x, -math.log(3))
        logits[:, 0] = 100 * (2 * x[:, 0] - 1)
        return logits


def test_likelihood_by_hand():
    """87 keys are on with probability 1/4; key 0 is predicted wrong once (100 nats); padding does not count."""
    rolls = [np.zeros((5, KEYS), np.uint8), np.zeros((3, KEYS), np.uint8)]
    rolls[0][:, 0] = 1
    rolls[1][1:, 1:3] = 1
    rolls[1][2, 0] = 1
    off, on = -math.log(0.75), -math.log(0.25)
    expected = 4 * 87 * off + 2 * (85 * off + 2 * on) + 100
    batch = collate(rolls)
    assert batch["roll"].shape == (2, 88, 5) and batch["mask"].sum() == 8
    nats, steps = roll_nll(QuarterOrKeep(), **batch)
    assert steps == 6 and nats.item() == pytest.approx(expected, rel=1e-6)
    result = evaluate_rolls(QuarterOrKeep(), rolls)
    assert result.nll_nats_per_step == pytest.approx(expected / 6, rel=1e-6)
    assert (result.count, result.pieces) == (6, 2)


def test_padding_does_not_change_the_likelihood():
    model = TCN(KEYS, KEYS, 4, "1,2", 2).eval()
    rolls = [roll[: 10 + 7 * index] for index, roll in enumerate(make_rolls(4).train[:3])]
    nats, steps = roll_nll(model, **collate(rolls))
    result = evaluate_rolls(model, rolls)
    assert result.count == steps and nats.item() / int(steps) == pytest.approx(result.nll_nats_per_step, rel=1e-5)


def test_samples_depend_only_on_seed_and_index():
    model = TCN(KEYS, KEYS, 4, "1,2", 2).eval()
    start = collate(make_rolls(3).train[:3])["roll"][..., :8]
    three = sample_rolls(model, start, 9, seed=3)
    assert three.shape == (3, KEYS, 9) and set(three.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(sample_rolls(model, start[:1], 9, seed=3), three[:1], rtol=0, atol=0)
    assert not torch.equal(sample_rolls(model, start, 9, seed=4), three)


def test_samples_follow_the_models_probabilities():
    """A model that turns on the key above each sounding key: the chord rises by a semitone each step."""

    class Climb(nn.Module):
        def step(self, x, state):
            return 200 * x.roll(1, 1) - 100, state

    start = torch.zeros(1, KEYS, 2)
    start[0, [3, 7], 1] = 1
    sampled = sample_rolls(Climb(), start, 4)
    assert [sampled[0, :, t].nonzero().ravel().tolist() for t in range(4)] == [[4, 8], [5, 9], [6, 10], [7, 11]]


def test_rendering_as_sound():
    roll = np.zeros((4, KEYS), np.uint8)
    roll[1:3, 48] = 1  # A4, 440 Hz
    sound = play(roll, 32000)
    assert sound.dtype == np.float32 and len(sound) == 32000
    assert not sound[:8000].any() and not sound[24000:].any() and np.abs(sound).max() < 0.3
    spectrum = np.abs(np.fft.rfft(sound[8000:24000]))
    assert spectrum.argmax() * 2 == pytest.approx(440, abs=3)
