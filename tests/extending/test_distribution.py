"""An output distribution defined outside the package: training, model folders, evaluation and generation use it."""

import json
import math

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from wavedil.audio import WaveNet, generate, load, save
from wavedil.audio.distributions import Categorical, Distribution, Linear, Mixture, MuLaw
from wavedil.audio.evaluation import evaluate
from wavedil.audio.generation.engines import choose
from wavedil.errors import WavedilError
from wavedil.train import AudioModule
from wavedil.weights import register

ROOT = math.sqrt(3)


@register
class StudentT(Mixture):
    """Student's t with 3 degrees of freedom, which has a CDF in closed form; heavier tails than a Gaussian."""

    deviation = ROOT

    def __init__(self, components: int = 1):
        super().__init__(components)

    def cdf(self, x: Tensor) -> Tensor:
        return 0.5 + (x / ROOT / (1 + x.square() / 3) + torch.atan(x / ROOT)) / math.pi

    def log_mass(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        return torch.log((self.cdf(upper) - self.cdf(lower)).clamp(min=1e-300))

    def log_below(self, x: Tensor) -> Tensor:
        return torch.log(self.cdf(x).clamp(min=1e-300))

    def quantile(self, v: Tensor) -> Tensor:
        low, high = torch.full_like(v, -1e6), torch.full_like(v, 1e6)
        for _ in range(80):  # bisection
            middle = (low + high) / 2
            low, high = torch.where(self.cdf(middle) < v, middle, low), torch.where(self.cdf(middle) < v, high, middle)
        return (low + high) / 2


class Unregistered(StudentT):
    pass


def make(**options) -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(8, 12, "1..8", sample_rate=8000, **{"distribution": StudentT(), **options}).eval()


def sounds(time: int = 400) -> Tensor:
    """Decaying sines: what a small model can learn in a few steps."""
    t = torch.arange(time) / 8000
    return torch.stack([0.5 * torch.exp(-20 * t) * torch.sin(2 * math.pi * f * t) for f in (220.0, 330.0)])


@pytest.mark.parametrize("quantizer", [MuLaw(256), Linear(1000)])
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.1), (0.3, 0.01), (-2.0, 0.5)])
def test_the_probabilities_of_all_codes_sum_to_1(quantizer, mean, scale):
    distribution = StudentT().set_quantizer(quantizer)
    codes = torch.arange(quantizer.num_codes).unsqueeze(0)
    parameters = torch.tensor([mean, math.log(scale)], dtype=torch.float64).view(1, 2, 1).expand(-1, -1, codes.shape[1])
    assert torch.exp(-distribution.nll(parameters, codes)).sum().item() == pytest.approx(1, abs=1e-12)


def test_training_lowers_the_loss_from_the_prior():
    model = make(input="scalar").train()
    codes = model.encode(sounds())
    initial = model.loss(codes).item()
    model.set_prior(torch.bincount(codes.flatten(), minlength=256))
    start = model.loss(codes).item()
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(20):
        optimizer.zero_grad()
        loss = model.loss(codes)
        loss.backward()
        optimizer.step()
    assert loss.item() < start - 0.1 and start < initial - 0.1


def test_model_folders_evaluation_and_generation(tmp_path):
    model = make(distribution=StudentT(2), quantizer="linear", num_codes=1000, input="scalar")
    again = load(save(model, tmp_path / "model"))
    argument = json.loads((tmp_path / "model" / "config.json").read_text())["arguments"]["distribution"]
    assert argument == {"class": f"{__name__}.StudentT", "arguments": {"components": 2}}
    assert type(again.distribution) is StudentT and again.distribution.num_parameters == 6
    codes = model.encode(sounds())
    bits = evaluate(again, sounds()).bits_per_sample
    assert bits == pytest.approx(model.loss(codes).item() / math.log(2), rel=1e-4)
    auto, torch_engine = (generate(again, 60, num=2, seed=3, engine=engine) for engine in ("auto", "torch"))
    assert torch.equal(auto, torch_engine) and torch.equal(auto, generate(model, 60, num=2, seed=3))
    assert len(auto.unique()) > 20


def test_one_instance_serves_networks_of_different_quantizers():
    distribution = StudentT()
    first, second = make(distribution=distribution), make(distribution=distribution, quantizer="linear", num_codes=1000)
    assert first.distribution.quantizer.num_codes == 256 and second.distribution.quantizer.num_codes == 1000


def test_a_built_in_distribution_may_be_an_instance_too(tmp_path):
    model = load(save(make(distribution=Categorical()), tmp_path / "model"))
    assert type(model.distribution) is Categorical and model.distribution.num_parameters == 256


def test_fast_engines_refuse_a_distribution_that_they_do_not_know():
    model = make()
    assert choose("auto", model.plan(), 1) in ("torch", "graphs")
    with pytest.raises(WavedilError, match="engine") as error:
        generate(model, 5, engine="numba")
    assert "\n" not in str(error.value)


def test_a_recipe_names_the_class():
    parser = ArgumentParser()
    parser.add_subclass_arguments(torch.nn.Module, "network")
    distribution = {"class_path": "wavedil.audio.distributions.MixtureOfLogistics", "init_args": {"components": 3}}
    for value, parameters in ((distribution, 9), ("gaussians", 2)):
        network = {"class_path": "wavedil.audio.WaveNet", "init_args": {"dilations": "1..4", "distribution": value}}
        model = parser.instantiate(parser.parse_object({"network": network})).network
        assert model.distribution.num_parameters == parameters
        AudioModule(model)  # a run can save it


def test_a_distribution_without_a_prior_keeps_the_initial_bias():
    class WithoutPrior(Categorical):
        prior = Distribution.prior

    model = make(distribution=WithoutPrior())
    before = model.head.out.bias.clone()
    model.set_prior(torch.ones(256))
    assert torch.equal(model.head.out.bias, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 3}, "components is 3: expected None, since the distribution is a StudentT"),
        ({"distribution": "student"}, "distribution is 'student': expected one of categorical, logistics, gaussians"),
        ({"distribution": 3}, "distribution is 3: expected a text or a Distribution"),
    ],
)
def test_errors(options, message):
    with pytest.raises(WavedilError, match=message):
        make(**options)


def test_a_class_that_is_not_registered_is_refused_before_training():
    with pytest.raises(WavedilError, match="Unregistered is neither a plain value nor of a registered class"):
        AudioModule(make(distribution=Unregistered()))
