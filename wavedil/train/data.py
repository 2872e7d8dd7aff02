"""The base class of all data modules, and the order in which training visits the data."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import lightning as L
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from wavedil.core.padded_conv import PaddedConv
from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError
from wavedil.fingerprints import compared, fingerprint
from wavedil.ops.memory import check_memory
from wavedil.shards import find_packed

_log = logging.getLogger("wavedil")

#: Types of the arguments of modules, data modules, previews and samples.
Count = Annotated[int, Range(1, 2**31)]
OptionalCount = Annotated[int, Range(0, 2**31)]  # 0 for none
Fraction = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, exclude_high=True)]  # of a moving average; 0 for none
Factor = Annotated[float, Range(0, 1000, exclude_low=True)]  # of a size
NotNegative = Annotated[float, Range(0, 1e9)]
Workers = Annotated[int, Range(0, 1024)]
Seed = Annotated[int, Range(0, 2**63)]


class TrainingData(L.LightningDataModule):
    """Base class of the data modules: endless random items, in an order that a resumed run continues.

    Subclasses write or download files in ``prepare_data`` and read them in :meth:`read_data`. A checkpoint has the
    number of items that training has used, so a run can be resumed with another number of processes or batch size. A
    warning says if the lines of :meth:`read_data` or the content of :meth:`data_files` have changed since.

    Args:
        batch_size: items in a batch of one process.
        seed: seed of the random items.
        num_workers: number of worker processes of the data loader.
    """

    @checked
    def __init__(self, batch_size: Count, seed: Seed = 0, num_workers: Workers = 0):
        super().__init__()
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.ready, self._summary = False, ""
        self._files: list[Path] = []  # whose fingerprints are in checkpoints
        self._fingerprints: list[int] = []
        self._items_per_batch, self._restored = batch_size, (0, 0)
        self._dataset, self._element_size = None, 1  # of endless_loader

    def setup(self, stage: str) -> None:
        if self.trainer is not None and self.trainer.global_step == 0:  # before a checkpoint is restored
            self._restored = (0, 0)
        if not self.ready:  # the validation after training calls this again
            self._summary = self.read_data()
            self._files = [path for paths in self.data_files() for path in compared(paths)]
            self._fingerprints = [fingerprint(path) for path in self._files]
            self.ready = True

    def read_data(self) -> str:
        """Makes the data sets and returns lines about them; called once."""
        return ""

    def data_files(self) -> list[Sequence[Path]]:
        """Files that are used, in lists that a run has in the same order; a resumed run compares up to 1000 of each."""
        return []

    def summary(self) -> str:
        """Lines about the data; printed when training starts."""
        return self._summary

    def built_in_folder(self) -> Path:
        """Folder of the built-in data: ``data`` in the trainer's ``default_root_dir``, which is RUN in a run."""
        return Path(self.trainer.default_root_dir) / "data"

    def network(self) -> nn.Module:
        """The network in training, whose sample rate, quantizer and receptive field the data follow."""
        return self.trainer.lightning_module.network

    def check_batch_memory(self, bytes_per_item: int, size: str) -> None:
        """Raises WavedilError if a batch needs more memory than is free, before the data are read.

        Args:
            bytes_per_item: bytes that backward keeps for an item, at least.
            size: what sets the size of an item, e.g. ``"data.crop is 8000"``.
        """
        needed, what = self.batch_size * bytes_per_item, f"data.batch_size is {self.batch_size} and {size}"
        remedy = "reduce them, and set trainer.accumulate_grad_batches for the same number of items per step"
        strategy = getattr(self.trainer, "strategy", None)
        check_memory(needed, what, remedy, "cpu" if strategy is None else strategy.root_device)

    def endless_loader(self, dataset: Dataset, **options: Any) -> DataLoader:
        """Loads training items in order from the first one that training has not used. Processes take turns.

        With ``batch_size=None`` each item of ``dataset`` is a batch and counts as :attr:`batch_size` items.
        """
        options, trainer = {"batch_size": self.batch_size} | options, self.trainer
        self._items_per_batch = options["batch_size"] or self.batch_size
        size = 1 if options["batch_size"] else self.batch_size  # of one element of the data set
        self._dataset, self._element_size = dataset, size
        return DataLoader(
            dataset,
            sampler=EndlessSampler(lambda: self.items_used() // size + trainer.global_rank, trainer.world_size),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            **options,
        )

    def items_used(self, step: int | None = None) -> int:
        """Number of items in the optimizer steps so far, or in the first ``step`` steps, of all processes."""
        trainer, (items, restored) = self.trainer, self._restored
        per_step = trainer.accumulate_grad_batches * self._items_per_batch * trainer.world_size
        return items + ((trainer.global_step if step is None else step) - restored) * per_step

    def batch_items(self, step: int, part: int = 0) -> list[tuple[str, Any]]:
        """Name, and the item or None if it cannot be read, of each item of a training batch of this process.

        The names are those of the method ``origin(index)`` of the data set; without it, the list is empty.

        Args:
            step: optimizer steps before the batch.
            part: number of the batch in its step, with accumulated gradients.
        """
        if not hasattr(self._dataset, "origin"):
            return []
        elements = self._items_per_batch // self._element_size
        first = self.items_used(step) // self._element_size + self.trainer.global_rank
        found = []
        for element in range(part * elements, (part + 1) * elements):
            index = first + element * self.trainer.world_size
            try:
                found.append((self._dataset.origin(index), self._dataset[index]))
            except WavedilError:
                found.append((self._dataset.origin(index), None))
        return found

    def state_dict(self) -> dict[str, Any]:
        state = {"items_used": self.items_used(), "step": self.trainer.global_step, "summary": self._summary}
        return state | {"fingerprints": self._fingerprints, "packed": self._are_packed()}

    def _are_packed(self) -> bool:
        return bool(self._files) and find_packed(self._files[0]) is not None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict["items_used"], state_dict["step"]
        before = state_dict.get("summary", self._summary).splitlines()
        changed = [line for line in self._summary.splitlines() if line not in before]
        if changed and self.trainer.is_global_zero:
            old = [line for line in before if line not in self._summary.splitlines()]
            _log.warning("the data are not those of the checkpoint: %s; before: %s", "; ".join(changed), "; ".join(old))
        fingerprints = state_dict.get("fingerprints", [])
        if changed or state_dict.get("packed") != self._are_packed() or len(fingerprints) != len(self._files):
            return
        found = zip(self._files, fingerprints, self._fingerprints, strict=True)
        other = [path for path, before, now in found if before != now]
        if other and self.trainer.is_global_zero:
            count = f"{len(other)} of {len(self._files)} files that were compared"
            _log.warning("the data are not those of the checkpoint: %s have other content, e.g. %s", count, other[0])


def activation_bytes(network: nn.Module) -> int:
    """Lower bound of the bytes per sample that backward needs: the outputs of the dilated convolutions."""
    convs = [module for module in network.modules() if isinstance(module, PaddedConv) and max(module.span) > 0]
    recomputes = any(getattr(module, "checkpoint_layers", 0) for module in network.modules())
    return 8 + (0 if recomputes else 2 * sum(conv.out_channels for conv in convs))  # in bf16 if autocast is used


class EndlessSampler(Sampler[int]):
    """Indices ``first()``, ``first() + step``, ``first() + 2 * step``, … without end.

    ``first`` is called when an iteration starts: each epoch of a trainer with ``limit_train_batches`` is a new one.
    """

    def __init__(self, first: Callable[[], int], step: int):
        self.first, self.step = first, step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first(), self.step)


def evenly_spaced(total: int, num: int) -> list[int]:
    """``num`` of the indices 0 to ``total`` - 1, evenly spaced; all of them if there are fewer."""
    num = min(num, total)
    return [i * total // num for i in range(num)]
