"""Training of an audio generator: the files of a run, exact resuming, errors."""

import csv
import json
import math
import shutil
import signal
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from wavedil import LearnedDilation, receptive_field
from wavedil.audio import WaveNet, generate, load
from wavedil.audio.data import audio_files
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import FirstSamples, WholeFiles
from wavedil.audio.evaluation import evaluate
from wavedil.core import fold_dilations
from wavedil.errors import WavedilError
from wavedil.train import AudioData, AudioModule
from wavedil.train.previews.sound import SoundPreviews, SoundSamples
from wavedil.train.recipes import find_recipe, known_recipes, module_class
from wavedil.train.run import train

TINY = ["--model.network.channels=8", "--model.network.skip_channels=8", "--model.network.dilations=1..16"]
TINY += ["--model.network.sample_rate=8000", "--data.crop=400", "--data.batch_size=2", "--data.valid_seconds=1"]
TINY += ["--trainer.max_steps=12", "--trainer.val_check_interval=6", "--trainer.precision=32-true"]
TINY += ["--trainer.max_time=null", "--previews.first=3", "--previews.every=100", "--previews.seconds=0.05"]
TINY += ["--samples.num=2", "--samples.seconds=0.05"]


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Three short files, whose sample rate is not the model's."""
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(3):
        t = torch.arange(11025) / 11025
        sound = 0.4 * torch.sin(2 * math.pi * (200 + 100 * index) * t) * torch.exp(-2 * t)
        audio_files.write(folder / f"note_{index}.wav", sound.unsqueeze(0), 11025)
    return folder


@pytest.fixture(scope="session")
def voices(tmp_path_factory, recordings):
    """The same recordings, with folders and file names that name a speaker."""
    folder = tmp_path_factory.mktemp("voices")
    for index, name in enumerate(("en/0_theo_1", "es/1_george_7", "fr/2_theo_9")):
        (folder / name).parent.mkdir()
        shutil.copy(recordings / f"note_{index}.wav", folder / f"{name}.wav")
    return folder


@pytest.fixture(scope="session")
def full_run(tmp_path_factory, recordings):
    return train(out=str(tmp_path_factory.mktemp("runs") / "full"), overrides=[*TINY, f"--data.root={recordings}"])


def metrics(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def weights(folder):
    return load(folder / "model").state_dict()


def test_replaced_files_and_resampling_are_logged(tmp_path, recordings, caplog, full_run):
    caplog.set_level("INFO")
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(full_run, run)
    shutil.copytree(recordings, data)
    sound, rate = audio_files.read(data / "note_1.wav")
    audio_files.write(data / "note_1.wav", -sound, rate)
    train(out=str(run), resume="auto", overrides=[f"--data.root={data}", "--trainer.max_steps=12"])
    text = "the data are not those of the checkpoint: 1 of 3 files that were compared have other content, e.g. "
    messages = [record.getMessage() for record in caplog.records if record.name == "wavedil"]
    assert messages == ["resampling 3 files from 11025 Hz to 8000 Hz", f"{text}{data / 'note_1.wav'}"]


def test_files_of_a_run_folder(full_run):
    names = {path.relative_to(full_run).as_posix() for path in full_run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "metrics.csv", "report.html", "model/config.json", "model/model.safetensors"}
    expected |= {"samples/sample_000.wav", "samples/sample_001.wav", "previews/target_0.wav", "previews/target_0.png"}
    expected |= {"previews/step_000003_0.wav", "previews/step_000003_0.png", "checkpoints/last.ckpt"}
    assert expected <= names
    assert not [name for name in names if name.endswith(".part")]
    assert any(name.startswith("tensorboard/") for name in names)
    sound, rate = audio_files.read(full_run / "samples" / "sample_000.wav")
    assert (sound.shape, rate) == ((1, 400), 8000)


def test_metrics_are_rows_of_numbers(full_run):
    rows = metrics(full_run)
    assert {6, 10, 12} <= {int(row["step"]) for row in rows}
    assert float(rows[-1]["valid_bits"]) < 8.1 and float(rows[-1]["train_bits"]) < 8.1
    rate = {int(row["step"]): float(row["learning_rate"]) for row in rows}
    assert rate[12] < rate[6]


def test_the_page_is_self_contained(full_run):
    page = (full_run / "report.html").read_text()
    assert page.count("<audio") == 5 and "data:audio/wav;base64," in page and "data:image/png;base64," in page
    assert "http://" not in page and "https://" not in page
    assert "all 12 steps" in page and "Held-out recording 1" in page and "data-running" not in page


def test_learning_from_a_folder_lowers_the_loss(tmp_path, recordings):
    folder = train(
        out=str(tmp_path / "run"),
        overrides=[*TINY, "--model.warmup_steps=10", "--trainer.max_steps=150", f"--data.root={recordings}"],
    )
    assert float(metrics(folder)[-1]["train_bits"]) < 5.5  # a uniform distribution needs 8


@pytest.fixture
def interrupted_run(recordings, interrupted_at):
    def run(out, at):
        return interrupted_at(AudioModule, at, lambda: train(out=out, overrides=[*TINY, f"--data.root={recordings}"]))

    return run


@pytest.mark.parametrize("at", [6, 9])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, interrupted_run, full_run, capsys, at):
    out = str(tmp_path / "run")
    handler = signal.getsignal(signal.SIGINT)
    folder = interrupted_run(out, at)
    assert "continue with" in capsys.readouterr().err and signal.getsignal(signal.SIGINT) is handler
    assert (folder / "model" / "model.safetensors").exists() and (folder / "report.html").exists()
    assert train(out=out, resume="auto") == folder
    rows = [int(row["step"]) for row in metrics(folder)]
    assert rows == sorted(rows) and rows[-1] == 12
    for key, value in weights(folder).items():
        assert torch.equal(value, weights(full_run)[key]), key
    train(out=out, resume="auto")
    assert "is finished" in capsys.readouterr().err
    assert [int(row["step"]) for row in metrics(folder)] == rows


def test_a_resumed_run_follows_its_new_options(tmp_path, interrupted_run, capsys):
    folder = interrupted_run(str(tmp_path / "run"), 7)
    before = float(metrics(folder)[-1]["learning_rate"])
    capsys.readouterr()
    train(out=str(folder), resume="auto", overrides=["--model.optimizer.lr=1e-7", "--data.batch_size=3"])
    assert float(metrics(folder)[-1]["learning_rate"]) < 1e-7 < before
    text = "changed when resuming: model.optimizer.lr (0.008, now 1e-07), data.batch_size (2, now 3)\n"
    assert text in capsys.readouterr().err


def test_an_interrupt_before_the_first_step_removes_the_run_folder(tmp_path, interrupted_run):
    with pytest.raises(WavedilError, match="interrupted before the first step"):
        interrupted_run(str(tmp_path / "run"), 0)
    assert not (tmp_path / "run").exists()


def test_a_resume_with_another_network_changes_no_file(tmp_path, interrupted_run, full_run, capsys):
    out = str(tmp_path / "run")
    folder = interrupted_run(out, 7)
    config = (folder / "config.yaml").read_bytes()
    for option, was in (
        ("channels=16", "8"),
        ("sample_rate=16000", "8000"),
        ("gate_order=sigmoid_first", "'tanh_first"),
    ):
        message = rf"does not fit these options: network.{option.partition('=')[0]} \({was}.*, now "
        with pytest.raises(WavedilError, match=message):
            train(out=out, resume="auto", overrides=[f"--model.network.{option}"])
    assert (folder / "config.yaml").read_bytes() == config
    newest = folder / "checkpoints" / "newest.ckpt"
    complete = (folder / "checkpoints" / "interrupted.ckpt").read_bytes()
    newest.write_bytes(complete[:2000])  # truncated, as by a full disk
    train(out=out, resume="auto")
    assert "newest.ckpt cannot be read" in capsys.readouterr().err
    for key, value in weights(folder).items():
        assert torch.equal(value, weights(full_run)[key]), key


def test_an_interrupt_during_a_preview_ends_the_run(tmp_path, recordings, monkeypatch, capsys):
    def interrupted(model, samples, **options):
        return torch.zeros(1, 1, samples - 1)  # generate returns fewer samples after Ctrl-C

    monkeypatch.setattr("wavedil.train.previews.sound.generate", interrupted)
    folder = train(out=str(tmp_path / "run"), overrides=[*TINY, f"--data.root={recordings}"])
    assert "continue with" in capsys.readouterr().err
    assert not list((folder / "previews").glob("step_*")) and list((folder / "checkpoints").glob("interrupted.ckpt"))


def test_validation_uses_the_first_seconds_of_the_files(recordings):
    files = WholeFiles(Corpus([recordings / "note_0.wav", recordings / "note_1.wav"], 8000))
    assert [len(item["codes"]) for item in islice(FirstSamples(files, 5000), 9)] == [5000]
    assert [len(item["codes"]) for item in islice(FirstSamples(files, 8001), 9)] == [8000, 1]
    assert [len(item["codes"]) for item in islice(FirstSamples(files, 10**9), 9)] == [8000, 8000]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.network=wavedil.audio.Effect"], "network is an Effect: expected a WaveNet"),
        (["--data.crop=30"], "crop is 30 samples: expected more than the receptive field of 32"),
        (["--data.root=/nowhere"], "/nowhere"),
        (["--model.network.chanels=8"], "chanels"),
        (["--trainer.max_step=8"], "max_step"),
        (["--data.validation=zzz"], "zzz"),
        (["--data.batch_size=0"], "batch_size is 0"),
        (["--model.network.channels=x"], "--model.network.channels is .*: expected an integer"),
        (["--model.network.dilations=0"], "dilation is 0: expected an integer from 1"),
        (["--model.optimizer.lr=-1"], "learning rate"),
        (["--trainer.max_time=5x"], "5x"),
    ],
)
def test_bad_runs_are_refused_in_one_line(tmp_path, recordings, options, message):
    with pytest.raises(WavedilError, match=message) as error:
        train(out=str(tmp_path / "run"), overrides=[*TINY, f"--data.root={recordings}", *options])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_resume_and_out_are_checked(tmp_path, full_run):
    with pytest.raises(WavedilError, match="no checkpoint"):
        train(out=str(tmp_path / "none"), resume="auto")
    with pytest.raises(WavedilError, match="holds a run"):
        train(out=str(full_run))
    with pytest.raises(WavedilError, match="expected auto"):
        train(out=str(full_run), resume="yes")
    with pytest.raises(WavedilError, match="pluck, .*speech"):
        train("spech")


def test_a_recipe_beside_a_run_to_resume_is_compared_with_it(tmp_path, interrupted_run, capsys):
    folder = interrupted_run(str(tmp_path / "run"), 9)
    message = r"is not of the recipe .*model.class_path \('wavedil.train.AudioModule', now 'wavedil.train.Segm"
    with pytest.raises(WavedilError, match=message):
        train("tiny", out=str(folder), resume="auto")
    capsys.readouterr()
    train("digits", out=str(folder), resume="auto")
    assert "config.yaml is used, not " in (text := capsys.readouterr().err) and "model.network." in text


@pytest.mark.parametrize("name", [name for name, path in known_recipes().items() if module_class(path) is AudioModule])
def test_each_recipe_builds_and_takes_a_step(tmp_path, voices, name):
    """The model and optimizer of the recipe, on crops of minimum length."""
    config = yaml.safe_load(find_recipe(name).read_text())
    arguments = config["model"]["init_args"]["network"]["init_args"]
    crop = receptive_field(arguments["dilations"], kernel_size=arguments.get("kernel_size", 2)) + 8
    limits = [f"--data.crop={crop}", "--data.batch_size=1", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    limits += ["--previews.first=1", "--previews.seconds=0.001", "--samples.num=1", "--samples.seconds=0.001"]
    folder = train(
        name, out=str(tmp_path / "run"), overrides=[*limits, f"--data.root={voices}", "--data.valid_seconds=0.1"]
    )
    model = load(folder / "model")
    assert model.sample_rate == arguments["sample_rate"]
    assert list(model.speakers) == arguments.get("speakers", [])
    assert (model.conditioner.upsampling is not None) == ("condition" in arguments)


def test_training_with_features_and_speakers(tmp_path, voices):
    """Log-mel spectrograms and speakers together."""
    local = {
        "class_path": "wavedil.audio.TransposedUpsampling",
        "init_args": {
            "features": {
                "class_path": "wavedil.audio.LogMel",
                "init_args": {"sample_rate": 8000, "n_mels": 4, "n_fft": 64, "hop_length": 20},
            },
            "factors": [4, 5],
        },
    }
    options = [
        *TINY,
        f"--data.root={voices}",
        "--data.speakers=folders",
        "--model.network.speakers=[en, es, fr]",
        f"--model.network.condition={json.dumps(local)}",
        "--model.drop_condition=0.5",
    ]
    full = train(out=str(tmp_path / "full"), overrides=options)
    model = load(full / "model")
    assert model.speakers == ("en", "es", "fr") and model.conditioner.feature_channels == 4
    original, griffin_lim = (
        audio_files.read(full / "samples" / f"sample_000_{name}.wav")[0] for name in ("original", "griffin_lim")
    )
    assert griffin_lim.shape == original.shape == (1, 400) and griffin_lim.any() and not (griffin_lim == original).all()
    assert float(metrics(full)[-1]["valid_bits"]) > 0
    with pytest.raises(WavedilError, match="'es' is unknown: this model knows ann"):
        train(out=str(tmp_path / "other"), overrides=[*options, "--model.network.speakers=[ann]"])
    with pytest.raises(WavedilError, match="speakers is not set"):
        train(out=str(tmp_path / "none"), overrides=[*options, "--data.speakers=null"])
    with pytest.raises(WavedilError, match="expected a number from 0 to 1"):
        train(out=str(tmp_path / "share"), overrides=[*options, "--model.drop_condition=2"])


def test_samples_have_a_held_out_recording_beside_them(tmp_path, recordings, full_run):
    captions = json.loads((full_run / "samples" / "captions.json").read_text())
    assert captions["row_0"]["file"] == "note_0.wav" and "file" not in captions["row_1"]  # one file is held out
    assert len(audio_files.read(full_run / "samples" / "sample_000_recording.wav")[0][0]) == 400
    assert not list((full_run / "samples").glob("sample_001_*"))


def test_clips_are_written_if_a_recording_has_become_unreadable(tmp_path, capsys):
    class Data:
        def preview_sounds(self):
            raise WavedilError("a.wav: gone")

    network = WaveNet(channels=4, skip_channels=4, dilations="1..2", sample_rate=8000)
    SoundSamples(num=1, seconds=0.01).write(network, Data(), tmp_path)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["captions.json", "sample_000.wav"]
    assert "recordings for comparison skipped: a.wav: gone" in capsys.readouterr().err


def test_clips_of_learned_taps_are_those_of_a_folded_copy(tmp_path, monkeypatch):
    network = WaveNet(channels=4, skip_channels=4, dilations="1..2", sample_rate=8000)
    for layer in network.stack.layers:
        layer.conv = LearnedDilation(1, 4, 8, 2, window=9, padding="causal")
    clips = []
    monkeypatch.setattr(SoundPreviews, "write_clip", lambda previews, trainer, clip, *_: clips.append(clip))
    trainer = SimpleNamespace(datamodule=None, default_root_dir=tmp_path)
    SoundPreviews(seconds=0.01).write_outputs(trainer, SimpleNamespace(eval_network=network), 1)
    SoundSamples(num=1, seconds=0.01).write(network, None, tmp_path)
    assert not network.stack.layers[0].conv.snapped
    clips.append(torch.from_numpy(audio_files.read(tmp_path / "samples" / "sample_000.wav")[0])[0])
    expected = generate(fold_dilations(network), 80)[0, 0]
    assert len(clips) == 2 and all(torch.allclose(clip, expected, rtol=0, atol=2**-15) for clip in clips)


@pytest.mark.parametrize(
    ("speakers", "expected"),
    [(None, [0, 1, 2, 3, 4, 0]), ([0, 0, 0, 1, 1], [0, 3, 1, 4, 2, 0]), ([2, 0, 2, 1, 0], [0, 1, 3, 2, 4, 0])],
)
def test_previews_have_the_speakers_in_turn(speakers, expected):
    data = AudioData()
    data.valid, data.valid_conditioning = range(5), {} if speakers is None else {"speakers": np.array(speakers)}
    assert data.preview_files(6) == expected


def test_validation_and_samples_use_the_moving_average(tmp_path, recordings):
    options = [*TINY, f"--data.root={recordings}", "--model.ema_decay=0.9", "--model.optimizer.lr=0.02"]
    folder = train(out=str(tmp_path / "run"), overrides=options)
    model = load(folder / "model")
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, checkpoint[f"averaged.module.{key}"])
    assert not torch.equal(
        model.state_dict()["stack.layers.0.conv.weight"], checkpoint["network.stack.layers.0.conv.weight"]
    )
    held = audio_files.read(recordings / "note_0.wav", sample_rate=8000)[0][0][:8000]
    bits = evaluate(model, [torch.from_numpy(held)]).bits_per_sample
    assert bits == pytest.approx(float(metrics(folder)[-1]["valid_bits"]), abs=2e-3)
    sound, _ = audio_files.read(folder / "samples" / "sample_000.wav")
    expected = generate(model, sound.shape[1], num=2, seed=0)[0, 0]
    assert torch.allclose(torch.from_numpy(sound[0]), expected, atol=1e-4)


def test_a_mixture_over_16_bit_codes_trains_and_samples(tmp_path, recordings):
    options = ["distribution=logistics", "components=3", "quantizer=linear", "num_codes=65536", "input=scalar"]
    folder = train(
        out=str(tmp_path / "run"),
        overrides=[*TINY, f"--data.root={recordings}", *(f"--model.network.{option}" for option in options)],
    )
    model = load(folder / "model")
    assert model.distribution.components == 3 and model.quantizer.text == "linear codes"
    bits = [float(row["valid_bits"]) for row in metrics(folder)]
    assert 0 < bits[-1] < 16  # bits of a uniform distribution
    assert len(list((folder / "samples").glob("sample_00?.wav"))) == 2
