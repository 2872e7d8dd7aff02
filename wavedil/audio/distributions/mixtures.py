"""Mixtures over amplitudes, with the likelihood of a quantizer's codes.

The probability of a code is that of its cell, CDF(upper edge) - CDF(lower edge); the first and the last cell extend to
infinity (Salimans et al. 2017, PixelCNN++, arXiv 1701.05517, section 2.1). The nats are therefore at the resolution of
the quantizer, and compare with those of a softmax over the same codes.

The parameters of a sample are ``[logits, means, log scales]``, K each for K components; ``[mean, log scale]`` for one.
"""

import copy
import math
from typing import Annotated, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.audio.distributions.base import Distribution, Sampling, flatten_time
from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.distributions.quantizers import Quantizer
from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError, one_of, with_article
from wavedil.weights import register

#: Uniforms are clamped to [SMALLEST, 1 - SMALLEST]: 2**-53 is the spacing of float64 numbers just below 1.
SMALLEST = 2.0**-53
Components = Annotated[int, Range(1, 1000)]
_TINY = 1e-300  # keeps the logarithm of a probability that underflows finite


class Mixture(Distribution):
    """Mixture of K components of one symmetric form.

    A subclass defines the form: :meth:`quantile`, :meth:`log_mass`, :meth:`log_below` and ``deviation``.

    Computed in float64: the head has few outputs, and a mean rounded to float32 would draw other codes in other
    engines. Log scales are clamped to [``lowest``, ``highest``]: 1/55 of the narrowest cell, below which one cell holds
    all of a component's probability, and 20 times full scale.

    :meth:`sample` uses **one** uniform u per sample. Every engine repeats this arithmetic: float64, in this order, sums
    from the first component on, nothing contracted or reassociated. With temperature T and top_p p (None skips its
    step)::

        w_k = exp((logit_k - largest logit) / T),  C_k = w_1 + ... + w_k,  r = u * C_K
        k   = the first with C_k > r; if rounding leaves none, the last with w_k > 0
        v   = (r - C_(k-1)) / w_k                                   (C_0 = 0; for K = 1, k = 1 and v = u)
        v   = min(max(v, 2**-53), 1 - 2**-53)
        v   = (1 - p) / 2 + p * v
        s   = T * exp(min(max(log scale_k, lowest), highest))
        x   = mean_k + s * quantile(v)
        code = quantizer.encode(x)                                  (clips; its docstring has the arithmetic)

    For T = 0, x = mean_k of the largest logit, the first of equal ones.

    Args:
        components: K.
    """

    needs_float32 = True
    #: Standard deviation of a component of scale 1.
    deviation: float

    @checked
    def __init__(self, components: Components):
        self.components = components
        self.num_parameters = 2 if components == 1 else 3 * components

    def set_quantizer(self, quantizer: Quantizer) -> Self:
        self.lowest, self.highest = math.log(quantizer.finest) - 4.0, 3.0
        return super().set_quantizer(quantizer)

    def quantile(self, v: Tensor) -> Tensor:
        """Inverse CDF of a component of mean 0 and scale 1."""
        raise NotImplementedError

    def log_mass(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        """log(CDF(upper) - CDF(lower)) for mean 0 and scale 1.

        ``width`` is upper - lower, computed from the cell's edges: more precise than the difference of the two.
        """
        raise NotImplementedError

    def log_below(self, x: Tensor) -> Tensor:
        """log CDF(x) for mean 0 and scale 1."""
        raise NotImplementedError

    def nll(self, parameters: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`Distribution`. float32, or float64 for float64 parameters; values and gradients are finite."""
        rows, codes = flatten_time(parameters, codes, mask)
        nats = -self.log_between(rows, codes, codes + 1)
        return nats if parameters.dtype == torch.float64 else nats.float()

    def log_between(self, parameters: Tensor, first: Tensor, last: Tensor) -> Tensor:
        logits, means, log_scales = self.split(parameters)
        first, last = first.unsqueeze(1), last.unsqueeze(1)
        start, end = self.quantizer.boundary(first), self.quantizer.boundary(last)
        scale = torch.exp(-log_scales)
        lower, upper = (start - means) * scale, (end - means) * scale
        inner = self.log_mass(lower, upper, (end - start) * scale)
        # Components are symmetric: the probability above x is that below -x.
        below, above = self.log_below(upper), self.log_below(-lower)
        to_end = last == self.quantizer.num_codes
        mass = torch.where(first == 0, below, torch.where(to_end, above, inner))
        mass = torch.where((first == 0) & to_end, 0.0, mass)
        return torch.logsumexp(F.log_softmax(logits, 1) + mass, 1)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(n, parameters)`` to logits, means and clamped log scales, each float64 ``(n, components)``."""
        rows = rows.double()
        if self.components == 1:
            rows = F.pad(rows, (1, 0))
        logits, means, log_scales = rows.split(self.components, 1)
        return logits, means, log_scales.clamp(self.lowest, self.highest)

    def sample(self, parameters: Tensor, uniforms: Tensor, settings: Sampling) -> Tensor:
        """See the class docstring for the arithmetic."""
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
                f"top_k is {settings.top_k}: expected None, since it is for categorical distributions; use top_p"
            )

    def prior(self, counts: Tensor) -> Tensor:
        """Equal weights; component k fits the k-th of K equal shares of the sorted amplitudes."""
        levels, counts = self.quantizer.levels.double(), counts.double().cpu()
        reached = F.pad(counts.cumsum(0) / counts.sum(), (1, 0)) * self.components
        k = torch.arange(self.components, device="cpu").unsqueeze(1)
        shares = (reached - k).clamp(0, 1).diff()  # (components, codes), each row sums to 1
        means = shares @ levels
        spread = (shares @ levels.square() - means.square()).clamp(min=0).sqrt()
        scales = (spread / self.deviation).clamp(min=self.quantizer.finest).log()
        return torch.cat([torch.zeros(self.num_parameters - 2 * self.components, device="cpu"), means, scales]).float()


@register
class MixtureOfLogistics(Mixture):
    """Mixture of logistic distributions (Salimans et al. 2017); quantile(v) = log(v) - log1p(-v)."""

    deviation = math.pi / math.sqrt(3)

    def __init__(self, components: Components = 10):
        super().__init__(components)

    def quantile(self, v: Tensor) -> Tensor:
        return torch.log(v) - torch.log1p(-v)

    def log_mass(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), without a difference.
        inside = -torch.expm1(-width)
        return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(inside.clamp(min=_TINY))

    def log_below(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x)


@register
class MixtureOfGaussians(Mixture):
    """Mixture of Gaussians; with one component the single Gaussian of ClariNet (Ping et al. 2018, arXiv 1807.07281).

    quantile(v) is the inverse of the standard normal CDF.
    """

    deviation = 1.0

    def __init__(self, components: Components = 1):
        super().__init__(components)

    def quantile(self, v: Tensor) -> Tensor:
        return torch.special.ndtri(v)

    def log_mass(self, lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
        root = math.sqrt(0.5)
        # The mean is inside the cell: the probabilities of both sides are added.
        around = (torch.erf(upper * root) - torch.erf(lower * root)) / 2
        # The mean is outside: exp(-near² / 2) is factored out of the difference, which would underflow in the tail.
        near, far = torch.minimum(lower.abs(), upper.abs()), torch.maximum(lower.abs(), upper.abs())
        apart = torch.exp(-width * (near + far) / 2)
        beside = torch.special.erfcx(near * root) - apart * torch.special.erfcx(far * root)
        return torch.where(
            (lower <= 0) & (upper >= 0),
            torch.log(around.clamp(min=_TINY)),
            torch.log(beside.clamp(min=_TINY)) - near.square() / 2 - math.log(2),
        )

    def log_below(self, x: Tensor) -> Tensor:
        # Not torch.special.log_ndtr, whose gradient is wrong below -1e5.
        root = math.sqrt(0.5)
        low = torch.log(torch.special.erfcx(-x.clamp(max=0) * root) / 2) - x.square() / 2
        return torch.where(x < 0, low, torch.log1p(-torch.erfc(x.clamp(min=0) * root) / 2))


#: Distributions by the names that recipes and config.json use.
DISTRIBUTIONS = {"categorical": Categorical, "logistics": MixtureOfLogistics, "gaussians": MixtureOfGaussians}


def make_distribution(
    distribution: str | Distribution, quantizer: Quantizer, components: int | None = None
) -> Distribution:
    """The distribution of a quantizer's codes: one of ``DISTRIBUTIONS`` by name, or an instance of your own.

    ``components`` is for mixtures by name; None is 10 logistics or 1 Gaussian.
    """
    if isinstance(distribution, str):
        if distribution not in DISTRIBUTIONS:
            raise WavedilError(f"distribution is {distribution!r}: expected {one_of(distribution, DISTRIBUTIONS)}")
        kind = DISTRIBUTIONS[distribution]
        if components is None or issubclass(kind, Mixture):
            return kind(*() if components is None else (components,)).set_quantizer(quantizer)
    elif not isinstance(distribution, Distribution):
        raise WavedilError(
            f"distribution is {with_article(distribution)}: expected one of {', '.join(DISTRIBUTIONS)}, or an instance "
            "of a subclass of wavedil.audio.distributions.Distribution"
        )
    elif components is None:
        return copy.copy(distribution).set_quantizer(quantizer)  # the same instance may be passed to several networks
    name = distribution if isinstance(distribution, str) else with_article(distribution)
    raise WavedilError(
        f"components is {components}: expected None, since the distribution is {name}; only mixtures have components"
    )
