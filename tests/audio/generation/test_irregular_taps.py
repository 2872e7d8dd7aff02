"""Engines compute layers whose taps are at any delays, as the model itself does."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from wavedil.audio import LogMel, NearestUpsampling, WaveNet, generate, stream
from wavedil.audio.generation.engines.cpu import NumbaSession
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.engines.rounded import RoundedSession
from wavedil.audio.generation.plan import LayerPlan
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.core import DilatedConv, GatedBlock, LearnedDilation, MergeableDilations, fold_dilations
from wavedil.core.stream import select
from wavedil.errors import WavedilError

#: Far and near, no tap at the present, two taps at one delay, only the present, a long layer, and delays below a block.
DELAYS = [[500, 1], [3], [7, 7, 2], [0], [130, 11, 0], [2, 5, 4, 0]]
LARGEST = [500, 3, 7, 0, 130, 5]


@pytest.fixture
def make(set_taps):
    def make(delays=DELAYS, **options) -> WaveNet:
        torch.manual_seed(0)
        model = WaveNet(8, 12, [1] * len(delays), num_codes=31, sample_rate=8000, **options)
        with torch.no_grad():
            for parameter in model.parameters():  # peaked predictions, so that an error changes codes
                parameter.mul_(1.5)
        return set_taps(model, delays).eval()

    return make


def random_codes(*shape):
    return torch.randint(31, shape, generator=torch.Generator().manual_seed(1))


def merge(model: WaveNet) -> WaveNet:
    """The model with merged branches, whose batch norms have random statistics."""
    for layer, branches in zip(model.stack.layers, ([(3, 4), (2, 1)], [(1, 1)], [(4, 3)] * 2), strict=True):
        conv = MergeableDilations(1, 8, 16, 2, dilation=5, branches=branches, padding="causal")
        conv(torch.randn(4, 8, 50))
        layer.conv = conv
    return fold_dilations(model.eval())


@torch.no_grad()
def check(model, engine, batch=3, **options):
    """Codes, parameters and states equal those of the torch engine and of the model, which pass streams on."""
    _, primed = model.step(random_codes(batch, 540))
    plan, uniforms = model.plan(), Uniforms(0, batch).draw(60)
    template = plan.state_template(batch)
    assert {key: value.shape for key, value in template.items()} == {key: value.shape for key, value in primed.items()}
    reference, session = TorchSession(plan, primed), engine(plan, primed, **options)
    codes = torch.cat([session.sample(part) for part in uniforms.split([9, 0, 51], 1)], 1)
    assert torch.equal(codes, reference.sample(uniforms))
    parameters, stepped = model.step(codes, primed)
    torch.testing.assert_close(engine(plan, primed, **options).score(codes).float(), parameters, atol=1e-4, rtol=1e-4)
    for state in (session.state(), reference.state()):
        assert state.keys() == stepped.keys()
        for key in state:
            torch.testing.assert_close(state[key].to(stepped[key].dtype), stepped[key], atol=1e-4, rtol=1e-4)
    more = random_codes(batch, 20)
    expected, stepped = model.step(more, {key: value.to(stepped[key].dtype) for key, value in session.state().items()})
    torch.testing.assert_close(reference.score(more).float(), expected, atol=1e-4, rtol=1e-4)
    again = engine(plan, stepped, **options)
    torch.testing.assert_close(again.score(codes).float(), model.step(codes, stepped)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 2), (3, 2), (7, 1)])
def test_numba_equals_torch_and_the_model(batch, threads, make):
    check(make(gate_order="sigmoid_first"), NumbaSession, batch, threads=threads)


def test_merged_branches_and_taps_of_each_channel():
    torch.manual_seed(0)
    model = merge(WaveNet(8, 12, "1..4", num_codes=31, sample_rate=8000))
    assert [layer.delays for layer in model.plan().layers] == [(8, 5, 4, 1, 0), (5, 0), (9, 6, 5, 3, 0)]
    check(model, NumbaSession)
    for layer in model.stack.layers:
        layer.conv = LearnedDilation(1, 8, 16, 2, window=20, shared=False, padding="causal")
        torch.nn.init.uniform_(layer.conv.positions, 0, 19)
    check(fold_dilations(model), NumbaSession)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_computes_its_definition(precision, make):
    model, codes = make(), random_codes(3, 60)
    with torch.no_grad():
        _, primed = model.step(random_codes(3, 540))
    expected = RoundedSession(model.plan(), primed, precision=precision).score(codes)
    scores = NumbaSession(model.plan(), primed, precision=precision).score(codes)
    error = (scores - expected).abs().flatten() / expected.abs().max()
    assert error.max() < 0.03 and error.median() < 3e-3
    alone = NumbaSession(model.plan(), select(primed, [2]), precision=precision, threads=2)
    assert torch.equal(torch.cat([alone.score(part) for part in codes[2:].split([31, 29], 1)], 2)[0], scores[2])


def test_clips_and_streams_of_a_conditioned_model_that_continue_a_recording(make):
    mel = NearestUpsampling(LogMel(8000, n_mels=4, n_fft=64, hop_length=20))
    model = make(condition=mel, speakers=["ann", "bob"])
    prime, frames = torch.rand(2, 1, 520) - 0.5, torch.randn(2, 4, 30)
    options = {"prime": prime, "condition": frames, "speaker": ["bob", "ann"], "seed": 3}
    expected = generate(model, 60, num=2, engine="torch", **options)
    assert torch.equal(generate(model, 60, num=2, engine="numba", **options), expected)
    guided = generate(model, 60, num=2, engine="torch", guidance=2, **options)
    assert torch.equal(generate(model, 60, num=2, engine="auto", guidance=2, **options), guided)
    source = stream(model, num=2, engine="numba", chunk=25, **options)
    first = next(source)
    rest = {"condition": frames, "speaker": ["bob", "ann"], "engine": "torch", "chunk": 35}
    assert torch.equal(torch.cat([first, next(stream(model, state=source.state(), **rest))], 2), expected)
    codes = model.encode(expected[:, 0])
    whole = torch.cat([model.encode(prime[:, 0]), codes], 1)
    conditioning = model.conditioning(frames, ["bob", "ann"], 2)
    with torch.no_grad():
        parameters = model(whole, conditioning.condition(0, 580))[..., 520:]
    uniforms = Uniforms(3, 2).draw(60)
    drawn = [model.distribution.sample(parameters[..., t], uniforms[:, t], source._session.sampling) for t in range(60)]
    assert torch.equal(torch.stack(drawn, 1), codes)


def test_plans_hold_the_delays(make):
    plan = make().plan()
    assert [layer.delays for layer in plan.layers] == [
        (500, 1, 0), (3, 0), (7, 2, 0), (0,), (130, 11, 0), (5, 4, 2, 0)
    ]  # fmt: skip
    assert not plan.layers[1].weight[-1].any() and plan.layers[1].weight[0].any()
    assert [layer.span for layer in plan.layers] == LARGEST
    assert [layer.delays for layer in WaveNet(8, 8, "1,5", kernel_size=3).plan().layers] == [(2, 1, 0), (10, 5, 0)]


@pytest.mark.parametrize("delays", [(1, 2, 0), (5, 5, 0), (2, 1), (3, 2, 1), (1, 0, -1)])
def test_delays_that_do_not_fit_are_refused(delays):
    layer = WaveNet(8, 8, "1", kernel_size=3).plan().layers[0]
    with pytest.raises(WavedilError, match="delays is .* for 3 taps: expected one per tap, decreasing to 0"):
        replace(layer, delays=delays)


class Doubled(DilatedConv):
    """A convolution that computes something else than its weights say."""

    def _apply_taps(self, x, pads):
        return 2 * super()._apply_taps(x, pads)


class Skewed(GatedBlock):
    def _combine(self, x, h, condition):
        return super()._combine(x, h + 1, condition)


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (partial(LearnedDilation, padding="causal"), "taps are learned, not snapped: call fold_dilations"),
        (partial(MergeableDilations, padding="causal"), "branches are not merged: call fold_dilations"),
        (
            partial(DilatedConv, padding="same"),
            "padding same, stride 1 and groups 1: engines generate with padding",
        ),
        (partial(DilatedConv, padding="causal", groups=2), "padding causal, stride 1 and groups 2: engines"),
        (partial(DilatedConv, padding="causal", stride=2), "padding causal, stride 2 and groups 1: engines"),
        (partial(MergeableDilations, padding="valid", merged=True), "padding valid, stride 1 and groups 1: engines"),
        (Doubled, "a Doubled with its own _apply_taps: engines generate with DilatedConv, LearnedDilation and Mergeab"),
        (lambda *args, **options: torch.nn.Conv1d(8, 16, 2), "a layer has a Conv1d: engines generate with Dila.* step"),
    ],
)
def test_other_convolutions_are_refused_in_one_line(conv, message):
    model = WaveNet(8, 8, "1,2")
    model.stack.layers[1].conv = conv(1, 8, 16, 2, dilation=2)
    for call in (model.plan, lambda: LayerPlan.of(model.stack.layers[1])):
        with pytest.raises(WavedilError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_block_that_computes_something_else_is_refused():
    with pytest.raises(WavedilError, match="a Skewed with its own _combine: engines generate with GatedBlock"):
        LayerPlan.of(Skewed(1, 8, causal=True))


def test_blocks_without_bias(make):
    model = make()
    exact = copy.deepcopy(model)
    for layer, other in zip(model.stack.layers[:-1], exact.stack.layers, strict=False):
        layer.conv.bias, layer.residual.bias = None, None
        torch.nn.init.zeros_(other.conv.bias)
        torch.nn.init.zeros_(other.residual.bias)
    assert torch.equal(generate(model, 20), generate(exact, 20))
