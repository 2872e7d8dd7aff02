"""The base class of all data modules, and the order in which training visits the data."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from wavedil.errors import check_positive


class TrainingData(L.LightningDataModule):
    """Base of the data modules: random items without end, in an order that a resumed run continues.

    Subclasses write or download files in ``prepare_data`` and read them in :meth:`read_data`.

    Args:
        batch_size: items in a batch.
        seed: seed of the random items.
        num_workers: processes that load items.
    """

    def __init__(self, batch_size: int, seed: int = 0, num_workers: int = 0):
        super().__init__()
        check_positive(batch_size=batch_size)
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.ready, self._summary = False, ""

    def setup(self, stage: str) -> None:
        if not self.ready:  # the validation after training calls this again
            self._summary = self.read_data()
            self.ready = True

    def read_data(self) -> str:
        """Makes the data sets and returns lines about them; called once."""
        return ""

    def summary(self) -> str:
        """Lines about the data; printed when training starts."""
        return self._summary

    def built_in_folder(self) -> Path:
        """Folder of the built-in data: ``data`` in the trainer's ``default_root_dir``, which is RUN in a run."""
        return Path(self.trainer.default_root_dir) / "data"

    def network(self) -> nn.Module:
        """The network in training, whose sample rate, quantizer and receptive field the data follow."""
        return self.trainer.lightning_module.network

    def endless_loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        """Loads training items in order from the first one that training has not seen. Processes take turns."""
        options, trainer = {"batch_size": self.batch_size} | options, self.trainer
        seen = trainer.global_step * trainer.accumulate_grad_batches * (options["batch_size"] or 1)
        return DataLoader(
            dataset,
            sampler=EndlessSampler(seen * trainer.world_size + trainer.global_rank, trainer.world_size),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            **options,
        )


class EndlessSampler(Sampler[int]):
    """Indices ``first``, ``first + step``, ``first + 2 * step``, … without end."""

    def __init__(self, first: int, step: int):
        self.first, self.step = first, step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first, self.step)


def evenly_spaced(total: int, num: int) -> list[int]:
    """``num`` of the indices 0 to ``total`` - 1, evenly spaced; all of them if there are fewer."""
    num = min(num, total)
    return [i * total // num for i in range(num)]
