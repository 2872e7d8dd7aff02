"""Piano rolls as training data."""

from __future__ import annotations

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wavedil.audio.piano_rolls import KEYS, collate, make_rolls, read_rolls, transpose
from wavedil.errors import WavedilError
from wavedil.train.order import EveryFrom


class MusicData(L.LightningDataModule):
    """Whole pieces of polyphonic music, in batches of similar length; validation and test pieces are the file's own.

    Args:
        root: a ``.mat`` file of piano rolls, e.g. ``JSB_Chorales.mat``; see ``piano_rolls.read_rolls``.
            null for built-in chords.
        batch_size: pieces in a batch.
        transpose: each time that training sees a piece, it is moved by up to so many semitones up or down.
        transpose_batches: training begins so and ends with pieces as they are: the share of them that is moved falls
            linearly to none over so many batches. For files whose pieces are all in one key, as the published ones are.
            null: all pieces, to the end.
        seed: of order and transposition.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 16,
        transpose: int = 0,
        transpose_batches: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if batch_size < 1:
            raise WavedilError(f"batch_size is {batch_size}: expected at least 1")
        if not 0 <= transpose < KEYS:
            raise WavedilError(f"transpose is {transpose}: expected semitones, 0 to {KEYS - 1}")
        if transpose_batches is not None and transpose_batches < 1:
            raise WavedilError(f"transpose_batches is {transpose_batches}: expected at least 1, or null for all")
        self.root, self.batch_size, self.seed = root, batch_size, seed
        self.transpose, self.transpose_batches = transpose, transpose_batches
        self.note = ""

    def setup(self, stage: str) -> None:
        if not self.note:
            self.rolls = make_rolls() if self.root is None else read_rolls(self.root)
            self.note = str(self.rolls)

    def train_dataloader(self) -> DataLoader:
        batches = RollBatches(self.rolls.train, self.batch_size, self.transpose, self.seed, self.transpose_batches)
        return DataLoader(batches, batch_size=None, sampler=EveryFrom.unseen(self.trainer, 1))

    def val_dataloader(self) -> DataLoader:
        return DataLoader(sorted(self.rolls.valid, key=len), batch_size=self.batch_size, collate_fn=collate)

    def key_shares(self) -> Tensor:
        """The share of training steps in which each key sounds, ``(88,)``: what a model starts from."""
        return torch.from_numpy(np.concatenate(self.rolls.train).mean(0))


class RollBatches(Dataset[dict[str, Tensor]]):
    """Batch i of an endless training: it depends on the seed and i alone.

    Each epoch has every piece once. Pieces of similar length share a batch, so that little of it is padding: the
    shuffled pieces are sorted within each ``WINDOW`` batches.
    """

    WINDOW = 8

    def __init__(self, rolls: list[np.ndarray], batch_size: int, semitones: int, seed: int, moving: int | None = None):
        self.rolls, self.batch_size, self.semitones, self.seed = rolls, batch_size, semitones, seed
        self.moving = moving  # batches until none is moved
        self.per_epoch = -(-len(rolls) // batch_size)
        self.epoch, self.batches = -1, []

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self._deal(np.random.default_rng([self.seed, epoch]))
        chosen = self.batches[place]
        generator = np.random.default_rng([self.seed, epoch, place])
        shifts = generator.integers(-self.semitones, self.semitones + 1, len(chosen))
        if self.moving is not None:
            shifts[generator.random(len(chosen)) < index / self.moving] = 0
        return collate([transpose(self.rolls[i], shift) for i, shift in zip(chosen, shifts, strict=True)])

    def _deal(self, generator: np.random.Generator) -> list[np.ndarray]:
        """The pieces of each batch of an epoch."""
        lengths = np.array([len(roll) for roll in self.rolls])
        order = generator.permutation(len(self.rolls))
        batches = []
        for start in range(0, len(order), self.WINDOW * self.batch_size):
            window = order[start : start + self.WINDOW * self.batch_size]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[i : i + self.batch_size] for i in range(0, len(window), self.batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]
