"""Training of a model of polyphonic music on piano rolls."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from wavedil.audio.piano_rolls import KEYS, collate, make_rolls, read_rolls, roll_nll, transpose
from wavedil.core.cost import count_parameters
from wavedil.core.schema import PathText, Range, checked
from wavedil.errors import WavedilError
from wavedil.train.data import Count, Decay, Fraction, OptionalCount, Seed, TrainingData
from wavedil.train.module import MetricNames, TrainingModule
from wavedil.train.previews.piano_roll import RollPreviews, RollSamples
from wavedil.weights import check_savable


class MusicModule(TrainingModule):
    """Trains a network on piano rolls by maximum likelihood of each time step; the loss is in nats per step.

    Batches are dictionaries with ``roll`` ``(batch, 88, time)`` and ``mask`` ``(batch, time)``. A run saves the network
    of the best validation, not the last one.

    Args:
        network: ``(batch, 88, time) -> (batch, 88, time)`` logits, with ``step``: e.g.
            :class:`wavedil.audio.models.tcn.TCN`.
        optimizer: builds the optimizer from the parameters; in a recipe, a class and its arguments.
        warmup_steps: steps until the full learning rate.
        lr_decay: fraction of the budget over which the learning rate falls linearly to zero.
        ema_decay: decay of the exponential moving average (EMA) of the weights, which is validated and saved, e.g.
            0.999; 0 for none.
        compile: train with ``torch.compile``; saved files do not depend on it.
    """

    metric_names = MetricNames("train_nll", "nats/step", "valid_nll", "held out {:.3f}", "frames")
    previews_class, samples_class = RollPreviews, RollSamples
    best_metric = "valid/nll"

    @checked
    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[Iterable], Optimizer] = torch.optim.AdamW,
        warmup_steps: OptionalCount = 100,
        lr_decay: Fraction = 1.0,
        ema_decay: Decay = 0.0,
        compile: bool = False,
    ):
        super().__init__(optimizer, warmup_steps, lr_decay, ema_decay=ema_decay, compile=compile)
        check_savable(network)
        for name in ("in_channels", "out_channels"):
            if (found := network.config.get(name)) != KEYS:
                raise WavedilError(
                    f"{name} of {type(network).__name__} is {found}: expected {KEYS}, one channel for each key"
                )
        self.network = network

    def summary(self) -> str:
        network = self.network
        return (
            f"{count_parameters(network):,} parameters, {len(network.dilations)} dilated convolutions, "
            f"receptive field {network.receptive_field} steps"
        )

    def num_items(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["mask"].sum()

    def initialize(self, data: L.LightningDataModule | None) -> None:
        if hasattr(data, "key_shares"):
            self.network.set_prior(data.key_shares())

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        nats, steps = roll_nll(partial(self.call, self.network), batch["roll"], batch["mask"])
        loss = nats / steps
        self.log("train/nll", loss.detach(), batch_size=1)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.nats, self.steps = 0.0, 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        nats, steps = roll_nll(self.eval_network, batch["roll"], batch["mask"])
        self.nats += nats.item()
        self.steps += int(steps)

    def on_validation_epoch_end(self) -> None:
        self.log("valid/nll", self.nats / self.steps)  # not reduced: each process validates on all pieces


class MusicData(TrainingData):
    """Complete pieces of polyphonic music in batches of similar length; the file defines validation and test set.

    Args:
        root: a ``.mat`` file of piano rolls, e.g. ``JSB_Chorales.mat``; see
            :func:`wavedil.audio.piano_rolls.read_rolls`. null for built-in chords.
        batch_size: pieces in a batch.
        transpose: maximum random transposition of a training piece, in semitones up or down.
        transpose_batches: the fraction of transposed pieces falls linearly from 1 to 0 over this number of batches, so
            that training ends on the original pieces: for files whose pieces are all in one key, as the published
            ones. null: all pieces are transposed in all batches.
        seed: seed of order and transposition.
    """

    @checked
    def __init__(
        self,
        root: PathText | None = None,
        batch_size: Count = 16,
        transpose: Annotated[int, Range(0, KEYS - 1)] = 0,
        transpose_batches: Count | None = None,
        seed: Seed = 0,
    ):
        super().__init__(batch_size, seed)
        self.root, self.transpose, self.transpose_batches = root, transpose, transpose_batches

    def read_data(self) -> str:
        self.rolls = make_rolls() if self.root is None else read_rolls(self.root)
        return str(self.rolls)

    def data_files(self) -> list[Sequence[Path]]:
        return [] if self.root is None else [[Path(self.root)]]

    def train_dataloader(self) -> DataLoader:
        batches = RollBatches(self.rolls.train, self.batch_size, self.transpose, self.seed, self.transpose_batches)
        return self.endless_loader(batches, batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(sorted(self.rolls.valid, key=len), batch_size=self.batch_size, collate_fn=collate)

    def valid_rolls(self) -> list[np.ndarray]:
        """Validation pieces, ``(time, 88)`` each."""
        return self.rolls.valid

    def test_rolls(self) -> list[np.ndarray]:
        """Test pieces, ``(time, 88)`` each."""
        return self.rolls.test

    def key_shares(self) -> Tensor:
        """Fraction of the training steps in which each key sounds, ``(88,)``, to initialize the output."""
        return torch.from_numpy(np.concatenate(self.rolls.train).mean(0))


class RollBatches(Dataset[dict[str, Tensor]]):
    """Batches of piano rolls without end; batch i depends on the seed and i only.

    Each epoch has every piece once. Pieces of similar length share a batch to reduce padding: the shuffled pieces are
    sorted within each ``WINDOW`` batches.

    Args:
        rolls: pieces, ``(time, 88)`` each.
        batch_size: pieces in a batch.
        semitones: maximum transposition.
        seed: seed of order and transposition.
        transpose_batches: batches until no piece is transposed; None: always transpose.
    """

    WINDOW = 8

    def __init__(
        self,
        rolls: list[np.ndarray],
        batch_size: int,
        semitones: int,
        seed: int,
        transpose_batches: int | None = None,
    ):
        self.rolls, self.batch_size, self.semitones, self.seed = rolls, batch_size, semitones, seed
        self.transpose_batches = transpose_batches
        self.per_epoch = -(-len(rolls) // batch_size)
        self.epoch, self.batches = -1, []

    def _pieces(self, index: int) -> np.ndarray:
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self._epoch(np.random.default_rng([self.seed, epoch]))
        return self.batches[position]

    def origin(self, index: int) -> str:
        """Numbers of the training pieces in batch ``index``, from 0, for messages."""
        return f"training pieces {', '.join(map(str, self._pieces(index)))}"

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        pieces = self._pieces(index)
        epoch, position = divmod(index, self.per_epoch)
        generator = np.random.default_rng([self.seed, epoch, position])
        shifts = generator.integers(-self.semitones, self.semitones + 1, len(pieces))
        if self.transpose_batches is not None:
            shifts[generator.random(len(pieces)) < index / self.transpose_batches] = 0
        return collate([transpose(self.rolls[i], shift) for i, shift in zip(pieces, shifts, strict=True)])

    def _epoch(self, generator: np.random.Generator) -> list[np.ndarray]:
        """Indices of the pieces in each batch of an epoch."""
        lengths = np.array([len(roll) for roll in self.rolls])
        order = generator.permutation(len(self.rolls))
        batches = []
        for start in range(0, len(order), self.WINDOW * self.batch_size):
            window = order[start : start + self.WINDOW * self.batch_size]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[i : i + self.batch_size] for i in range(0, len(window), self.batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]
