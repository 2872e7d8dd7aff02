"""Random numbers of streams. They are drawn outside the engines, so that every engine picks the same codes."""

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.generation.plan import RANDOM
from wavedil.core.stream import State, add_prefix, substate
from wavedil.errors import WavedilError


class Uniforms:
    """Uniform random numbers for a batch of streams. Those of stream i depend on ``seed`` and i alone.

    So a stream is the same in a batch of any size, with any engine and in chunks of any length.

    Args:
        seed: 0 to 2**64 - 1.
        batch: number of streams.
        first: number of the first stream.
    """

    def __init__(self, seed: int, batch: int, first: int = 0):
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
            raise WavedilError(f"seed is {seed!r}: expected an integer from 0 to 2**64 - 1")
        if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first < 2**63 - batch:
            raise WavedilError(f"first is {first!r}: expected the number of a stream, from 0 to 2**63 - 1")
        self._keys = [(seed, first + number) for number in range(batch)]
        self._positions = [0] * batch
        self._generators = [_generator(key, 0) for key in self._keys]

    def draw(self, time: int) -> Tensor:
        """The next ``(batch, time)`` numbers in [0, 1), float64."""
        self._positions = [position + time for position in self._positions]
        return torch.from_numpy(np.stack([generator.random(time) for generator in self._generators]))

    def state(self) -> State:
        """``random.seed``, ``random.number`` and ``random.position`` of each stream, int64 ``(batch,)``."""
        columns = {
            "seed": [seed if seed < 2**63 else seed - 2**64 for seed, _ in self._keys],
            "number": [number for _, number in self._keys],
            "position": self._positions,
        }
        return add_prefix(RANDOM, {name: torch.tensor(values) for name, values in columns.items()})

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Self:
        """Continues where :meth:`state` was called."""
        columns = substate(state, RANDOM)
        if {"seed", "number", "position"} - columns.keys():
            raise WavedilError("state has no random.seed: pass the result of Stream.state(), or give a seed")
        for name in ("number", "position"):
            if bool((columns[name] < 0).any()):
                raise WavedilError(f"state has a random.{name} below 0: pass the result of Stream.state()")
        seeds, numbers = columns["seed"].tolist(), columns["number"].tolist()
        uniforms = cls(0, 0)
        uniforms._keys = [(seed % 2**64, number) for seed, number in zip(seeds, numbers, strict=True)]
        uniforms._positions = columns["position"].tolist()
        uniforms._generators = [
            _generator(key, position) for key, position in zip(uniforms._keys, uniforms._positions, strict=True)
        ]
        return uniforms

    def select(self, streams: list[int]) -> Self:
        """The random numbers of some streams of the batch."""
        return self.from_state({name: values[streams] for name, values in self.state().items()})


def _generator(key: tuple[int, int], position: int) -> np.random.Generator:
    philox = np.random.Philox(key=np.array(key, dtype=np.uint64))
    philox.advance(position // 4)  # one step of its counter makes four numbers
    generator = np.random.Generator(philox)
    generator.random(position % 4)
    return generator
