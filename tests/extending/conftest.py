"""Fixtures of the tests of extensions."""

import pytest

from wavedil.vision import load


@pytest.fixture
def train_tiny(tmp_path):
    """Trains the recipe ``tiny`` for two steps with further options and returns the saved model."""
    pytest.importorskip("lightning")
    from wavedil.train.run import train

    options = ["--data.built_in_images=4", "--data.batch_size=2", "--data.valid_images=1", "--trainer.max_steps=2"]
    options += ["--trainer.val_check_interval=2", "--trainer.precision=32-true", "--samples.num=1"]
    return lambda *more: load(train("tiny", out=str(tmp_path / "run"), overrides=[*options, *more]) / "model")
