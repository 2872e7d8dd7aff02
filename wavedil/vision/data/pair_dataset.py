"""Base class of the data sets of images or volumes with their ground truth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

CACHE_BYTES = 2**30  # maximum size of the decoded arrays in memory


class PairDataset(Dataset[dict[str, Tensor]]):
    """Pairs of an image or volume and its ground truth. Decoded arrays are cached in memory, up to 1 GiB.

    Subclasses define ``load`` and ``item``.

    Args:
        pairs: files of each item.
    """

    def __init__(self, pairs: Sequence[Any]):
        self.pairs = list(pairs)
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self.item(*self.read(index))

    def read(self, index: int, cache: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Image and ground truth of an item, from the cache if possible.

        Args:
            cache: keep them in the cache if there is space.
        """
        if index in self._cache:
            return self._cache[index]
        found = self.load(index)
        size = sum(each.nbytes for each in found)
        if cache and self._cached_bytes + size <= CACHE_BYTES:
            self._cached_bytes += size
            self._cache[index] = found
        return found

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Decodes the files of an item."""
        raise NotImplementedError

    def item(self, image: np.ndarray, truth: np.ndarray) -> dict[str, Tensor]:
        """The tensors of an item."""
        raise NotImplementedError
