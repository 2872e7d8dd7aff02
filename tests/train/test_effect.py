"""Training of effects: the files of a run, the ESR, windows, errors."""

import csv
import json

import numpy as np
import pytest
import torch

from wavedil.audio import Effect, load
from wavedil.audio.data import audio_files
from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.recordings import Segment, split_recordings
from wavedil.audio.effects.evaluation import evaluate_pairs
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.interop.nam import metadata, read_nam
from wavedil.train.effect import EffectModule, RandomWindows
from wavedil.train.run import train

TINY = ["--model.network.channels=4", "--model.network.skip_channels=4", "--model.network.dilations=1,2,4"]
TINY += ["--model.network.sample_rate=4000", "--data.crop=500", "--data.built_in_seconds=2", "--model.warmup_steps=5"]
TINY += ["--trainer.max_steps=60", "--trainer.val_check_interval=30", "--previews.first=10", "--previews.seconds=0.1"]


def metrics(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def saved_esr(folder):
    """ESR in percent of the saved model."""
    return min(float(row["valid_esr"]) for row in metrics(folder) if row["valid_esr"] != "nan")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("amp", out=str(tmp_path_factory.mktemp("amp") / "run"), overrides=TINY)


def test_files_of_a_run_folder(run):
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "report.html", "model/config.json", "data/table.csv"} <= names
    assert {"previews/target_0_input.wav", "previews/target_2_target.png", "previews/step_000010_1.wav"} <= names
    assert {f"samples/sample_002_{kind}.wav" for kind in ("1_input", "2_target", "3_output")} <= names
    assert "ESR in %" in (run / "report.html").read_text()
    rows = metrics(run)
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_the_esr_of_a_run_is_that_of_evaluate(run, capsys):
    network = load(run / "model")
    recordings = find_recordings(run / "data" / "table.csv")
    _, held, _ = split_recordings(recordings, 4000, context=network.receptive_field - 1)
    figure = evaluate_pairs(network, held).esr_percent
    assert figure == pytest.approx(saved_esr(run), abs=1e-3)
    assert main(["evaluate", str(run / "model"), str(run / "data" / "table.csv"), "--held-out", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["esr_percent"] == pytest.approx(figure) and set(result["settings"]) == {
        "drive 0",
        "drive 0.5",
        "drive 1",
    }
    assert result["count"] == sum(len(segment) - segment.skip for segment in held) and "ESR" not in result["definition"]


def test_the_network_of_the_best_validation_is_saved(tmp_path, monkeypatch, capsys):
    """From step 6 on the error increases, so model, validation.json and page are those of step 6."""
    monkeypatch.setattr(EffectModule, "lr_factor", lambda self: 1.0 if self.trainer.global_step < 6 else -1.0)
    options = ["--trainer.max_steps=13", "--trainer.val_check_interval=3", "--data.seed=1", "--samples.num=1"]
    folder = train("amp", out=str(tmp_path / "run"), overrides=[*TINY, *options, "--previews.first=0"])
    seen = {int(row["step"]): float(row["valid_esr"]) for row in metrics(folder) if row["valid_esr"] != "nan"}
    assert list(seen) == [3, 6, 9, 12, 13] and seen[3] > seen[6] < min(seen[9], seen[12], seen[13])
    network = load(folder / "model")
    recordings = find_recordings(folder / "data" / "table.csv")
    _, held, _ = split_recordings(recordings, 4000, context=network.receptive_field - 1)
    assert evaluate_pairs(network, held).esr_percent == pytest.approx(seen[6], abs=1e-3)
    validation = json.loads((folder / "validation.json").read_text())
    assert validation["step"] == 6 and validation["networks"][0]["esr"] == pytest.approx(seen[6], abs=1e-3)
    assert f"the model is that of step 6: held-out ESR {seen[6]:.3f} %" in capsys.readouterr().err
    page = (folder / "report.html").read_text()
    assert f"<dd>{seen[6]:.3g} %<small>step 6;" in page and f"last {seen[13]:.3g} % at step 13" in page
    train(out=str(folder), resume="auto", overrides=["--trainer.max_steps=14"])
    assert json.loads((folder / "validation.json").read_text())["step"] == 6
    assert evaluate_pairs(load(folder / "model"), held).esr_percent == pytest.approx(seen[6], abs=1e-3)


def test_windows_skip_the_start_of_segments():
    network = Effect(4, 4, "1,2", knobs={"gain": [0, 1]})
    generator = np.random.default_rng(0)
    sounds = [generator.standard_normal((2, time)).astype(np.float32) for time in (40, 60)]
    segments = [Segment(str(i), *sounds[i], {"gain": float(i)}, skip) for i, skip in enumerate((15, 30))]
    windows = RandomWindows(segments, network, crop=20, context=10, seed=3)
    places = set()
    for index in range(300):
        item = windows[index]
        number = int(item["knobs"].item())
        source, target = sounds[number]
        starts = [s for s in range(len(source) - 29) if (source[s : s + 30] == item["input"][0].numpy()).all()]
        (start,) = starts
        assert (target[start + 10 : start + 30] == item["target"][0].numpy()).all()
        places.add((number, start))
    assert places == {(0, s) for s in range(5, 11)} | {(1, s) for s in range(20, 31)}
    assert torch.equal(windows[7]["input"], RandomWindows(segments, network, 20, 10, 3)[7]["input"])
    assert not windows.are_segments() and RandomWindows(segments[:1], network, 20, 20, 3).are_segments()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.network.knobs={gain: [0, 1]}"], "knob 'drive' is unknown: expected one of gain"),
        (["--model.network.knobs={drive: [0, 0.9]}"], "drive_1.wav: knob 'drive' is 1: expected a value in 0..0.9"),
        (["--data.crop=100000"], "too few for crops"),
        (["--data.root=/nowhere"], "/nowhere"),
        (["--data.batch_size=0"], "batch_size is 0"),
        (["--data.crop=0"], "crop is 0"),
        (
            ["--model.network.time_constants=[0.1]", "--model.network.charges=[1.0]"],
            "context \\+ crop is 514 samples, less than a segment",
        ),
    ],
)
def test_bad_runs_are_refused_in_one_line(tmp_path, options, message):
    with pytest.raises(WavedilError, match=message) as error:
        train("amp", out=str(tmp_path / "run"), overrides=[*TINY, *options])
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_an_amplifier_trains_and_is_exported(tmp_path, capsys):
    """The recipe nam: from the built-in pair to a .nam file."""
    arrays = [{"class_path": "wavedil.audio.models.nam.LayerArray",
               "init_args": {"in_channels": 1, "channels": 4, "head_channels": 1, "dilations": "1,2,4"}}]  # fmt: skip
    options = [*TINY[3:], f"--model.network.arrays={json.dumps(arrays)}"]
    folder = train("nam", out=str(tmp_path / "run"), overrides=options)
    rows = metrics(folder)
    assert saved_esr(folder) < min(100.0, float(rows[0]["train_loss"]) * 100)
    assert main(["export", str(folder / "model"), str(tmp_path / "amp.nam")]) == 0
    x = torch.randn(1, 1, 60)
    amp = read_nam(tmp_path / "amp.nam")
    assert torch.equal(amp(x), load(folder / "model")(x))
    assert amp.metadata["training"]["validation_esr"] == pytest.approx(saved_esr(folder) / 100, abs=1e-5)
    assert amp.metadata["loudness"] < 0 and 0 <= amp.metadata["gain"] <= 1
    capsys.readouterr()
    assert main(["evaluate", str(folder / "model"), str(folder / "data" / "table.csv"), "--held-out", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["esr_percent"] == pytest.approx(saved_esr(folder), abs=1e-3)
    assert "every segment starts from zero input before it" in result["definition"]


def test_knobs_of_file_names(tmp_path):
    dry = np.random.default_rng(0).uniform(-0.5, 0.5, 8000).astype(np.float32)
    data = tmp_path / "data"
    audio_files.write(data / "input.wav", dry, 4000, "FLOAT")
    for gain, tone in ((0, 1), (0.5, 1), (1, 3)):
        audio_files.write(data / f"gain={gain},tone={tone}.wav", np.tanh((1 + gain) * dry), 4000, "FLOAT")
    options = [f"--data.root={data}", *(option for option in TINY if "built_in" not in option)]
    options += ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--previews.first=0", "--samples.num=0"]
    folder = train("amp", out=str(tmp_path / "run"), overrides=options)
    assert load(folder / "model").knobs == {"gain": (0.0, 1.0), "tone": (1.0, 3.0)}
    line = "knobs of the recordings: gain 0 to 1 (3 settings), tone 1 to 3 (2 settings)"
    assert line in (folder / "report.html").read_text()
    train("amp", out=str(folder), resume="auto", overrides=["--trainer.max_steps=3"])
    assert metrics(folder)[-1]["step"] == "3"
    (data / "gain=1,tone=3.wav").unlink()
    with pytest.raises(WavedilError, match="knob 'tone' has the value 1 in all recordings"):
        train("amp", out=str(tmp_path / "other"), overrides=options)


def test_a_pair_of_networks_trains_on_a_pair_of_files(tmp_path, monkeypatch):
    """The recipe nam_a2, with findings and noise floor in the page, and both networks in one .nam file."""
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 6000).astype(np.float32)
    dry = np.concatenate([sound, sound])
    audio_files.write(tmp_path / "dry.wav", dry, 4000, "FLOAT")
    wet = np.concatenate([np.zeros(30), np.tanh(3 * dry[:-30])])
    audio_files.write(tmp_path / "wet.wav", wet, 4000, "FLOAT")
    options = [
        f"--data.root={tmp_path}/dry.wav,{tmp_path}/wet.wav",
        "--model.network.networks=[nano, feather]",
        *TINY[3:],
    ]
    options += ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--data.context=200", "--samples.num=1"]
    options += ["--model.network.sample_rate=4000"]
    folder = train("nam_a2", out=str(tmp_path / "run"), overrides=[o for o in options if "built_in" not in o])
    page = (folder / "report.html").read_text()
    assert (
        "wet.wav: delay of 30 samples (7.5 ms), reduced to 1 samples" in page
        and "noise floor of the recordings" in page
    )
    validation = json.loads((folder / "validation.json").read_text())
    assert [each["name"] for each in validation["networks"]] == ["quality below 0.5", "quality 0.5 to 1"]
    assert validation["networks"][1]["esr"] == pytest.approx(saved_esr(folder), abs=1e-3)
    assert all(f"{each['esr']:.3g}</td>" in page for each in validation["networks"])
    model = load(folder / "model")
    assert [network.receptive_field for network in model.networks] == [4093, 4093]
    monkeypatch.setattr(metadata, "_loudness_input", lambda: torch.ones(1, 1, 9))  # else 12 seconds of sound
    assert main(["export", str(folder / "model"), str(tmp_path / "a2.nam")]) == 0
    x = torch.randn(1, 1, 60)
    assert torch.equal(read_nam(tmp_path / "a2.nam").at_quality(0)(x), model.at_quality(0)(x))
    with torch.no_grad():
        fresh = type(model)(["nano", "feather"], sample_rate=4000).networks
    assert all(not torch.equal(a.arrays[0].rechannel.weight, b.arrays[0].rechannel.weight)
               for a, b in zip(model.networks, fresh, strict=True))  # fmt: skip


def test_segments_with_a_start_up_transient(tmp_path):
    """A start-up transient longer than the receptive field is learned from complete segments."""
    generator = np.random.default_rng(0)
    x = 0.1 * generator.standard_normal((12, 400)).astype(np.float32)
    y = 0.5 * x - 0.4 * np.exp(-np.arange(400) / 100).astype(np.float32)
    audio_files.write(tmp_path / "x.wav", x.ravel(), 1000, "FLOAT")
    audio_files.write(tmp_path / "y.wav", y.ravel(), 1000, "FLOAT")
    (tmp_path / "t.csv").write_text("input,target,segment,skip,held_out\nx.wav,y.wav,400,100,2\n")
    options = [
        *TINY,
        "--model.network.knobs={}",
        "--model.network.sample_rate=1000",
        f"--data.root={tmp_path / 't.csv'}",
    ]
    options += ["--data.context=100", "--data.crop=300", "--trainer.max_steps=60", "--previews.num=1"]
    options += ["--model.network.time_constants=[0.1]", "--model.loss=wavedil.audio.effects.losses.ESR"]
    without = train("amp", out=str(tmp_path / "a"), overrides=[*options, "--model.network.charges=[0.0]"])
    charged = train("amp", out=str(tmp_path / "b"), overrides=[*options, "--model.network.charges=[1.0]"])
    esr = [float(metrics(folder)[-1]["valid_esr"]) for folder in (without, charged)]
    assert esr[1] < 10 < esr[0]
