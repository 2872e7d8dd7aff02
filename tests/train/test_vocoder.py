"""Training of a vocoder: the files of a run, exact resuming, errors."""

import math

import pytest
import torch

pytest.importorskip("torchaudio.functional", reason="torchaudio does not import beside this torch")

from wavedil.audio import load, read, write
from wavedil.errors import WavedilError
from wavedil.train import VocoderModule
from wavedil.train.run import train

FEATURES = ("n_mels=20", "n_fft=512", "hop_length=50", "sample_rate=8000")
TINY = [f"--model.network.features.{option}" for option in FEATURES]
TINY += ["--model.network.generator.channels=8", "--model.network.generator.dilations=1,2"]
TINY += [f"--model.network.generator.{option}" for option in ("mels=20", *FEATURES[1:])]
TINY += ["--data.crop=2000", "--data.batch_size=2", "--data.valid_seconds=1", "--trainer.max_time=null"]
TINY += ["--trainer.max_steps=8", "--trainer.val_check_interval=4", "--previews.first=3", "--previews.every=100"]
TINY += ["--previews.seconds=0.2", "--samples.num=1", "--samples.seconds=0.2"]
PARALLEL = [option for option in TINY if "network.generator" not in option]
PARALLEL += [f"--model.network.generator.{name}=8" for name in ("channels", "skip_channels", "hidden_channels")]
PARALLEL += ["--model.network.generator.dilations=1,2", "--model.network.generator.scales=[5,10]"]
PARALLEL += ["--model.network.generator.mels=20", "--model.network.generator.sample_rate=8000"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(3):
        t = torch.arange(6000) / 8000
        write(folder / f"{index}.wav", 0.3 * torch.sin(2 * math.pi * (200 + 90 * index) * t).unsqueeze(0), 8000)
    return folder


@pytest.mark.parametrize(("recipe", "options"), [("vocoder", TINY), ("parallel_wavegan", PARALLEL)])
def test_interrupted_and_resumed_equals_uninterrupted(recipe, options, tmp_path, recordings, interrupted_at):
    options = [*options, f"--data.root={recordings}"]
    full = train(recipe, out=str(tmp_path / "full"), overrides=options)
    out = str(tmp_path / "run")
    interrupted_at(VocoderModule, 5, lambda: train(recipe, out=out, overrides=options))
    resumed = train(out=out, resume="auto")
    weights = [load(folder / "model").state_dict() for folder in (full, resumed)]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key
    names = {path.relative_to(full).as_posix() for path in full.rglob("*.wav")}
    expected = {f"samples/sample_000{end}.wav" for end in ("", "_original", "_griffin_lim")}
    assert expected | {"previews/target_0.wav", "previews/step_000003_0.wav"} <= names
    assert read(full / "samples" / "sample_000.wav")[0].shape == (1, 1600)
    page = (full / "report.html").read_text()
    assert "0.wav" in page and "Griffin-Lim" in page


def test_a_crop_is_a_multiple_of_the_hop(tmp_path, recordings):
    options = [*TINY, f"--data.root={recordings}", "--data.crop=2010"]
    message = "data.crop is 2010 samples: expected a multiple of the hop length of 50, e.g. 2000"
    with pytest.raises(WavedilError, match=message):
        train("vocoder", out=str(tmp_path / "run"), overrides=options)
