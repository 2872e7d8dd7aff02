"""The base module: learning rate, budget and moving average."""

from types import SimpleNamespace

import pytest
import torch

from wavedil.audio import WaveNet
from wavedil.audio.models.nam import NAMLSTM
from wavedil.errors import WavedilError
from wavedil.train import AudioModule
from wavedil.train.module import describe_network


def attached(trainer, **options):
    """A module as the trainer has it during training."""
    module = AudioModule(WaveNet(8, 8, "1"), **options)
    module._trainer = trainer
    return module


def test_the_learning_rate_falls_to_zero_by_the_end_of_the_budget():
    trainer = SimpleNamespace(max_steps=100, global_step=0, callbacks=())
    module = attached(trainer, warmup_steps=10, lr_decay=0.5)
    factors = []
    for trainer.global_step in range(101):
        factors.append(module.lr_factor())
    assert factors[0] == pytest.approx(0.1) and factors[9:51] == [1.0] * 42
    assert factors[75] == pytest.approx(0.5) and factors[100] == 0
    assert all(a >= b for a, b in zip(factors[50:], factors[51:], strict=False))


def test_the_budget_is_that_of_steps_or_epochs():
    trainer = SimpleNamespace(max_steps=-1, max_epochs=4, callbacks=(), accumulate_grad_batches=2)
    module = attached(trainer)
    for trainer.num_training_batches, trainer.global_step, used in ((10, 5, 0.25), (10, 30, 1.0), (float("inf"), 5, 0)):
        assert module.budget_used() == used
    trainer.max_epochs = -1
    assert module.budget_used() == 0
    trainer.max_steps = 50
    assert module.budget_used() == 0.1


def test_the_moving_average_warms_up():
    module = AudioModule(WaveNet(8, 8, "1"), ema_decay=0.5)
    module.configure_model()
    module.configure_model()  # Lightning calls it for training and for validation
    bias = "head.out.bias"
    values, expected = [torch.rand(256) for _ in range(12)], None
    for updates, value in enumerate(values):
        module.network.head.out.bias.data.copy_(value)
        module.averaged.update_parameters(module.network)
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = value if updates == 0 else decay * expected + (1 - decay) * value
        torch.testing.assert_close(module.eval_network.state_dict()[bias], expected)
    assert not any(p.requires_grad for p in module.averaged.parameters())


@pytest.mark.parametrize("ema_decay", [1, -0.1])
def test_decays_out_of_range_are_refused(ema_decay):
    with pytest.raises(WavedilError, match=f"ema_decay is {ema_decay}: expected a number of at least 0 and below 1"):
        AudioModule(WaveNet(8, 8, "1"), ema_decay=ema_decay)


def test_a_recurrent_network_is_described():
    assert describe_network(NAMLSTM(3, sample_rate=8000)) == "82 parameters, NAMLSTM at 8000 Hz"
