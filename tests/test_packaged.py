"""The trained models of the package: load by name, in Python and in the shell."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from wavedil.audio import WaveNet, generate, load, save
from wavedil.audio.data import audio_files
from wavedil.audio.data.overdrive import overdrive
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.audio.effects.process import apply_model
from wavedil.cli import main
from wavedil.core.cost import count_parameters
from wavedil.errors import WavedilError
from wavedil.packaged import FOLDER, packaged_models, packaged_names
from wavedil.vision import predict
from wavedil.vision.data.shapes import draw

NAMES = ["overdrive", "pluck", "shapes"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_cards_describe_the_models(capsys):
    models = packaged_models()
    assert [model.name for model in models] == packaged_names() == NAMES
    assert sum(model.bytes for model in models) < 3e6
    for model in models:
        loaded = load(model.name)
        assert (model.parameters, model.sample_rate) == (count_parameters(loaded), getattr(loaded, "sample_rate", None))
        assert {value.dtype for value in loaded.state_dict().values() if value.is_floating_point()} == {torch.float32}
        card = (FOLDER / model.name / "README.md").read_text()
        assert all(
            part in card for part in ("**Data.**", "**Training.**", "**Results.**", "**Limits.**", "**License.**")
        )
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(model.figures in text and f"{model.parameters:,}" in text for model in models)
    assert main(["models", "--json"]) == 0
    assert [model["name"] for model in json.loads(capsys.readouterr().out)["models"]] == NAMES


def test_the_models_are_trained():
    """On sounds and images that are not in the training data: an untrained model has 8 bits."""
    generator = np.random.default_rng(5)
    melody = render_melody(compose(3, generator), 8000)
    model = load("pluck")
    with torch.no_grad():
        codes = model.encode(torch.from_numpy(melody).float().unsqueeze(0))
        assert model.loss(codes).item() / math.log(2) < 0.6  # mostly the first notes, without a past
    sound = generate(model, 8000, seed=1)
    assert 0.05 < sound.square().mean().sqrt() < 0.25 and 0.3 < sound.abs().max() < 0.8
    dry = render_melody(compose(2, generator), 16000)
    wet = overdrive(dry, 0.5, 16000)
    with torch.no_grad():
        again = apply_model(load("overdrive"), torch.from_numpy(dry).float()[None, None], torch.tensor([[0.5]]))
    assert np.square(again[0, 0].numpy() - wet).sum() < 0.05 * np.square(wet).sum()
    image, mask = draw(96, generator)
    assert (predict(load("shapes"), image) == mask).mean() > 0.95


def test_a_folder_of_that_name_wins(here):
    model = WaveNet(8, 8, "1,2", sample_rate=4000)
    save(model, "pluck")
    assert load("pluck").sample_rate == 4000
    assert main(["inspect", "pluck"]) == 0
    shutil.rmtree("pluck")
    assert load("pluck").sample_rate == 8000
    (here / "pluck").mkdir()
    with pytest.raises(WavedilError, match="^pluck is not a model folder: .*RUN/model of a run$"):
        load("pluck")


@pytest.mark.parametrize("name", ["hf://someone/amp", "https://example.org/a/amp.nam", "s3://a/b"])
@pytest.mark.parametrize("command", ["process MODEL a.wav b.wav", "inspect MODEL", "sample MODEL", "live MODEL"])
def test_an_address_is_refused_as_it_was_given(here, capsys, name, command):
    """A path would shorten its slashes."""
    assert main(command.replace("MODEL", name).split()) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {name} is an address: expected a model folder or a file; download")
    assert ("wavedil convert hf://someone/amp FOLDER" in error) == name.startswith("hf")


@pytest.mark.parametrize("name", ["pluk", "Pluck", "pluck "])
def test_a_wrong_name_is_answered_with_the_names(here, capsys, name):
    message = "does not exist: expected a model folder (RUN/model of a run), a .nam file, or "
    message += "one of overdrive, pluck, shapes; did you mean pluck?"
    for words in (["sample", name], ["evaluate", name, "x.wav"], ["process", name, "a.wav", "b.wav"]):
        assert main(words) == 2
        assert capsys.readouterr().err.rstrip().endswith(message)
    assert main(["inspect", name]) == 2
    assert "did you mean pluck?" in capsys.readouterr().err


def test_paths_are_not_names(here):
    for path in (FOLDER.parent / "pluck", "./pluck/", "models/pluck", ""):
        with pytest.raises(WavedilError):
            load(path)


def test_the_shell_takes_names_and_writes_nothing_to_the_package(here, capsys):
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}
    sound = np.sin(np.arange(4000) / 10).astype(np.float32) / 2
    audio_files.write("in.wav", sound[None], 16000)
    assert main(["process", "overdrive", "in.wav", "out.wav", "--knob", "drive=0.5"]) == 0
    with pytest.raises(SystemExit):
        main(["evaluate", "overdrive", "--help"])
    assert "options of an Effect" in capsys.readouterr().out
    assert main(["inspect", "shapes"]) == 0
    assert main(["convert", "pluck", "copy", "--half"]) == 0
    assert (here / "copy/model.safetensors").read_bytes() == (FOLDER / "pluck/model.safetensors").read_bytes()
    capsys.readouterr()
    folder = str(FOLDER / "pluck")
    for words in (["sample", "pluck", "--out", folder], ["convert", "copy", folder]):
        assert main(words) == 2
        assert "pluck" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")} == before


def test_half_precision_refuses_what_it_cannot_hold(here):
    model = WaveNet(8, 8, "1,2")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = 1e5
    with pytest.raises(WavedilError, match="has numbers above 65504"):
        save(model, "model", half=True)
    assert not list(here.iterdir())
