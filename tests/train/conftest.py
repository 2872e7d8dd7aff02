"""Fixtures of the training tests."""

import pytest


@pytest.fixture
def interrupted_at(monkeypatch):
    """Calls ``run`` and raises KeyboardInterrupt in training step ``at`` of a module class, as Ctrl-C does."""

    def interrupted_at(module, at, run):
        step = module.training_step

        def interrupted(self, batch, batch_idx):
            if self.trainer.global_step == at:
                raise KeyboardInterrupt
            return step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(module, "training_step", interrupted)
            return run()

    return interrupted_at
