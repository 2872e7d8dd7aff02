"""Compares the codes of the numba engine with those of the reference, for each head, conditioning and kernel size.

The definition is the teacher-forced pass in float64 with the same random numbers. If all codes are equal, the torch
engine would have drawn the same ones, since each code follows from those before it. If some differ, the row says how
close to a tie they are.
"""

import itertools
from typing import Any

import torch

from wavedil.audio import Features, NearestUpsampling, WaveNet, generate
from wavedil.audio.distributions import Categorical, Sampling
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.bench.runner import summary_row
from wavedil.bench.samplers import LINEAR_16_BIT

HEADS: dict[str, dict[str, Any]] = {
    "softmax, mu-law 256": {},
    "softmax, mu-law 256, amplitudes in": {"input": "scalar"},
    "10 logistics, mu-law 256": {"distribution": "logistics", "components": 10},
    "10 logistics, linear 65536": {"distribution": "logistics", "components": 10, **LINEAR_16_BIT},
    "1 Gaussian, linear 65536": {"distribution": "gaussians", **LINEAR_16_BIT},
    "5 Gaussians, linear 65536": {"distribution": "gaussians", "components": 5, **LINEAR_16_BIT},
}
DILATIONS = {1: "1..512 x2", 2: "1..512 x2", 3: "1..128 x2"}  # by kernel size
_HOP = 200


def bench_codes(
    device: str, *, samples: int = 16000, channels: int = 64, dilations: dict[int, str] = DILATIONS
) -> dict[str, Any]:
    """Counts equal codes among ``samples``, and measures how far the others are from a tie. Runs on the CPU."""
    rows = []
    for (kernel, schedule), (title, head), conditioned in itertools.product(
        dilations.items(), HEADS.items(), (False, True)
    ):
        torch.manual_seed(0)
        conditioning = {}
        if conditioned:
            conditioning = {"condition": NearestUpsampling(Features(80, _HOP)), "speakers": ["a", "b"]}
            title += ", 80 mels and a speaker"
        model = WaveNet(channels, 2 * channels, schedule, kernel_size=kernel, **head, **conditioning).eval()
        _sharpen(model)
        rows.append(_compare(f"kernel {kernel}, {title}", model, samples))
    return {"rows": rows, "notes": []}


@torch.no_grad()
def _sharpen(model: WaveNet) -> None:
    """Scales random weights so that predictions are neither flat nor spread over all amplitudes."""
    for parameter in model.parameters():
        parameter.mul_(1.3)
    if not isinstance(model.distribution, Categorical):
        model.head.out.weight.mul_(0.5)
        model.head.out.bias[-model.distribution.components :] = -4.0  # log scales


@torch.no_grad()
def _compare(name: str, model: WaveNet, samples: int) -> dict[str, Any]:
    local = model.conditioner.upsampling
    frames = None if local is None else torch.randn(1, 80, -(-samples // _HOP))
    speaker = model.speakers[-1] if model.speakers else None
    options = {"condition": frames, "speaker": speaker}
    codes = model.encode(generate(model, samples, seed=0, engine="numba", **options)[:, 0])
    condition = model.conditioning(**options).condition(0, samples)
    parameters = model.double()(codes, None if condition is None else condition.double())[0].T
    uniforms = Uniforms(0, 1).draw(samples)[0]
    differences = (model.distribution.sample(parameters, uniforms, Sampling()) - codes[0]).abs()
    row = summary_row(name, f"of {samples} codes equal", [samples - int((differences > 0).sum())])
    if differences.any():
        at = differences.nonzero()[:, 0]
        row["tie"] = _distance_to_tie(model, parameters[at], uniforms[at], codes[0, at])
        row["note"] = (
            f"the others differ by at most {int(differences.max())} of {model.num_codes} codes, and equal the "
            f"definition's for uniforms moved by at most {row['tie']:.0e}"
        )
    return row


def _distance_to_tie(model: WaveNet, parameters: torch.Tensor, uniforms: torch.Tensor, codes: torch.Tensor) -> float:
    """The smallest power of ten by which uniforms have to move so that the definition's draws reach these codes."""
    for power in range(-12, 0):
        moved = [(uniforms + sign * 10.0**power).clamp(0, 1 - 2**-53) for sign in (-1, 1)]
        ends = torch.stack([model.distribution.sample(parameters, each, Sampling()) for each in moved])
        if bool(((ends.amin(0) <= codes) & (codes <= ends.amax(0))).all()):
            return 10.0**power
    return 1.0
