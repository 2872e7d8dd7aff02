"""Fixtures of the training tests."""

import pytest
import yaml

from wavedil.errors import WavedilError
from wavedil.train.build import build
from wavedil.train.recipes import find_recipe


@pytest.fixture
def small_recipe(tmp_path):
    """Writes a recipe that trains a tiny WaveNet in a moment; the arguments are added to its parts."""

    def small_recipe(model, data, trainer):
        options = {"channels": 8, "skip_channels": 8, "dilations": "1,2", "num_codes": 64, "sample_rate": 4000}
        network = {"class_path": "wavedil.audio.WaveNet", "init_args": options}
        shared = {"precision": "32-true", "accelerator": "cpu", "logger": False}
        sounds = {"crop": 200, "built_in_seconds": 20, "valid_seconds": 0.2}
        recipe = {
            "model": {"class_path": "wavedil.train.AudioModule", "init_args": {"network": network, **model}},
            "data": {"class_path": "wavedil.train.AudioData", "init_args": sounds | data},
            "trainer": shared | trainer,
            "samples": {"num": 1, "seconds": 0.01},
        }
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
        return str(tmp_path / "small.yaml")

    return small_recipe


@pytest.fixture
def interrupted_at(monkeypatch):
    """Calls ``run`` and raises KeyboardInterrupt in a hook of a module class at step ``at``, as Ctrl-C does."""

    def interrupted_at(module, at, run, hook="training_step"):
        step = getattr(module, hook)

        def interrupted(self, batch, batch_idx):
            if self.trainer.global_step == at:
                raise KeyboardInterrupt
            return step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(module, hook, interrupted)
            return run()

    return interrupted_at


@pytest.fixture(autouse=True)
def no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def refusal(tmp_path):
    """A function that returns the error of a recipe with these options, which is one line."""

    def build_refused(*options, recipe="pluck"):
        with pytest.raises(WavedilError) as error:
            build(find_recipe(recipe), tmp_path, options)
        assert "\n" not in str(error.value) and "Subtypes" not in str(error.value)
        return str(error.value)

    return build_refused
