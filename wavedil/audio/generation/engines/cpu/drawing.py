"""What the compiled loop has to know of an output distribution.

A new one is a tuple here and a function that draws from it: the loop is compiled for the type of the tuple, so that no
model waits for the compilation of other models' distributions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wavedil.audio.distributions.categorical import Categorical, Distribution
from wavedil.audio.distributions.mixtures import MixtureOfGaussians, MixtureOfLogistics

LOGISTICS, GAUSSIANS = range(2)
MIXTURES = {MixtureOfLogistics: LOGISTICS, MixtureOfGaussians: GAUSSIANS}
KINDS = (Categorical, *MIXTURES)


class CategoricalDrawing(NamedTuple):
    """Parameters are logits of so many codes."""

    num_codes: int


class MixtureDrawing(NamedTuple):
    kind: int
    components: int
    lowest: float  # bounds of the log scales
    highest: float
    edges: np.ndarray  # float64 (codes - 1,), the amplitudes between codes


def drawing_of(distribution: Distribution) -> CategoricalDrawing | MixtureDrawing:
    if isinstance(distribution, Categorical):
        return CategoricalDrawing(distribution.num_codes)
    return MixtureDrawing(
        MIXTURES[type(distribution)],
        distribution.components,
        distribution.lowest,
        distribution.highest,
        distribution.quantizer.edges.numpy(),
    )
