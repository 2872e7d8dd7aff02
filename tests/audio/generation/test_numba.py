"""The numba engine draws the codes that the torch engine draws, for any batch, chunks and threads."""

import itertools
from dataclasses import replace

import numba
import pytest
import torch

from wavedil.audio import WaveNet, generate
from wavedil.audio.distributions.base import Sampling
from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.distributions.mixtures import MixtureOfGaussians, MixtureOfLogistics
from wavedil.audio.distributions.quantizers import Linear, MuLaw
from wavedil.audio.generation.engines import choose
from wavedil.audio.generation.engines.cpu import NumbaSession
from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.engines.rounded import RoundedSession
from wavedil.audio.generation.plan import AmplitudeEmbeddingPlan
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.errors import WavedilError

VARIANTS = [
    {},
    {"kernel_size": 3},
    {"kernel_size": 1},
    {"input_kernel_size": 3, "num_codes": 31},
    {"hidden_channels": 5, "head_channels": 7, "residual_scale": 0.5**0.5, "skip_scale": 0.5},
    {"gate_order": "sigmoid_first", "dilations": [5, 1, 3]},
    {"distribution": "logistics", "components": 3, "input": "scalar", "input_kernel_size": 2},
    {"distribution": "gaussians", "num_codes": 31},
    {"distribution": "gaussians", "components": 2, "input": "scalar", "quantizer": "linear", "num_codes": 500},
    {"channels": 72, "skip_channels": 80, "dilations": "1..32"},
]


def make(**options) -> WaveNet:
    torch.manual_seed(0)
    model = WaveNet(**{"channels": 8, "skip_channels": 12, "dilations": "1..8 x2", "sample_rate": 8000, **options})
    with torch.no_grad():
        for parameter in model.parameters():  # peaked predictions, so that an error changes codes
            parameter.mul_(1.5)
    return model.eval()


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 2), (3, 2), (7, 1)])
def test_codes_and_state_equal_the_torch_engines(options, batch, threads):
    model = make(**options)
    uniforms = Uniforms(0, batch).draw(70)
    reference = TorchSession(model.plan(), model.start(batch))
    session = NumbaSession(model.plan(), model.start(batch), threads=threads)
    expected = reference.sample(uniforms)
    assert torch.equal(torch.cat([session.sample(uniforms[:, :17]), session.sample(uniforms[:, 17:])], 1), expected)
    ours, theirs = session.state(), reference.state()
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key].double(), theirs[key].double(), atol=1e-5, rtol=1e-5)
    scores = NumbaSession(model.plan(), model.start(batch), threads=threads).score(expected)
    with torch.no_grad():
        torch.testing.assert_close(scores, model(expected), atol=1e-4, rtol=1e-4)


PRECISIONS = [
    *itertools.product(("bf16", "int8"), [options for options in VARIANTS if "distribution" not in options]),
    *itertools.product(("int8",), [options for options in VARIANTS if "distribution" in options]),
    ("int8", {"channels": 33, "skip_channels": 9, "hidden_channels": 1}),
]


@pytest.mark.parametrize(("precision", "options"), PRECISIONS)
def test_a_precision_computes_its_definition_for_any_batch_threads_and_chunks(precision, options):
    model = make(**options)
    codes = torch.randint(model.num_codes, (6, 50), generator=torch.Generator().manual_seed(1))
    definition = RoundedSession(model.plan(), model.start(6), precision=precision)
    expected = definition.score(codes)
    session = NumbaSession(model.plan(), model.start(6), precision=precision)
    scores = session.score(codes).double()
    check_rounded(scores, expected, precision)
    for key, value in definition.state().items():
        if value.numel():
            check_rounded(session.state()[key].double(), value.double(), precision)
    for threads in (1, 2):
        alone = NumbaSession(model.plan(), model.start(1), precision=precision, threads=threads)
        first = alone.score(codes[2:3, :21])
        state = alone.state()
        assert torch.equal(torch.cat([first, alone.score(codes[2:3, 21:])], 2)[0].double(), scores[2])
        continued = NumbaSession(model.plan(), state, precision=precision, threads=threads)
        assert torch.equal(continued.score(codes[2:3, 21:])[0].double(), scores[2, :, 21:])


def check_rounded(found, expected, precision):
    """A number close to a tie may be rounded otherwise than in the definition, and later numbers follow from it."""
    error = (found - expected).abs().flatten() / expected.abs().max().clamp_min(1e-9)
    assert error.max() < 0.03
    if precision == "int8" or VECTORS.has_dot:  # without it, bf16 weights differ in their last digit
        assert error.quantile(0.1) < 1e-6
        assert error.median() < 1e-3


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_differs_from_float32_by_its_rounding(precision):
    model = make(channels=40, skip_channels=24)
    codes = torch.randint(256, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        exact = model(codes)
    scores = NumbaSession(model.plan(), model.start(2), precision=precision).score(codes)
    assert 1e-5 < (scores - exact).abs().max() / exact.abs().max() < 0.05


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ({}, {"temperature": 0.0}),
        ({}, {"temperature": 0.7, "top_k": 5}),
        ({}, {"top_p": 0.6}),
        ({"distribution": "logistics", "components": 3}, {"temperature": 0.0}),
        ({"distribution": "logistics", "components": 3}, {"temperature": 0.7, "top_p": 0.6}),
        ({"distribution": "gaussians"}, {"temperature": 0.0}),
        ({"distribution": "gaussians"}, {"temperature": 1e-30, "top_p": 0.1}),
    ],
)
def test_sampling_settings_equal_the_torch_engines(head, settings):
    model = make(**head)
    expected = generate(model, 60, num=3, engine="torch", **settings)
    assert torch.equal(generate(model, 60, num=3, engine="numba", **settings), expected)


def test_a_primed_state_and_unequal_lengths():
    model = make()
    prime = generate(model, 40, engine="torch")
    whole = generate(model, 50, num=3, prime=prime, engine="numba")
    assert torch.equal(whole, generate(model, 50, num=3, prime=prime, engine="torch"))
    clips = generate(model, [50, 20, 31], prime=prime, engine="numba")
    for clip, full, length in zip(clips, whole, (50, 20, 31), strict=True):
        assert torch.equal(clip, full[:, :length])


def test_errors():
    for engine, most in (("numba", 2), ("torch", 1)):
        with pytest.raises(WavedilError, match=f"threads is {most + 1}: this engine uses {most} at most"):
            generate(make(), 5, engine=engine, threads=most + 1)
    with pytest.raises(WavedilError, match="this engine has fp32, bf16, int8"):
        generate(make(), 5, engine="numba", precision="fp16")


@pytest.mark.parametrize(("features", "speaker"), [(3, 0), (0, 2), (5, 4)])
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("scalar", [False, True])
def test_condition_speaker_and_scalar_input_of_a_plan(features, speaker, batch, threads, scalar):
    model = make(kernel_size=3, input_kernel_size=2, num_codes=40)
    draw = torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(*shape, generator=draw)

    plan = model.plan()
    layers = [replace(layer, condition=random(16, features + speaker) / 3) for layer in plan.layers]
    plan = replace(plan, layers=tuple(layers), condition_channels=features, speaker_channels=speaker)
    if scalar:
        plan = replace(plan, input_embedding=AmplitudeEmbeddingPlan(random(2, 8), random(8), torch.linspace(-1, 1, 40)))
    condition = random(batch, features, 60) if features else None
    speakers = random(batch, speaker) if speaker else None
    uniforms = Uniforms(0, batch).draw(60)
    reference = TorchSession(plan, model.start(batch), speaker=speakers)
    session = NumbaSession(plan, model.start(batch), speaker=speakers, threads=threads)
    found = []
    for part in (slice(0, 19), slice(19, 60)):
        chunk = None if condition is None else condition[..., part]
        codes = session.sample(uniforms[:, part], chunk)
        assert torch.equal(codes, reference.sample(uniforms[:, part], chunk))
        found.append(codes)
    scores = NumbaSession(plan, model.start(batch), speaker=speakers, threads=threads).score(
        torch.cat(found, 1), condition
    )
    exact = TorchSession(plan, model.start(batch), speaker=speakers).score(torch.cat(found, 1), condition)
    torch.testing.assert_close(scores.double(), exact, atol=1e-4, rtol=1e-4)
    for precision in ("bf16", "int8"):
        options = {"speaker": speakers, "precision": precision, "guidance": 2.0}
        codes = torch.cat(found, 1)
        expected = RoundedSession(plan, model.start(batch), **options).score(codes, condition)
        scores = NumbaSession(plan, model.start(batch), threads=threads, **options).score(codes, condition)
        check_rounded(scores.double(), expected, precision)


class Other(Categorical):
    """A distribution that samples differently."""

    def sample(self, logits, uniforms, settings):
        return 0 * super().sample(logits, uniforms, settings)


def test_an_unknown_distribution_is_refused_and_skipped_by_auto(caplog):
    from wavedil.audio.generation.engines.cpu.specs import make_spec

    model = make()
    plan = replace(model.plan(), distribution=Other().set_quantizer(MuLaw(256)))
    with pytest.raises(WavedilError, match="the distribution is Other, not one of Categorical.*: use engine='torch'"):
        NumbaSession(plan, model.start(1))
    with pytest.raises(WavedilError, match="does not support the distribution Other"):
        make_spec(Other().set_quantizer(MuLaw(256)))
    with caplog.at_level("DEBUG", "wavedil"):
        assert choose("auto", plan, 1) == "torch"
    assert "engine numba skipped: the distribution is Other" in caplog.text
    assert choose("auto", model.plan(), 1) == "numba"


def test_a_condition_that_does_not_fit_is_refused():
    model = make()
    session = NumbaSession(model.plan(), model.start(2))
    with pytest.raises(WavedilError, match="the model takes none"):
        session.sample(Uniforms(0, 2).draw(5), torch.zeros(2, 3, 5))


@pytest.mark.parametrize("quantizer", [MuLaw(256), MuLaw(31), Linear(65536)])
@pytest.mark.parametrize(("mixture", "components"), [(MixtureOfLogistics, 4), (MixtureOfGaussians, 3)])
def test_a_mixture_draws_the_codes_of_its_definition_also_for_extreme_parameters(quantizer, mixture, components):
    from wavedil.audio.generation.engines.cpu.mixtures import sample_mixture
    from wavedil.audio.generation.engines.cpu.specs import make_spec

    generator = torch.Generator().manual_seed(0)
    distribution = mixture(components).set_quantizer(quantizer)
    parameters = torch.randn(3000, distribution.num_parameters, generator=generator)
    parameters[:, 2 * components :] -= 4
    parameters[::3] *= 30  # components without weight; scales far below and above the range of amplitudes
    u = torch.rand(3000, generator=generator, dtype=torch.float64)
    u[:4] = torch.tensor([0.0, 2**-53, 0.5, 1 - 2**-53])
    for temperature, top_p in ((1.0, None), (0.3, 0.8), (1e-9, None), (0.0, None)):
        expected = distribution.sample(parameters, u, Sampling(temperature, top_p=top_p))
        rows, spec, draw = parameters.numpy(), make_spec(distribution), numba.njit(sample_mixture)
        found = [
            draw(row, value, spec, temperature, 0, top_p or 1.0, None)
            for row, value in zip(rows, u.tolist(), strict=True)
        ]
        assert found == expected.tolist()


def test_the_normal_quantile_is_exact_in_the_tails_too():
    from wavedil.audio.generation.engines.cpu.mixtures import _normal_quantile

    v = torch.cat([torch.logspace(-15.9, -0.31, 200, dtype=torch.float64), torch.tensor([2.0**-53, 0.5])])
    v = torch.cat([v, 1 - v])
    quantile = numba.njit(lambda value: _normal_quantile(value))
    found = torch.tensor([quantile(value) for value in v.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found, torch.special.ndtri(v), rtol=1e-14, atol=1e-15)
