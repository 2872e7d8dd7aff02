"""The order of an endless epoch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import lightning as L
from torch.utils.data import Sampler


class EveryFrom(Sampler[int]):
    """first, first + step, first + 2 step, … without end: one process's share of what has not been seen."""

    def __init__(self, first: int, step: int):
        self.first, self.step = first, step

    @classmethod
    def unseen(cls, trainer: L.Trainer, batch_size: int) -> EveryFrom:
        """What comes next: a resumed run goes on with the item it would have seen. Processes take turns."""
        seen = trainer.global_step * trainer.accumulate_grad_batches * batch_size
        return cls(seen * trainer.world_size + trainer.global_rank, trainer.world_size)

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first, self.step)
