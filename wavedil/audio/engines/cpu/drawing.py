"""What the compiled loop has to know of an output distribution. A new one is a kind here and a function of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wavedil.audio.distributions import Categorical, Distribution
from wavedil.audio.mixtures import MixtureOfGaussians, MixtureOfLogistics

CATEGORICAL, LOGISTICS, GAUSSIANS = range(3)
KINDS = {Categorical: CATEGORICAL, MixtureOfLogistics: LOGISTICS, MixtureOfGaussians: GAUSSIANS}


class Drawing(NamedTuple):
    """How a code is drawn; what a categorical output has no use for is empty."""

    kind: int
    components: int
    lowest: float  # bounds of the log scales
    highest: float
    edges: np.ndarray  # float64 (codes - 1,), the amplitudes between codes


def drawing_of(distribution: Distribution) -> Drawing:
    kind = KINDS[type(distribution)]
    if kind == CATEGORICAL:
        return Drawing(kind, 0, 0.0, 0.0, np.zeros(0))
    bounds = distribution.lowest, distribution.highest
    return Drawing(kind, distribution.components, *bounds, distribution.quantiser.edges.numpy())
