"""Precomputed features: crops start at frames, and files that do not match raise errors with their path."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wavedil.audio import Features, NearestUpsampling, generate, load
from wavedil.audio.data.audio_files import write
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import RandomCrops, WholeFiles
from wavedil.audio.data.feature_files import FeatureFiles
from wavedil.audio.evaluation import evaluate
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.train.run import train

HOP, CHANNELS = 10, 3


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Sounds with a random level every HOP samples, which equals the tanh of the first feature."""
    folder = tmp_path_factory.mktemp("recordings")
    for index, length in enumerate((1207, 900, 55)):
        draw = np.random.default_rng(index)
        features = draw.normal(size=(CHANNELS, -(-length // HOP))).astype(np.float32)
        sound = np.repeat(np.tanh(features[0]), HOP)[:length] * 0.5
        write(folder / f"{index}.wav", torch.from_numpy(sound).float().unsqueeze(0), 8000)
        np.save(folder / f"{index}.npy", features)
    return folder


def corpus_of(folder, **options):
    return Corpus([folder / f"{index}.wav" for index in range(3)], 8000, **options)


def net():
    torch.manual_seed(0)
    return NearestUpsampling(Features(CHANNELS, HOP))


def test_crops_have_the_features_of_their_samples(recordings):
    corpus, local = corpus_of(recordings), net()
    files = FeatureFiles(corpus, local)
    crops = RandomCrops(corpus, 80, features=files, seed=3)
    for index in range(30):
        file, start = crops.place(index)
        assert start % HOP == 0
        whole = np.load(recordings / f"{file}.npy")
        numbers = np.arange(start // HOP - local.reach, start // HOP + 8 + local.reach)
        expected = whole[:, numbers.clip(0, whole.shape[1] - 1)]
        np.testing.assert_array_equal(crops[index]["features"], expected)
    item = WholeFiles(corpus, features=files)[1]
    assert item["features"].shape == (CHANNELS, 90) and len(item["codes"]) == 900
    first = files.first(2, 70)
    assert first.shape == (CHANNELS, 7) and torch.equal(first[:, 6], first[:, 5])  # the file has 6 frames


def test_training_and_evaluation_with_feature_files(tmp_path, recordings, capsys):
    """The features determine the next sample, so they must lower the bits per sample."""
    options = [f"--data.root={recordings}", "--data.crop=200", "--data.batch_size=4", "--data.valid_seconds=1"]
    options += ["--model.network.channels=16", "--model.network.skip_channels=16", "--model.network.dilations=1,2"]
    options += ["--model.network.sample_rate=8000", "--model.network.num_codes=16", "--trainer.max_time=null"]
    options += ["--model.network.condition=NearestUpsampling", "--model.network.condition.features=Features"]
    options += [f"--model.network.condition.features.channels={CHANNELS}"]
    options += [
        f"--model.network.condition.features.hop_length={HOP}",
        "--trainer.max_steps=150",
        "--model.warmup_steps=5",
    ]
    options += ["--model.optimizer.lr=0.02", "--model.drop_condition=0"]
    options += ["--trainer.val_check_interval=75", "--trainer.precision=32-true", "--previews.first=75"]
    options += ["--previews.seconds=0.05", "--samples.num=2", "--samples.seconds=0.05"]
    folder = train("wavenet_vocoder", out=str(tmp_path / "run"), overrides=options)
    model = load(folder / "model")
    assert model.conditioner.upsampling.features.channels == CHANNELS
    sound = torch.from_numpy(corpus_of(recordings).sound(0))
    features = torch.from_numpy(np.load(recordings / "0.npy"))
    known = evaluate(model, [sound], features=[features]).bits_per_sample
    assert known < evaluate(model, [sound], features=[features.roll(7, 1)]).bits_per_sample - 0.2
    with pytest.raises(WavedilError, match="have 240 frames, the sound 1207 samples: expected 121 frames"):
        evaluate(model, [sound], features=[torch.zeros(CHANNELS, 240)])
    capsys.readouterr()
    assert main(["evaluate", str(folder / "model"), str(recordings), "--held-out"]) == 0
    assert f"{known:.4f} bits per sample over 1207 samples of 1 file" in capsys.readouterr().out
    assert generate(model, condition=features.unsqueeze(0)).shape == (1, 1, 1210)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "1.npy: no such file; expected features in a .npy file"),
        (
            np.zeros((3, 89)),
            r"1.npy has shape \(3, 89\): expected \(3, 90\), one frame every 10 samples of the recording",
        ),
        (np.zeros((2, 90)), r"shape \(2, 90\): expected \(3, 90\)"),
        (np.zeros((3, 90, 1)), "1.npy cannot be read as features: it has float64 of shape"),
        (np.full((3, 90), np.nan), "1.npy has NaN"),
        (np.array([{}] * 3), "1.npy cannot be read as features"),
    ],
)
def test_feature_files_that_do_not_match_raise(tmp_path, recordings, array, message):
    for path in recordings.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1.npy").unlink()
    if array is not None:
        np.save(tmp_path / "1.npy", array)
    with pytest.raises(WavedilError, match=message) as error:
        FeatureFiles(corpus_of(tmp_path), net())
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files where Linux lists them")
def test_feature_files_are_not_kept_open(recordings):
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = FeatureFiles(corpus_of(recordings), net())
    held = [found.whole(0), found.cut(1, 0, 50), found.first(2, 30)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before and len(held) == 3


def test_trimmed_recordings_raise(tmp_path):
    silence = torch.zeros(1, 400)
    write(tmp_path / "a.wav", torch.cat([silence, torch.ones(1, 400) * 0.5], 1), 8000)
    np.save(tmp_path / "a.npy", np.zeros((3, 80)))
    with pytest.raises(WavedilError, match="set trim_db to null"):
        FeatureFiles(Corpus([tmp_path / "a.wav"], 8000, trim_db=40), net())
