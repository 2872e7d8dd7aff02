"""The triton engine draws the codes that the torch engine draws, for any widths, batch and launches.

test_triton.py runs this file in a separate process: in Triton's interpreter, or on a GPU.
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from wavedil.audio import WaveNet, generate, stream
from wavedil.audio.distributions.base import Sampling
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.engines.triton import TritonSession
from wavedil.audio.generation.engines.triton_kernels import COMPILED
from wavedil.audio.generation.engines.triton_packing import Tiling
from wavedil.audio.generation.plan import AmplitudeEmbeddingPlan, GenerationPlan
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.core.stream import select
from wavedil.errors import WavedilError

DEVICE = "cuda" if COMPILED else "cpu"


def make(**options) -> WaveNet:
    torch.manual_seed(0)
    small = {"channels": 8, "skip_channels": 12, "dilations": "1,2,5", "num_codes": 31, "sample_rate": 8000}
    model = WaveNet(**{**small, **options})
    with torch.no_grad():
        for parameter in model.parameters():  # peaked predictions, so that an error changes codes
            parameter.mul_(1.5)
    return model.eval().to(DEVICE)


def close(ours: torch.Tensor, exact: torch.Tensor) -> bool:
    """Like torch.testing.assert_close, whose import takes seconds."""
    return torch.allclose(ours.double(), exact.double(), rtol=1e-4, atol=1e-4)


def conditioned(model: WaveNet, features: int, speaker: int, scalar: bool) -> GenerationPlan:
    plan = model.plan()
    if features + speaker:
        layers = [
            replace(layer, condition=torch.randn(2 * plan.hidden, features + speaker, device=DEVICE) / 3)
            for layer in plan.layers
        ]
        plan = replace(plan, layers=tuple(layers), condition_channels=features, speaker_channels=speaker)
    if scalar:
        weight, bias = torch.randn(plan.input_embedding.taps, plan.channels), torch.randn(plan.channels)
        levels = torch.linspace(-1, 1, plan.input_embedding.num_codes)
        plan = replace(plan, input_embedding=AmplitudeEmbeddingPlan(*(t.to(DEVICE) for t in (weight, bias, levels))))
    return plan


@pytest.mark.parametrize(
    ("batch", "features", "speaker", "scalar", "options"),
    [
        (1, 0, 0, False, {"kernel_size": 1, "input_kernel_size": 2}),
        (17, 0, 0, False, {}),
        (3, 3, 2, True, {"kernel_size": 3, "input_kernel_size": 3, "residual_scale": 0.5**0.5, "skip_scale": 0.5}),
        (33, 0, 4, False, {"dilations": "2", "hidden_channels": 5, "head_channels": 7, "gate_order": "sigmoid_first"}),
        # Two passes for the hidden channels of a layer, and two for those of the head.
        (2, 17, 0, True, {"dilations": "1,3,1", "channels": 20, "hidden_channels": 65, "head_channels": 33}),
    ],
)
def test_codes_state_and_scores_equal_the_torch_engines(batch, features, speaker, scalar, options):
    plan, start = conditioned(model := make(**options), features, speaker, scalar), model.start(batch)
    steps, first = 12, 5
    condition = torch.randn(batch, features, steps, device=DEVICE) if features else None
    speakers = torch.randn(batch, speaker, device=DEVICE) if speaker else None
    uniforms = Uniforms(0, batch).draw(steps).to(DEVICE)
    reference, session = (engine(plan, start, speaker=speakers) for engine in (TorchSession, TritonSession))
    for part in (slice(0, first), slice(first, steps)):
        chunk = None if condition is None else condition[..., part]
        codes = reference.sample(uniforms[:, part], chunk)
        assert torch.equal(session.sample(uniforms[:, part], chunk), codes)
        # Each engine continues from the state of the triton engine.
        reference = TorchSession(plan, session.state(), speaker=speakers)
        session = TritonSession(plan, session.state(), speaker=speakers)
    ours, exact = session.state(), reference.state()
    assert ours.keys() == exact.keys() == start.keys()
    forced = torch.randint(plan.input_embedding.num_codes, (batch, 3), device=DEVICE)
    chunk = None if condition is None else condition[..., :3]
    assert close(session.score(forced, chunk), reference.score(forced, chunk))
    ours, exact = session.state(), reference.state()
    for key in ours:
        assert ours[key].dtype == start[key].dtype
        assert close(ours[key], exact[key])


def test_ring_buffers_wrap_around_many_times():
    model = make(dilations="1,4", kernel_size=3)
    codes = torch.randint(31, (2, 40), device=DEVICE)
    session = TritonSession(model.plan(), model.start(2))
    parts = [session.score(part) for part in codes.split([1, 22, 0, 17], 1)]
    with torch.no_grad():
        assert close(torch.cat(parts, 2), model(codes))


def test_irregular_taps_of_layers_with_different_numbers(set_taps):
    model = set_taps(make(dilations="1,1,1,1"), [[8, 1], [3, 0], [0], [5, 2, 0]])
    with torch.no_grad():
        _, state = model.step(torch.randint(31, (2, 20), device=DEVICE))
    plan, uniforms = model.plan(), Uniforms(0, 2).draw(6).to(DEVICE)
    reference, session = TorchSession(plan, state), TritonSession(plan, state)
    assert torch.equal(session.sample(uniforms), reference.sample(uniforms))
    forced = torch.randint(31, (2, 11), device=DEVICE)  # further than the longest ring buffer
    assert close(session.score(forced), reference.score(forced))
    ours, exact = session.state(), reference.state()
    assert all(close(ours[key], exact[key]) for key in exact)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.8}]
)
def test_temperature_and_truncation_equal_the_torch_engines(settings):
    model = make(dilations="1")
    expected = generate(model, 10, num=16, engine="torch", **settings)
    assert torch.equal(generate(model, 10, num=16, engine="triton", **settings), expected)


def test_truncation_keeps_all_codes_of_equal_probability():
    plan = make(dilations="1").plan()
    (head, bias), (out, _) = plan.head
    logits = torch.tensor([0.0] * 27 + [2.0, 1.0, 1.0, 1.0], device=DEVICE)  # top_k=2 keeps all three equal ones
    plan = replace(plan, head=((head, bias), (out * 0, logits)))
    uniforms = (torch.arange(0, 96, dtype=torch.float64, device=DEVICE) / 96).reshape(32, 3)
    for settings in ({"top_k": 2}, {"top_p": 0.3}):
        session, reference = (
            engine(plan, make(dilations="1").start(32), Sampling(**settings))
            for engine in (TritonSession, TorchSession)
        )
        codes = session.sample(uniforms)
        assert torch.equal(codes, reference.sample(uniforms))
        assert codes.unique().tolist() == [27, 28, 29, 30]  # also for a uniform of 0


def test_precision_bf16_is_close_and_does_not_depend_on_the_batch():
    model = make(channels=24, skip_channels=24, dilations="1,2")
    codes = torch.randint(31, (18, 8), device=DEVICE)
    exact = TorchSession(model.plan(), model.start(18)).score(codes)
    session = TritonSession(model.plan(), model.start(18), precision="bf16")
    scores = session.score(codes)
    error = (scores - exact).abs().max() / exact.abs().max()
    assert 1e-4 < error < 0.03
    alone = TritonSession(model.plan(), model.start(1), precision="bf16").score(codes[17:])
    assert torch.equal(alone[0], scores[17])
    # The state keeps bf16 numbers without loss.
    again = TritonSession(model.plan(), session.state(), precision="bf16")
    assert torch.equal(again.score(codes[:, :2]), session.score(codes[:, :2]))


def test_streams_of_unequal_lengths_primed_saved_and_branched():
    model = make(dilations="1,2")
    prime = generate(model, 9, engine="torch")
    whole = generate(model, 8, num=3, prime=prime, engine="torch")
    for index, (one, length) in enumerate(
        zip(generate(model, [8, 3, 5], prime=prime, engine="triton"), (8, 3, 5), strict=True)
    ):
        assert torch.equal(one, whole[index, :, :length])
    chunks = stream(model, num=3, prime=prime, engine="triton", chunk=4)
    assert chunks.engine == "triton"
    assert torch.equal(next(chunks), whole[..., :4])
    saved = load(save(chunks.state()))
    branches = stream(model, state=select(saved, [2, 2, 0]), engine="triton", chunk=4)
    assert torch.equal(next(branches), whole[[2, 2, 0], :, 4:])


def test_plans_that_the_kernel_cannot_run_are_refused():
    model = make()
    plan = replace(model.plan(), head=model.plan().head[1:])
    with pytest.raises(WavedilError, match="engine triton does not support a head of 1 products instead of 2"):
        TritonSession(plan, model.start(1))
    wide = make(channels=2048, hidden_channels=8, dilations="1")
    assert Tiling.choose(wide.plan(), "fp32", 227 * 1024) is None
    with pytest.raises(WavedilError, match="2048 channels, 2 taps per layer and 12 skip channels: too wide"):
        TritonSession(wide.plan(), wide.start(1))
    with pytest.raises(WavedilError, match="codes are in 0 to 31: expected 0 to 30"):
        TritonSession(model.plan(), model.start(1)).score(torch.tensor([[0, 31]], device=DEVICE))
