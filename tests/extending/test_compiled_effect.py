"""An effect model from outside the package that runs as compiled C."""

import numpy as np
import torch

from wavedil.audio import LiveEffect
from wavedil.audio.effects.compiled.program import Builder
from wavedil.audio.effects.engines import CompiledEngine
from wavedil.audio.models.effect_model import EffectModel
from wavedil.core import DilatedConv
from wavedil.core.stream import add_prefix, substate


class Echo(EffectModel):
    """The sound, bent by a tanh, and an echo of it."""

    sample_rate = 8000

    def __init__(self):
        super().__init__()
        self.echo = DilatedConv(1, 1, 1, 2, dilation=400, padding="causal")
        self.receptive_field = 401

    def step(self, x, state=None, knobs=None):
        y, history = self.echo.step(torch.tanh(3 * x), substate(state, "echo"))
        return y + x, add_prefix("echo", history)

    def program(self):
        program = Builder()
        louder = DilatedConv(1, 1, 1, 1, bias=False)
        louder.weight.fill_(3.0)
        bent = program.map(program.conv(louder, program.sound), torch.nn.Tanh())
        program.conv(self.echo, bent, "echo", add=program.sound)
        return program.program(self, self.sample_rate)


def test_a_model_with_a_program_runs_compiled():
    torch.manual_seed(0)
    model, x = Echo(), np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    live = LiveEffect(model)
    assert isinstance(live._engine, CompiledEngine)
    with torch.no_grad():
        expected = model.step(torch.from_numpy(x)[None, None])[0][0, 0].numpy()
    np.testing.assert_allclose(np.concatenate([live.process(x[:300]), live.process(x[300:])]), expected, atol=1e-5)
