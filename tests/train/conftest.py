"""Fixtures of the training tests."""

import pytest


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
