"""Output distributions as the compiled loop reads them: numbers and arrays in named tuples.

A new distribution needs a spec here and a function that samples from it in the table of ``loop.py``. The loop is
compiled for the type of the spec, so a model does not wait for the compilation of other models' distributions.
"""

from typing import NamedTuple

import numpy as np

from wavedil.audio.distributions.base import Distribution
from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.distributions.mixtures import MixtureOfGaussians, MixtureOfLogistics
from wavedil.errors import WavedilError

LOGISTIC, GAUSSIAN = range(2)
_FORMS = {MixtureOfLogistics: LOGISTIC, MixtureOfGaussians: GAUSSIAN}

#: The supported classes. A subclass is not supported: it may sample differently.
SUPPORTED = (Categorical, *_FORMS)


class CategoricalSpec(NamedTuple):
    """The parameters are logits of ``num_codes`` codes."""

    num_codes: int


class MixtureSpec(NamedTuple):
    """The parameters are those of :class:`wavedil.audio.distributions.mixtures.Mixture`."""

    form: int  # of the components: LOGISTIC or GAUSSIAN
    components: int
    lowest: float  # bounds of the log scales
    highest: float
    edges: np.ndarray  # float64 (codes - 1,), the amplitudes between codes


def make_spec(distribution: Distribution) -> CategoricalSpec | MixtureSpec:
    """The spec of a distribution; raises WavedilError if its class is not one of ``SUPPORTED``."""
    kind = type(distribution)
    if kind is Categorical:
        return CategoricalSpec(distribution.num_codes)
    if kind in _FORMS:
        return MixtureSpec(
            _FORMS[kind],
            distribution.components,
            distribution.lowest,
            distribution.highest,
            distribution.quantizer.edges.numpy(),
        )
    raise WavedilError(f"engine numba does not support the distribution {kind.__name__}: use engine='torch'")
