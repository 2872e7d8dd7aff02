"""The graphs engine computes exactly what the torch engine does. The capture itself is tested only on a CUDA device."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wavedil.audio import WaveNet
from wavedil.audio.distributions import Categorical, MuLaw, Sampling
from wavedil.audio.generation.engines import graphs
from wavedil.audio.generation.engines.graphs import GraphSession
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.random_numbers import Uniforms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class NoHostTransfers(TorchDispatchMode):
    """Fails if a step copies a number to or from the host, which a CUDA graph cannot do."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        names = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "_to_cpu")
        assert not operation.name().removeprefix("aten::").startswith(names), operation
        return operation(*args, **(kwargs or {}))


class ReadsNumbers(Categorical):
    """A distribution that reads numbers back to the host."""

    def sample(self, logits, uniforms, settings):
        assert float(uniforms.min()) >= 0
        return super().sample(logits, uniforms, settings)


class UncapturedSession(GraphSession):
    """On a CPU: runs the steps without a capture, and checks that they could be captured."""

    def _capture(self, step):
        if DEVICE == "cuda":
            return super()._capture(step)
        with self._restored():
            step()
            step()
        addresses = [buffer.data_ptr() for buffer in self._buffers()]

        def replay():
            if self.sampling.temperature == 0:  # one_hot reads its numbers on a CPU, not on a GPU
                step()
            else:
                with NoHostTransfers():
                    step()
            assert [buffer.data_ptr() for buffer in self._buffers()] == addresses

        return replay


@pytest.mark.parametrize("chunk", [4, 256])
@pytest.mark.parametrize(
    ("batch", "options", "settings"),
    [
        (1, {"kernel_size": 1}, {}),
        (3, {"input_kernel_size": 3}, {"temperature": 0.7, "top_k": 9}),
        (2, {"kernel_size": 3, "residual_scale": 0.5**0.5}, {"top_p": 0.8}),
        (5, {}, {"temperature": 0.0}),
    ],
)
def test_codes_state_and_scores_equal_the_torch_engines(chunk, batch, options, settings, monkeypatch):
    monkeypatch.setattr(graphs, "CHUNK", chunk)
    torch.manual_seed(0)
    model = WaveNet(8, 12, "1,2,5", num_codes=31, **options).to(DEVICE).eval()
    uniforms = Uniforms(0, batch).draw(23).to(DEVICE)
    start = model.start(batch)
    before = {key: value.clone() for key, value in start.items()}
    reference, session = (
        engine(model.plan(), start, Sampling(**settings)) for engine in (TorchSession, UncapturedSession)
    )
    for part in uniforms.split([9, 0, 14], 1):
        if part.shape[1]:
            assert torch.equal(session.sample(part), reference.sample(part))
        else:
            assert session.sample(part).shape == (batch, 0)
    codes = torch.randint(31, (batch, 6), device=DEVICE)
    assert torch.equal(session.score(codes), reference.score(codes))
    assert session.score(codes[:, :0]).shape == (batch, 31, 0)
    ours, theirs = session.state(), reference.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(torch.equal(start[key], before[key]) for key in start)
    again = TorchSession(model.plan(), ours, Sampling(**settings))
    assert torch.equal(again.sample(uniforms), session.sample(uniforms))


def test_irregular_taps(set_taps):
    model = set_taps(WaveNet(8, 12, [1] * 4, num_codes=31), [[30, 1], [3], [0], [11, 4, 0]]).to(DEVICE).eval()
    uniforms = Uniforms(0, 2).draw(40).to(DEVICE)
    reference, session = (engine(model.plan(), model.start(2)) for engine in (TorchSession, UncapturedSession))
    assert torch.equal(session.sample(uniforms), reference.sample(uniforms))
    ours, theirs = session.state(), reference.state()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("distribution", [Categorical, ReadsNumbers])
def test_conditions_speakers_and_distributions_that_read_numbers(distribution):
    torch.manual_seed(0)
    model = WaveNet(8, 12, "1,2", num_codes=31).to(DEVICE)
    plan = model.plan()
    layers = tuple(replace(layer, condition=torch.randn(16, 5, device=DEVICE)) for layer in plan.layers)
    plan = replace(
        plan,
        layers=layers,
        condition_channels=3,
        speaker_channels=2,
        distribution=distribution().set_quantizer(MuLaw(31)),
    )
    uniforms, speakers = Uniforms(0, 3).draw(12).to(DEVICE), torch.randn(3, 2, device=DEVICE)
    features = torch.randn(3, 3, 12, device=DEVICE)
    reference, session = (
        engine(plan, model.start(3), speaker=speakers) for engine in (TorchSession, UncapturedSession)
    )
    codes = reference.sample(uniforms, features)
    parts = [session.sample(uniforms[:, part], features[..., part]) for part in (slice(0, 5), slice(5, 12))]
    assert torch.equal(torch.cat(parts, 1), codes)
    assert torch.equal(session.score(codes, features), reference.score(codes, features))
