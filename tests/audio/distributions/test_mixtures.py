"""Mixtures: likelihoods against quadrature, gradients, extreme parameters, and sampling."""

import math
from statistics import NormalDist

import pytest
import torch
from torch.autograd import gradcheck

from wavedil.audio.distributions import Categorical, Linear, MixtureOfGaussians, MixtureOfLogistics, MuLaw, Sampling
from wavedil.audio.distributions.mixtures import make_distribution
from wavedil.audio.distributions.quantizers import make_quantizer
from wavedil.errors import WavedilError

QUANTIZERS = [MuLaw(256), MuLaw(31), Linear(64), Linear(7)]
HEADS = [MixtureOfLogistics, MixtureOfGaussians]


def row(logits, means, scales) -> torch.Tensor:
    """Parameters ``(1, parameters, 1)`` in float64, from scales."""
    values = [*(logits if len(means) > 1 else []), *means, *(math.log(s) for s in scales)]
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1)


def mixture(head, quantizer):
    return head(3).set_quantizer(quantizer), row([0.5, -1.0, 0.0], [-0.4, 0.02, 0.7], [0.05, 0.3, 0.01])


def probabilities(distribution, parameters) -> torch.Tensor:
    """The probability of each code."""
    codes = torch.arange(distribution.quantizer.num_codes).unsqueeze(0)
    return torch.exp(-distribution.nll(parameters.expand(-1, -1, codes.shape[1]), codes))


# -- quantizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", [*QUANTIZERS, MuLaw(65536), Linear(65536), MuLaw(2), Linear(2)])
def test_codes_change_at_the_cell_edges(quantizer):
    edges, levels = quantizer.edges, quantizer.levels
    assert edges.shape == (quantizer.num_codes - 1,) and levels.dtype == torch.float32 and levels.abs().max() <= 1
    assert (levels.double()[:-1] < edges).all() and (edges < levels.double()[1:]).all()
    every = torch.arange(quantizer.num_codes)
    assert torch.equal(quantizer.encode(levels), every)
    step = 1e-6 * quantizer.finest
    assert torch.equal(quantizer.encode(edges - step), every[:-1])
    assert torch.equal(quantizer.encode(edges + step), every[1:])
    assert quantizer.encode(torch.zeros(1)).item() == quantizer.zero
    assert quantizer.encode(torch.tensor([-9.0, 9.0])).tolist() == [0, quantizer.num_codes - 1]


def test_linear_codes_are_those_of_16_bit_files():
    quantizer = Linear(65536)
    integers = torch.arange(-32768, 32768)
    sound = integers.float() / 32768
    assert torch.equal(quantizer.encode(sound), integers + 32768)
    assert torch.equal(quantizer.decode(integers + 32768), sound)
    assert Linear(3).levels.tolist() == pytest.approx([-2 / 3, 0, 2 / 3])
    assert Linear(4).encode(torch.tensor([0.24, 0.26, -0.26, 1.0])).tolist() == [2, 3, 1, 3]
    assert make_quantizer("linear", 4).finest == 0.5


# -- likelihood --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("head", HEADS)
def test_probabilities_are_integrals_of_the_density(head, quantizer):
    distribution, parameters = mixture(head, quantizer)
    got = probabilities(distribution, parameters)
    assert got.sum().item() == pytest.approx(1, abs=1e-12)
    ends = torch.cat([torch.tensor([-12.0]).double(), quantizer.edges, torch.tensor([12.0]).double()])
    # Simpson's rule over pieces much narrower than any scale, in each cell.
    for code in range(0, quantizer.num_codes, max(1, quantizer.num_codes // 16)):
        start, stop = ends[code].item(), ends[code + 1].item()
        pieces = 2 * math.ceil((stop - start) / 0.0005)
        x = torch.linspace(start, stop, pieces + 1, dtype=torch.float64)
        density = torch.zeros_like(x)
        logits, means, log_scales = (part[0] for part in distribution.split(parameters[..., 0]))
        for weight, mean, scale in zip(logits.softmax(0), means, log_scales.exp(), strict=True):
            z = (x - mean) / scale
            form = (
                torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
                if head is MixtureOfGaussians
                else 1 / (4 * torch.cosh((z / 2).clamp(-300, 300)) ** 2)
            )
            density += weight * form / scale
        simpson = torch.ones_like(x)
        simpson[1:-1:2], simpson[2:-1:2] = 4, 2
        integral = (density * simpson).sum() * (stop - start) / pieces / 3
        assert got[code].item() == pytest.approx(integral.item(), rel=1e-6, abs=1e-12)


def test_probabilities_computed_by_hand():
    distribution = MixtureOfLogistics(1).set_quantizer(Linear(4))  # cell edges at -0.75, -0.25, 0.25
    sigmoid = [1 / (1 + math.exp(-(x - 0.1) / 0.2)) for x in (-0.75, -0.25, 0.25)]
    got = probabilities(distribution, row([], [0.1], [0.2]))
    assert got.tolist() == pytest.approx([sigmoid[0], sigmoid[1] - sigmoid[0], sigmoid[2] - sigmoid[1], 1 - sigmoid[2]])
    cdf = [(1 + math.erf((x - 0.1) / 0.2 / math.sqrt(2))) / 2 for x in (-0.75, -0.25, 0.25)]
    got = probabilities(MixtureOfGaussians(1).set_quantizer(Linear(4)), row([], [0.1], [0.2]))
    assert got.tolist() == pytest.approx([cdf[0], cdf[1] - cdf[0], cdf[2] - cdf[1], 1 - cdf[2]])


@pytest.mark.parametrize("head", HEADS)
def test_nll_equals_that_of_a_softmax_with_the_same_probabilities(head):
    distribution, parameters = mixture(head, MuLaw(256))
    logits = probabilities(distribution, parameters).log().view(1, 256, 1).expand(-1, -1, 20)
    codes = torch.randint(256, (1, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(20).unsqueeze(0) % 3 == 0
    ours = distribution.nll(parameters.expand(-1, -1, 20), codes, mask)
    torch.testing.assert_close(ours, Categorical().set_quantizer(MuLaw(256)).nll(logits, codes, mask))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("components", [1, 4])
@pytest.mark.parametrize("quantizer", [MuLaw(256), Linear(65536)])
def test_gradients(head, components, quantizer):
    distribution = head(components).set_quantizer(quantizer)
    generator = torch.Generator().manual_seed(components)
    parameters = torch.randn(2, distribution.num_parameters, 6, generator=generator, dtype=torch.float64) * 0.4
    parameters[:, -components:] -= 2  # scales
    # The first and last codes, near a mean, and far from all means.
    last = quantizer.num_codes - 1
    codes = torch.tensor([[0, last, quantizer.zero, 1, last - 1, last // 3]]).expand(2, -1)
    assert gradcheck(lambda p: distribution.nll(p, codes), parameters.requires_grad_(), eps=1e-7, atol=1e-4, rtol=1e-4)


def test_the_gradient_is_continuous_at_a_cell_edge():
    distribution, quantizer = MixtureOfGaussians(1).set_quantizer(MuLaw(256)), MuLaw(256)
    for code, edge in ((128, 0.0), (200, quantizer.edges[199].item())):
        found = []
        for mean in (edge, edge + 1e-9):
            parameters = row([], [mean], [0.001]).requires_grad_()
            distribution.nll(parameters, torch.tensor([[code]])).sum().backward()
            found.append(parameters.grad.flatten())
        torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("quantizer", [MuLaw(256), Linear(65536), MuLaw(65536)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_finite_for_extreme_parameters(head, components, quantizer, dtype):
    """Codes of silence and of clipped sound, and parameters of a head that diverged."""
    distribution = head(components).set_quantizer(quantizer)
    last = quantizer.num_codes - 1
    codes = torch.tensor([0, 1, last // 5, quantizer.zero - 1, quantizer.zero, last - 1, last])
    for mean in (-1e4, -1.0, 0.0, 1.0, 1e4):
        for log_scale in (-1e4, -21.0, -7.0, 0.0, 3.0, 1e4):
            for logit in (0.0, 1e4):
                values = [mean, log_scale] if components == 1 else [logit, 0, -logit, *[mean] * 3, *[log_scale] * 3]
                parameters = torch.tensor(values, dtype=dtype).view(1, -1, 1).repeat(1, 1, len(codes)).requires_grad_()
                nats = distribution.nll(parameters, codes.unsqueeze(0))
                nats.sum().backward()
                where = (mean, log_scale, logit)
                assert nats.dtype == torch.float32 and torch.isfinite(nats).all() and (nats >= -1e-6).all(), where
                assert torch.isfinite(parameters.grad).all(), where
    # A component much narrower than the cell of its mean has almost all of its probability there.
    level = quantizer.levels[quantizer.zero + 1].item()
    values = [level, -40.0] if components == 1 else [0, 0, 0, *[level] * 3, *[-40.0] * 3]
    parameters = torch.tensor(values).view(1, -1, 1)
    assert distribution.nll(parameters, torch.tensor([[quantizer.zero + 1]])).item() < 1e-6


@pytest.mark.parametrize("head", HEADS)
def test_far_tails_are_precise(head):
    """log p of a cell 1e5 scales from the mean, against the asymptotic expansion of the tail."""
    distribution = head(1).set_quantizer(Linear(65536))
    scale, code = 1e-6, 32768 + 3277  # cell from 0.10000 on
    start = distribution.quantizer.boundary(torch.tensor([code])).item()
    parameters = row([], [0.0], [scale]).requires_grad_()
    nats = distribution.nll(parameters, torch.tensor([[code]]))
    nats.sum().backward()
    z = start / scale
    expected = z if head is MixtureOfLogistics else z * z / 2 + math.log(z * math.sqrt(2 * math.pi))
    slope = 1 if head is MixtureOfLogistics else z
    assert nats.item() == pytest.approx(expected, rel=1e-9)
    assert parameters.grad[0, 0, 0].item() == pytest.approx(-slope / scale, rel=1e-6)


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("quantizer", [MuLaw(31), Linear(64)])
def test_a_grid_of_uniforms_draws_the_probabilities(head, quantizer):
    distribution, parameters = mixture(head, quantizer)
    count = 20_000
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    codes = distribution.sample(parameters[..., 0].expand(count, -1), u, Sampling())
    drawn = torch.bincount(codes, minlength=quantizer.num_codes) / count
    # Each of the three components maps one interval of uniforms to a cell: at most one grid point of error each.
    assert (drawn - probabilities(distribution, parameters)).abs().max() <= 3.01 / count


def test_one_uniform_selects_component_and_quantile():
    distribution = MixtureOfLogistics(2).set_quantizer(Linear(2000))
    parameters = row([math.log(0.25), math.log(0.75)], [-0.5, 0.2], [0.01, 0.02])[..., 0]

    def amplitude(u, **settings):
        code = distribution.sample(parameters, torch.tensor([u], dtype=torch.float64), Sampling(**settings))
        return distribution.quantizer.decode(code).item()

    def expected(mean, scale, v):
        return pytest.approx(mean + scale * math.log(v / (1 - v)), abs=6e-4)

    assert amplitude(0.10) == expected(-0.5, 0.01, 0.4)
    assert amplitude(0.25 + 0.75 * 0.9) == expected(0.2, 0.02, 0.9)
    assert amplitude(0.10, top_p=0.5) == expected(-0.5, 0.01, 0.25 + 0.5 * 0.4)
    # Temperature 0.5 squares the weights, to 1 : 9, and halves the scales.
    assert amplitude(0.08, temperature=0.5) == expected(-0.5, 0.005, 0.8)
    assert amplitude(0.55, temperature=0.5) == expected(0.2, 0.01, 0.5)
    assert amplitude(0.01, temperature=0) == amplitude(0.99, temperature=0) == pytest.approx(0.2, abs=6e-4)
    assert amplitude(0.0) == expected(-0.5, 0.01, 2**-53)
    gaussian = MixtureOfGaussians(1).set_quantizer(Linear(2000))
    code = gaussian.sample(row([], [0.1], [0.2])[..., 0], torch.tensor([0.975]).double(), Sampling())
    assert gaussian.quantizer.decode(code).item() == pytest.approx(0.1 + 0.2 * 1.959964, abs=6e-4)


def scalar_quantile(head, v):
    """The documented quantile functions in plain Python."""
    if head is MixtureOfLogistics:
        return math.log(v) - math.log1p(-v)

    return NormalDist().inv_cdf(v)


def scalar_sample(distribution, row, u, temperature, top_p):
    """One code in plain Python, by the docstring of Mixture."""
    count, quantizer = distribution.components, distribution.quantizer
    logits, means, log_scales = ([0.0] if count == 1 else row[:count]), row[-2 * count : -count], row[-count:]
    if temperature == 0:
        x = means[max(range(count), key=lambda i: logits[i])]
    else:
        weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
        sums = [sum(weights[: i + 1]) for i in range(count)]
        reached = u * sums[-1]
        k = next((i for i in range(count) if sums[i] > reached), max(i for i in range(count) if weights[i] > 0))
        v = (reached - (sums[k - 1] if k else 0.0)) / weights[k]
        v = min(max(v, 2**-53), 1 - 2**-53)
        v = v if top_p is None else (1 - top_p) / 2 + top_p * v
        scale = temperature * math.exp(min(max(log_scales[k], distribution.lowest), distribution.highest))
        x = means[k] + scale * scalar_quantile(type(distribution), v)
    x = min(max(x, -1.0), 1.0)
    if isinstance(quantizer, Linear):
        return min(math.floor(x * (quantizer.num_codes / 2) + 0.5) + quantizer.num_codes // 2, quantizer.num_codes - 1)
    mu = quantizer.num_codes - 1
    return int((math.copysign(math.log1p(mu * abs(x)), x) / math.log1p(mu) + 1) / 2 * mu + 0.5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("components", [1, 4])
@pytest.mark.parametrize("quantizer", [MuLaw(256), Linear(65536)])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"top_p": 0.3}, {"temperature": 0.0}])
def test_a_scalar_loop_draws_the_same_codes(head, components, quantizer, settings):
    distribution, settings = head(components).set_quantizer(quantizer), Sampling(**settings)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(400, distribution.num_parameters, generator=generator) * 0.5
    rows[:, -components:] -= 3
    u = torch.rand(400, generator=generator, dtype=torch.float64)
    u[:3] = torch.tensor([0.0, 1 - 2**-53, 0.5])
    found = distribution.sample(rows, u, settings).tolist()
    for row, number, code in zip(rows.double().tolist(), u.tolist(), found, strict=True):
        assert scalar_sample(distribution, row, number, settings.temperature, settings.top_p) == code


@pytest.mark.parametrize("head", HEADS)
def test_extreme_uniforms_and_temperatures(head):
    distribution, parameters = mixture(head, MuLaw(256))
    u = torch.tensor([0.0, 1 - 2**-53, 0.5], dtype=torch.float64)
    for temperature in (1e-310, 1e-3, 1.0, 1e6):
        codes = distribution.sample(parameters[..., 0].expand(3, -1), u, Sampling(temperature))
        assert ((codes >= 0) & (codes < 256)).all()
    sharp = row([0.0, -2000.0, -3000.0], [0.1, 0.9, 0.9], [0.001, 0.01, 0.01])[..., 0]
    code = distribution.sample(sharp, u[1:2], Sampling())  # never a component of weight 0
    assert distribution.quantizer.decode(code).item() == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("components", [1, 10])
def test_the_prior_fits_the_counts(head, components):
    quantizer = MuLaw(256)
    generator = torch.Generator().manual_seed(0)
    sound = 0.1 * torch.randn(20_000, generator=generator) + 0.02
    codes = quantizer.encode(sound)
    counts = torch.bincount(codes, minlength=256)
    p = counts / counts.sum()
    entropy = -(p * p.clamp(min=1e-9).log()).sum().item()
    distribution = head(components).set_quantizer(quantizer)
    parameters = distribution.prior(counts)
    assert parameters.shape == (distribution.num_parameters,)
    nats = distribution.nll(parameters.view(1, -1, 1).expand(-1, -1, len(codes)), codes.unsqueeze(0)).mean().item()
    assert entropy < nats < entropy + (0.02 if head is MixtureOfGaussians and components == 1 else 0.1)
    silent = torch.zeros(256)
    silent[128] = 100
    assert torch.isfinite(distribution.prior(silent)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_distribution("normal", MuLaw(256)), "expected one of categorical, logistics, gaussians"),
        (lambda: make_distribution("categorical", MuLaw(256), 3), "since the distribution is categorical"),
        (lambda: make_distribution("logistics", MuLaw(256), 0), "components is 0"),
        (lambda: make_quantizer("alaw", 256), "expected one of mulaw, linear"),
        (lambda: make_quantizer("linear", 65537), "expected an integer from 2 to 65536"),
        (lambda: Linear(4).encode(torch.tensor([math.nan])), "1 of 1 samples are NaN"),
        (lambda: Linear(4).decode(torch.tensor([4])), "codes span 4..4: expected 0..3"),
        (
            lambda: MixtureOfGaussians(1).set_quantizer(MuLaw(256)).check(Sampling(top_k=5)),
            "top_k is 5: expected None, since it is for categorical",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(WavedilError, match=message):
        call()
