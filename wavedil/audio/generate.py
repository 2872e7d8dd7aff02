"""Generation: one door over all engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.distributions import Sampling
from wavedil.audio.engines import ENGINES
from wavedil.audio.wavenet import WaveNet
from wavedil.core import stream as streaming
from wavedil.errors import WavedilError

CHUNK = 1024  # steps between two looks at the clock; the random numbers and results do not depend on it


class Uniforms:
    """Random numbers of each stream in order: those of stream i depend on the seed and i alone.

    So a stream is the same in any batch, by any engine, and in chunks of any length.
    """

    def __init__(self, seed: int, batch: int):
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise WavedilError(f"seed is {seed!r}: expected an integer from 0 to 2**64 - 1")
        self._streams = [
            np.random.Generator(np.random.Philox(key=np.array([seed, i], dtype=np.uint64))) for i in range(batch)
        ]

    def draw(self, time: int) -> Tensor:
        """The next ``(batch, time)`` numbers in [0, 1), float64."""
        return torch.from_numpy(np.stack([stream.random(time) for stream in self._streams]))


def stream(
    model: WaveNet,
    *,
    num: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prime: Tensor | None = None,
    engine: str = "auto",
    chunk: int = CHUNK,
) -> Iterator[Tensor]:
    """Endless sound: yields float32 ``(num, 1, chunk)`` again and again, in constant memory.

    The other arguments are those of :func:`generate`; the chunks, joined, are what it returns.
    """
    run, plan, state, sampling = _prepare(model, num, temperature, top_k, top_p, prime, engine)
    uniforms = Uniforms(seed, num)
    while True:
        codes, state = run(plan, state, uniforms.draw(chunk).to(_device(model)), sampling)
        yield model.decode(codes).unsqueeze(1)


def generate(
    model: WaveNet,
    samples: int,
    *,
    num: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prime: Tensor | None = None,
    engine: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Samples sound from a model: float32 ``(num, 1, samples)`` in [-1, 1]; ``model.encode`` gives the codes.

    Each layer and step costs the same whatever the dilation; the codes are those of the teacher-forced pass with the
    same random numbers.

    Args:
        model: a :class:`WaveNet`; its device and current weights are used, weight norm included.
        samples: length of each stream, in samples.
        num: number of streams, made together.
        seed: of the random numbers; stream i depends on ``seed`` and i alone.
        temperature, top_k, top_p: see :class:`wavedil.audio.distributions.Sampling`.
        prime: sound ``(1 or num, 1, time)`` in [-1, 1] that the streams continue; it is not part of the result.
        engine: ``"torch"``, or ``"auto"``.
        progress: called with (finished, all) steps after each 1024. On an interrupt (Ctrl-C) what it has told of is
            returned; before the first call the interrupt is raised.

    Raises:
        WavedilError: for lengths below 1, numbers out of range, NaN weights.
    """
    if not isinstance(samples, int) or samples < 1:
        raise WavedilError(f"samples is {samples!r}: expected a positive number of samples to make")
    run, plan, state, sampling = _prepare(model, num, temperature, top_k, top_p, prime, engine)
    uniforms = Uniforms(seed, num)
    done: list[Tensor] = []
    made = 0
    try:
        while made < samples:
            time = min(CHUNK, samples - made)
            codes, state = run(plan, state, uniforms.draw(time).to(_device(model)), sampling)
            done.append(codes)
            made += time
            if progress is not None:
                progress(made, samples)
    except KeyboardInterrupt:
        if not done:
            raise
    return model.decode(torch.cat(done, dim=1)).unsqueeze(1)


def pick_engine(name: str) -> str:
    """The engine that ``name`` stands for."""
    if name == "auto":
        return "torch"
    if name not in ENGINES:
        raise WavedilError(f"engine is {name!r}: expected one of auto, {', '.join(ENGINES)}")
    return name


def _device(model: WaveNet) -> torch.device:
    return next(model.parameters()).device


def _prepare(
    model: WaveNet,
    num: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    prime: Tensor | None,
    engine: str,
):
    if not isinstance(num, int) or num < 1:
        raise WavedilError(f"num is {num!r}: expected a positive number of streams")
    sampling = Sampling(temperature, top_k, top_p)
    run, plan = ENGINES[pick_engine(engine)], model.plan()
    with torch.no_grad():
        state = model.start(num)
        if prime is not None:
            if prime.ndim != 3 or prime.shape[1] != 1 or prime.shape[0] not in (1, num) or prime.shape[2] == 0:
                raise WavedilError(
                    f"prime has shape {tuple(prime.shape)}: expected (1 or {num}, 1, time) with at least one sample"
                )
            codes = model.encode(prime[:, 0].to(_device(model)))
            # One parallel pass fills every layer's history.
            _, state = model.step(codes.expand(num, -1), streaming.clone(state))
    return run, plan, state, sampling
