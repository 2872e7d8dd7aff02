"""What tests of all kinds of training have in common."""

import pytest


@pytest.fixture
def interrupted_at(monkeypatch):
    """Calls ``run`` with an interrupt, as by Ctrl-C, in the training step ``at`` of a kind of module."""

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
