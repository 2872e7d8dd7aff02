"""Whether the numba engine draws the codes that the definition draws, for each head, conditioning and kernel size.

The codes are compared with those that the teacher-forced pass in float64 picks with the same random numbers. Where all
are equal the definition's loop would have drawn the same: each of its codes follows from those before. Where some
differ, the row says how near to a tie they are.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from wavedil.audio import Features, NearestUpsampling, WaveNet, generate
from wavedil.audio.distributions import Categorical, Sampling
from wavedil.audio.generation.random_numbers import Uniforms
from wavedil.bench.runner import figures

_LINEAR = {"quantizer": "linear", "num_codes": 65536, "input": "scalar"}
HEADS: dict[str, dict[str, Any]] = {
    "softmax, mu-law 256": {},
    "softmax, mu-law 256, amplitudes in": {"input": "scalar"},
    "10 logistics, mu-law 256": {"distribution": "logistics", "components": 10},
    "10 logistics, linear 65536": {"distribution": "logistics", "components": 10, **_LINEAR},
    "1 Gaussian, linear 65536": {"distribution": "gaussians", **_LINEAR},
    "5 Gaussians, linear 65536": {"distribution": "gaussians", "components": 5, **_LINEAR},
}
DILATIONS = {1: "1..512 x2", 2: "1..512 x2", 3: "1..128 x2"}
_HOP = 200


def run(
    device: str, *, samples: int = 16000, channels: int = 64, dilations: dict[int, str] = DILATIONS
) -> dict[str, Any]:
    """How many of ``samples`` codes are equal, and how far apart the others are. Always on the CPU."""
    rows = []
    for (kernel, schedule), (title, head), heard in itertools.product(
        dilations.items(), HEADS.items(), ("", ", 80 mels and a speaker")
    ):
        torch.manual_seed(0)
        given = {"condition": NearestUpsampling(Features(80, _HOP)), "speakers": ["a", "b"]} if heard else {}
        model = WaveNet(channels, 2 * channels, schedule, kernel_size=kernel, **head, **given).eval()
        _sharpen(model)
        rows.append(_compared(f"kernel {kernel}, {title}{heard}", model, samples))
    return {"rows": rows, "notes": []}


@torch.no_grad()
def _sharpen(model: WaveNet) -> None:
    """Random predictions that are neither flat nor spread over all of the amplitudes."""
    for parameter in model.parameters():
        parameter.mul_(1.3)
    if not isinstance(model.distribution, Categorical):
        model.head.out.weight.mul_(0.5)
        model.head.out.bias[-model.distribution.components :] = -4.0  # log scales


@torch.no_grad()
def _compared(name: str, model: WaveNet, samples: int) -> dict[str, Any]:
    local = model.conditioner.upsampling
    frames = None if local is None else torch.randn(1, 80, -(-samples // _HOP))
    speaker = model.speakers[-1] if model.speakers else None
    options = {"condition": frames, "speaker": speaker}
    codes = model.encode(generate(model, samples, seed=0, engine="numba", **options)[:, 0])
    condition = model.conditioning(**options).condition(0, samples)
    exact = model.double()(codes, None if condition is None else condition.double())[0].T
    u = Uniforms(0, 1).draw(samples)[0]
    own = model.distribution.sample(exact, u, Sampling())
    apart = (own - codes[0]).abs()
    row = figures(name, f"of {samples} codes equal", [samples - int((apart > 0).sum())])
    if apart.any():
        at = apart.nonzero()[:, 0]
        row["tie"] = _tie(model, exact[at], u[at], codes[0, at])
        row["note"] = (
            f"the others are at most {int(apart.max())} of {model.num_codes} away, and what the definition draws by "
            f"uniforms that are at most {row['tie']:.0e} away"
        )
    return row


def _tie(model: WaveNet, exact: torch.Tensor, u: torch.Tensor, codes: torch.Tensor) -> float:
    """How far the uniforms have to move, as a power of ten, before the definition's draws reach these codes."""
    for power in range(-12, 0):
        moved = [(u + sign * 10.0**power).clamp(0, 1 - 2**-53) for sign in (-1, 1)]
        ends = torch.stack([model.distribution.sample(exact, each, Sampling()) for each in moved])
        if bool(((ends.amin(0) <= codes) & (codes <= ends.amax(0))).all()):
            return 10.0**power
    return 1.0
