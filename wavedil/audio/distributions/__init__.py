"""Quantizers, and output distributions over their codes."""

from wavedil.audio.distributions.base import Distribution, Sampling
from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.distributions.mixtures import Mixture, MixtureOfGaussians, MixtureOfLogistics
from wavedil.audio.distributions.quantizers import Linear, MuLaw, Quantizer

__all__ = [
    "Categorical",
    "Distribution",
    "Linear",
    "Mixture",
    "MixtureOfGaussians",
    "MixtureOfLogistics",
    "MuLaw",
    "Quantizer",
    "Sampling",
]
