"""An engine from outside the package: a subclass of Session and one line that registers it."""

from dataclasses import replace

import pytest
import torch

from wavedil.audio import WaveNet, generate, save
from wavedil.audio.generation import engines
from wavedil.audio.generation.engines import Session, choose, register_engine
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.plan import CodeEmbeddingPlan, make_state, read_state
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.cli import main
from wavedil.errors import WavedilError


class ShortSession(Session):
    """Recomputes each layer from its history as tensors, in float64."""

    @classmethod
    def obstacle(cls, plan, batch):
        return None if isinstance(plan.input_embedding, CodeEmbeddingPlan) else "it embeds amplitudes"

    def setup(self, state):
        self.plan = self.plan.map_tensors(torch.Tensor.double)
        self.codes, histories = read_state(state, len(self.plan.layers))
        self.histories = [history.double() for history in histories]

    @torch.no_grad()
    def advance(self, uniforms, condition, forced):
        plan, outputs = self.plan, []
        padded_tables = torch.nn.functional.pad(plan.input_embedding.tables, (0, 0, 0, 1))
        for t in range((uniforms if forced is None else forced).shape[1]):
            x = sum(table[code] for table, code in zip(padded_tables, self.codes.T, strict=True))
            gates = []
            for index, layer in enumerate(plan.layers):
                inputs = torch.cat([self.histories[index], x.unsqueeze(2)], 2)
                taps = zip(layer.delays, layer.weight, strict=True)
                h = layer.bias + sum(inputs[:, :, layer.span - delay] @ weight.T for delay, weight in taps)
                self.histories[index] = inputs[:, :, 1:]
                gates.append(h[:, : plan.hidden].tanh() * h[:, plan.hidden :].sigmoid())
                if layer.residual is not None:
                    x = x + gates[-1] @ layer.residual.T + layer.residual_bias
                x = x * plan.residual_scale
            y = torch.cat(gates, 1) @ plan.skip_weight.T + plan.skip_bias
            for weight, bias in plan.head:
                y = y.relu() @ weight.T + bias
            code = plan.distribution.sample(y, uniforms[:, t], self.sampling) if forced is None else forced[:, t]
            outputs.append(code if forced is None else y)
            self.codes = torch.cat([self.codes[:, 1:], code.unsqueeze(1)], 1)
        return torch.stack(outputs, -1)

    def current_state(self):
        return make_state(self.codes, self.histories)


@pytest.fixture
def short(monkeypatch):
    """Registers the engine, and removes it after the test."""
    monkeypatch.setattr(engines, "ENGINES", dict(engines.ENGINES))
    monkeypatch.setattr(engines, "_AUTO", list(engines._AUTO))
    register_engine("short", ShortSession)


def make(**options):
    torch.manual_seed(0)
    return WaveNet(8, 12, "1,2,4", kernel_size=3, num_codes=31, sample_rate=8000, **options).eval()


def test_it_generates_the_codes_of_the_torch_engine(short):
    model = make(input_kernel_size=2)
    expected = generate(model, 40, num=3, seed=1, engine="torch")
    assert torch.equal(generate(model, 40, num=3, seed=1, engine="short"), expected)


def test_its_scores_and_state_equal_those_of_the_torch_engine(short):
    model = make()
    codes = torch.randint(31, (2, 20))
    ours, reference = (kind(model.plan(), model.start(2)) for kind in (ShortSession, TorchSession))
    torch.testing.assert_close(ours.score(codes), reference.score(codes))
    uniforms = Uniforms(0, 2).draw(9)
    assert torch.equal(TorchSession(model.plan(), ours.state()).sample(uniforms), reference.sample(uniforms))


def test_auto_takes_it_only_if_registered_so_and_without_obstacle(short):
    plan = make().plan()
    assert choose("short", plan, 1) == "short" and choose("auto", plan, 1) == "numba"
    register_engine("short", ShortSession, auto=True)
    assert choose("auto", plan, 1) == "short"
    assert choose("auto", make(input="scalar").plan(), 1) == "numba"
    assert choose("auto", replace(plan, head=plan.head[1:]), 1) == "short"


def test_an_import_path_is_imported_at_first_use(short):
    register_engine("torch_by_path", "wavedil.audio.generation.engines.reference.TorchSession")
    model = make()
    assert torch.equal(generate(model, 9, engine="torch_by_path"), generate(model, 9, engine="torch"))
    register_engine("missing", "no_such_package.Engine")
    with pytest.raises(WavedilError, match="engine 'missing' is no_such_package.Engine, which cannot be imported"):
        generate(model, 9, engine="missing")


def test_the_shell_knows_it(short, tmp_path, capsys):
    save(make(), tmp_path / "model")
    command = ["sample", str(tmp_path / "model"), "--seconds", "0.01", "--out", str(tmp_path / "out")]
    assert main([*command, "--engine", "short"]) == 0
    assert '"engine": "short"' in capsys.readouterr().out
    assert main([*command, "--engine", "shirt"]) == 2
    assert "expected one of auto, torch, graphs, numba, triton, short" in capsys.readouterr().err


def test_bad_registrations_are_refused(short):
    with pytest.raises(WavedilError, match="session is <class 'int'>: expected a subclass of Session"):
        register_engine("int", int)
    with pytest.raises(WavedilError, match="name is 'auto'"):
        register_engine("auto", ShortSession)
