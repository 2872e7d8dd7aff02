"""Random numbers of streams, drawn outside the engines: so every engine picks the same codes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from wavedil.core.stream import State, part
from wavedil.errors import WavedilError


class Uniforms:
    """Random numbers of each stream in order: those of stream i depend on the seed and i alone.

    So a stream is the same in any batch, by any engine, and in chunks of any length.
    """

    def __init__(self, seed: int, batch: int):
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
            raise WavedilError(f"seed is {seed!r}: expected an integer from 0 to 2**64 - 1")
        self._keys = [(seed, number) for number in range(batch)]
        self._positions = [0] * batch
        self._generators = [_generator(key, 0) for key in self._keys]

    def draw(self, time: int) -> Tensor:
        """The next ``(batch, time)`` numbers in [0, 1), float64."""
        self._positions = [position + time for position in self._positions]
        return torch.from_numpy(np.stack([generator.random(time) for generator in self._generators]))

    def state(self) -> State:
        """Seed, number and position of each stream, each int64 ``(batch,)``."""
        columns = {
            "seed": [seed if seed < 2**63 else seed - 2**64 for seed, _ in self._keys],
            "number": [number for _, number in self._keys],
            "position": self._positions,
        }
        return {f"random.{name}": torch.tensor(values) for name, values in columns.items()}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Uniforms:
        """The numbers that come after a state."""
        own = part(state, "random")
        if {"seed", "number", "position"} - own.keys():
            raise WavedilError(
                "state has no random numbers (random.seed, …): pass what Stream.state() returned, or give a seed"
            )
        uniforms = cls(0, 0)
        uniforms._keys = [(s % 2**64, n) for s, n in zip(own["seed"].tolist(), own["number"].tolist(), strict=True)]
        uniforms._positions = own["position"].tolist()
        uniforms._generators = [
            _generator(key, position) for key, position in zip(uniforms._keys, uniforms._positions, strict=True)
        ]
        return uniforms

    def select(self, streams: list[int]) -> Uniforms:
        """Those of some streams of the batch."""
        return Uniforms.of({name: values[streams] for name, values in self.state().items()})


def _generator(key: tuple[int, int], position: int) -> np.random.Generator:
    philox = np.random.Philox(key=np.array(key, dtype=np.uint64))
    philox.advance(position // 4)  # one step of its counter makes four numbers
    generator = np.random.Generator(philox)
    generator.random(position % 4)
    return generator
