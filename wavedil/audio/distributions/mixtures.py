"""Continuous output distributions: mixtures over amplitudes, whose likelihoods are those of a quantizer's codes.

A code's probability is what the mixture gives to its cell, CDF(upper edge) - CDF(lower edge); the first and the last
cell reach to infinity (Salimans et al. 2017, PixelCNN++, arXiv 1701.05517, section 2.1). So the nats are at the
quantizer's resolution, and those over the same quantizer's codes can be compared with a softmax over them.

A sample's parameters are ``[logits, means, log scales]``, K each for K components; ``[mean, log scale]`` for one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.audio.distributions.categorical import Categorical, Distribution, Sampling, flat
from wavedil.audio.distributions.quantizers import Quantizer
from wavedil.errors import WavedilError

#: The smallest distance of a uniform from 0 and 1: 2**-53, half of what doubles below 1 are apart.
SMALLEST = 2.0**-53
_TINY = 1e-300  # where a probability has no digits left, its logarithm stays finite


class Mixture(Distribution):
    """K components, of which a subclass says the form.

    Everything is in float64: a head has few numbers, and a mean that is rounded to float32 would pick other codes in
    other engines. Log scales are held to [``lowest``, ``highest``]: a 55th of the narrowest cell, below which all of a
    component's probability lies in one cell anyway, and 20 times full scale.

    ``sample`` takes **one** uniform u for each sample, and is what every engine repeats: float64, in this order, sums
    from the first component on, nothing contracted or reassociated. With temperature T and top_p p (1 where it is not
    given; the step is then left out)::

        w_k = exp((logit_k - largest logit) / T),  C_k = w_1 + ... + w_k,  r = u * C_K
        k   = the first with C_k > r; where rounding leaves none, the last with w_k > 0
        v   = (r - C_(k-1)) / w_k                                   (C_0 = 0; so for K = 1, k is the only one and v = u)
        v   = min(max(v, 2**-53), 1 - 2**-53)
        v   = (1 - p) / 2 + p * v
        s   = T * exp(min(max(log scale_k, lowest), highest))
        x   = mean_k + s * quantile(v)
        code = quantizer.encode(x)                                  (which clips; see there for its arithmetic)

    With T = 0: x = mean_k of the largest logit, the first of equal ones.

    Args:
        quantizer: what the codes mean.
        components: K.
    """

    needs_float32 = True

    def __init__(self, quantizer: Quantizer, components: int):
        if not isinstance(components, int) or components < 1:
            raise WavedilError(f"components is {components!r}: expected a positive integer")
        self.quantizer, self.components = quantizer, components
        self.num_parameters = 2 if components == 1 else 3 * components
        self.lowest, self.highest = math.log(quantizer.finest) - 4.0, 3.0

    def quantile(self, v: Tensor) -> Tensor:
        """Inverse CDF of the component of mean 0 and scale 1."""
        raise NotImplementedError

    def log_mass(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        """log(CDF(upper) - CDF(lower)) of mean 0, scale 1; ``width`` is upper - lower, known better than from them."""
        raise NotImplementedError

    def log_below(self, x: Tensor) -> Tensor:
        """log CDF(x) of mean 0 and scale 1."""
        raise NotImplementedError

    #: Standard deviation of the component of scale 1.
    deviation: float

    def nll(self, parameters: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`Distribution`; float32, or float64 for float64 parameters. Finite, and so are the gradients."""
        rows, codes = flat(parameters, codes, mask)
        logits, means, log_scales = self.split(rows)
        codes = codes.unsqueeze(1)
        start, end = self.quantizer.boundary(codes), self.quantizer.boundary(codes + 1)
        scale = torch.exp(-log_scales)
        lower, upper = (start - means) * scale, (end - means) * scale
        inner = self.log_mass(lower, upper, (end - start) * scale)
        # The form of both is symmetric: what lies above x is what lies below -x.
        below, above = self.log_below(upper), self.log_below(-lower)
        last = self.quantizer.num_codes - 1
        mass = torch.where(codes == 0, below, torch.where(codes == last, above, inner))
        nats = -torch.logsumexp(F.log_softmax(logits, 1) + mass, 1)
        return nats if parameters.dtype == torch.float64 else nats.float()

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, means and log scales, held in range, each float64 ``(n, components)``, of ``(n, parameters)``."""
        rows = rows.double()
        if self.components == 1:
            rows = F.pad(rows, (1, 0))
        logits, means, log_scales = rows.split(self.components, 1)
        return logits, means, log_scales.clamp(self.lowest, self.highest)

    def sample(self, parameters: Tensor, uniforms: Tensor, settings: Sampling) -> Tensor:
        """See the class."""
        self.check(settings)
        logits, means, log_scales = self.split(parameters)
        if settings.temperature == 0:
            return self.quantizer.encode(means.gather(1, logits.argmax(1, keepdim=True))[:, 0])
        u = uniforms.double().unsqueeze(1)
        weights = torch.exp((logits - logits.amax(1, keepdim=True)) / settings.temperature)
        cumulative = weights.cumsum(1)
        reached = u * cumulative[:, -1:]
        last = self.components - 1 - (weights.flip(1) > 0).int().argmax(1, keepdim=True)
        k = torch.minimum((cumulative <= reached).sum(1, keepdim=True), last)
        before = F.pad(cumulative, (1, 0)).gather(1, k)
        v = ((reached - before) / weights.gather(1, k)).clamp(SMALLEST, 1 - SMALLEST)
        if settings.top_p is not None:
            v = (1 - settings.top_p) / 2 + settings.top_p * v
        scale = settings.temperature * torch.exp(log_scales.gather(1, k))
        return self.quantizer.encode((means.gather(1, k) + scale * self.quantile(v))[:, 0])

    def check(self, settings: Sampling) -> None:
        if settings.top_k is not None:
            raise WavedilError(
                f"top_k is {settings.top_k}, which belongs to categorical heads: this model's is a mixture over "
                "amplitudes; leave it out, or use top_p"
            )

    def prior(self, counts: Tensor) -> Tensor:
        """Equal weights; component k has mean and spread of the k-th of K equal shares of the sorted amplitudes."""
        levels, counts = self.quantizer.levels.double(), counts.double().cpu()
        reached = F.pad(counts.cumsum(0) / counts.sum(), (1, 0)) * self.components
        k = torch.arange(self.components, device="cpu").unsqueeze(1)
        shares = (reached - k).clamp(0, 1).diff()  # (components, codes), each row sums to 1
        means = shares @ levels
        spread = (shares @ levels.square() - means.square()).clamp(min=0).sqrt()
        scales = (spread / self.deviation).clamp(min=self.quantizer.finest).log()
        return torch.cat([torch.zeros(self.num_parameters - 2 * self.components, device="cpu"), means, scales]).float()


class MixtureOfLogistics(Mixture):
    """Mixture of logistic distributions (Salimans et al. 2017); quantile(v) = log(v) - log1p(-v)."""

    deviation = math.pi / math.sqrt(3)

    def quantile(self, v: Tensor) -> Tensor:
        return torch.log(v) - torch.log1p(-v)

    def log_mass(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), and no factor is a difference.
        inside = -torch.expm1(-width)
        return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(inside.clamp(min=_TINY))

    def log_below(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x)


class MixtureOfGaussians(Mixture):
    """Mixture of Gaussians; with one component the single Gaussian of ClariNet (Ping et al. 2018, arXiv 1807.07281).

    quantile(v) is the inverse of the standard normal CDF.
    """

    deviation = 1.0

    def quantile(self, v: Tensor) -> Tensor:
        return torch.special.ndtri(v)

    def log_mass(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        root = math.sqrt(0.5)
        # A cell with the mean inside: two probabilities add up.
        around = (torch.erf(upper * root) - torch.erf(lower * root)) / 2
        # On one side of the mean: exp(-near² / 2) goes before the difference, or nothing would be left of it far out.
        near, far = torch.minimum(lower.abs(), upper.abs()), torch.maximum(lower.abs(), upper.abs())
        apart = torch.exp(-width * (near + far) / 2)
        beside = torch.special.erfcx(near * root) - apart * torch.special.erfcx(far * root)
        return torch.where(
            (lower <= 0) & (upper >= 0),
            torch.log(around.clamp(min=_TINY)),
            torch.log(beside.clamp(min=_TINY)) - near.square() / 2 - math.log(2),
        )

    def log_below(self, x: Tensor) -> Tensor:
        # (torch.special.log_ndtr has a wrong gradient below -1e5.)
        root = math.sqrt(0.5)
        low = torch.log(torch.special.erfcx(-x.clamp(max=0) * root) / 2) - x.square() / 2
        return torch.where(x < 0, low, torch.log1p(-torch.erfc(x.clamp(min=0) * root) / 2))


#: The names that a recipe and a config.json give mixtures, and their usual number of components.
MIXTURES = {"logistics": (MixtureOfLogistics, 10), "gaussians": (MixtureOfGaussians, 1)}


def make_distribution(name: str, quantizer: Quantizer, components: int | None = None) -> Distribution:
    """A distribution over a quantizer's codes by name: ``categorical``, ``logistics`` or ``gaussians``."""
    if name == "categorical":
        if components is not None:
            raise WavedilError(
                f"components is {components}, but the distribution is categorical: leave it out, or take logistics or "
                "gaussians"
            )
        return Categorical(quantizer.num_codes)
    if name not in MIXTURES:
        raise WavedilError(f"distribution is {name!r}: expected one of categorical, {', '.join(MIXTURES)}")
    mixture, usual = MIXTURES[name]
    return mixture(quantizer, usual if components is None else components)
