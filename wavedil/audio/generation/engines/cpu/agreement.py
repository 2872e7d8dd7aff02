"""Whether the compiled loop computes its definition on this machine: a short check at the first use, cached on disk.

A compiler, a CPU or a virtual machine can be faulty. The check draws codes with a small random model that has the
user's distribution, and compares codes and parameters with the torch engine. It runs once per format and kind of
distribution; that it passed is recorded beside the compiled code.
"""

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
import torch
from torch import Tensor

from wavedil.audio.distributions.base import Distribution, Sampling
from wavedil.audio.generation.engines.cpu import loop
from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS
from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.engines.rounded import RoundedSession
from wavedil.audio.generation.plan import (
    AmplitudeEmbeddingPlan,
    CodeEmbeddingPlan,
    GenerationPlan,
    LayerPlan,
    make_state,
)
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.ops.vector import cache_folder

_log = logging.getLogger("wavedil")

_STEPS = 40
_PROCESS = os.getpid()


class Agreement(NamedTuple):
    """Errors of the parameters, relative to the largest, and the share of codes that are equal or neighbors."""

    largest: float
    median: float
    codes: float
    is_exact: bool  # whether nothing is rounded

    def __str__(self) -> str:
        return f"errors {self.largest:.0e} at most and {self.median:.0e} in the median, {self.codes:.0%} of codes agree"

    @property
    def is_good(self) -> bool:
        """A number close to a tie may be rounded otherwise, so some numbers differ by a step of the format."""
        largest, median = (1e-4, 1e-5) if self.is_exact else (0.1, 0.01)
        return self.largest < largest and self.median < median and self.codes > 0.9  # False for NaN


def measure_agreement(distribution: Distribution, precision: str, batch: int) -> Agreement:
    """Compares the numba engine with its definition, for a batch of this size."""
    from wavedil.audio.generation.engines.cpu import NumbaSession

    plan, generator = _small_plan(distribution), torch.Generator().manual_seed(1)
    num_codes = plan.input_embedding.num_codes
    condition = torch.randn(batch, plan.condition_channels, _STEPS, generator=generator)
    histories = [torch.zeros(batch, plan.channels, layer.span) for layer in plan.layers]
    state, uniforms = make_state(torch.full((batch, 1), num_codes // 2), histories), Uniforms(1, batch).draw(_STEPS)
    found = NumbaSession(plan, state, precision=precision).sample(uniforms, condition)
    parameters = NumbaSession(plan, state, precision=precision).score(found, condition)
    definition = TorchSession if precision == "fp32" else RoundedSession
    expected = definition(plan, state, precision=precision).score(found, condition)
    drawn = [distribution.sample(expected[..., t], uniforms[:, t], Sampling()) for t in range(_STEPS)]
    error = (parameters - expected).abs() / expected.abs().max()
    is_near = (torch.stack(drawn, 1) - found).abs() <= max(1, num_codes // 100)
    return Agreement(float(error.max()), float(error.median()), float(is_near.double().mean()), precision == "fp32")


_trusted: dict[tuple[str, str, int], bool] = {}


def is_trusted(distribution: Distribution, precision: str, batch: int) -> bool:
    """Whether the engine passes the check, now or in an earlier process. If it fails, a warning is logged once."""
    batch = min(batch, 7)  # of which the products of several rows have all sizes
    key = type(distribution).__name__, precision, batch
    if key in _trusted:
        return _trusted[key]
    record = _record(key)
    if record is not None and record.exists():
        return _trusted.setdefault(key, True)
    if os.getpid() != _PROCESS:  # after a fork, the torch engine may wait forever for threads of the parent
        return True
    agreement = measure_agreement(distribution, precision, batch)
    if not agreement.is_good:
        text = "engine numba computes wrong numbers in %s on this machine and is not used for it (%s)"
        _log.warning(text, precision, agreement)
    elif record is not None:
        with suppress(OSError):
            record.touch()
    return _trusted.setdefault(key, agreement.is_good)


def _record(key: tuple[str, str, int]) -> Path | None:
    """The file whose existence says that this code passed on this CPU, beside the compiled code."""
    folder = cache_folder(loop.sample_steps)
    if folder is None:
        return None
    modules = sorted(Path(__file__).parent.glob("*.py"))
    code = hashlib.sha256(b"".join(path.read_bytes() for path in modules))
    state = [*key, llvm.get_host_cpu_name(), VECTORS.features, numba.__version__, llvmlite.__version__, np.__version__]
    code.update(repr(state).encode())
    return folder / f"sampler_passed_{code.hexdigest()[:16]}"


def _small_plan(distribution: Distribution) -> GenerationPlan:
    """A model with odd widths and random weights; one layer has so many zeros that the loop skips them."""
    generator = torch.Generator().manual_seed(0)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    channels, hidden, features, skip, width = 23, 18, 5, 37, 41
    levels = distribution.quantizer.levels
    if len(levels) <= 1024:
        embedding = CodeEmbeddingPlan(weight(1, len(levels), channels) * 4)
    else:
        embedding = AmplitudeEmbeddingPlan(weight(1, channels) * 4, weight(channels), levels)
    layers = [
        LayerPlan(
            delays=delays,
            weight=weight(len(delays), 2 * hidden, channels),
            bias=weight(2 * hidden),
            condition=weight(2 * hidden, features),
            residual=weight(channels, hidden),
            residual_bias=weight(channels),
        )
        for delays in ((1, 0), (2, 0), (17, 6, 0))
    ]
    layers[1].weight[..., 8:] = 0
    outputs = distribution.num_parameters
    return GenerationPlan(
        input_embedding=embedding,
        layers=tuple(layers),
        residual_scale=0.7,
        skip_weight=weight(skip, len(layers) * hidden) * 3,
        skip_bias=weight(skip),
        head=((weight(width, skip), weight(width)), (weight(outputs, width), weight(outputs))),
        distribution=distribution,
        condition_channels=features,
    )
