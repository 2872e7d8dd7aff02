"""Crops that continue each other, for truncated back-propagation through time."""

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.crops import RandomCrops
from wavedil.errors import WavedilError


class ContinuedCrops(RandomCrops):
    """Crops in which each of ``lanes`` rows of a batch reads its part of the corpus from start to end.

    Item i is the crop of lane i modulo ``lanes``: it starts where item i - ``lanes`` ended, or is the first of another
    file. In each round the files are in another random order, and each crop of each file occurs once. All samples of a
    file count. Besides the entries of a crop, an item has its place: ``file``, a number, and ``start``, in samples.

    Item i depends on ``seed``, i and the files only, as in :class:`~wavedil.audio.data.crops.RandomCrops`.

    Args:
        corpus: recordings to crop.
        length: samples in each crop; a multiple of the hop length, if the model has features.
        lanes: rows of the batches of all processes.
        **options: ``quantizer``, ``seed``, ``size``, ``excerpt``, ``features``, ``speakers`` and ``max_skipped`` of
            ``RandomCrops``.

    Raises:
        WavedilError: ``length`` is not a multiple of the hop length.
    """

    def __init__(self, corpus: Corpus, length: int, *, lanes: int, **options) -> None:
        super().__init__(corpus, length, **options)
        if length % self.hop_length:
            raise WavedilError(
                f"crop is {length} samples: expected a multiple of the hop length {self.hop_length}, because each crop "
                "starts where the one before ended"
            )
        self.lanes = lanes
        self._crops_of = -(-np.asarray(corpus.lengths) // length)
        self._per_lane = -(-int(self._crops_of.sum()) // lanes)
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None

    def place(self, index: int, attempt: int = 0) -> tuple[int, int]:
        """File number and first sample of item ``index``, or of its replacement number ``attempt``."""
        if attempt:
            return int(np.random.default_rng([self.seed, index, attempt]).integers(len(self.corpus))), 0
        lane, turn = index % self.lanes, index // self.lanes
        order, position = divmod(turn, self._per_lane)
        files, ends = self._files_in_order(order)
        position = (lane * self._per_lane + position) % int(ends[-1])
        place = int(np.searchsorted(ends, position, side="right"))
        file = int(files[place])
        return file, (position - int(ends[place] - self._crops_of[file])) * self.length

    def _files_in_order(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The files of round ``number``, and how many crops there are up to the end of each."""
        if self._order is None or self._order[0] != number:  # that of the current round is kept
            files = np.random.default_rng([self.seed, number]).permutation(len(self.corpus))
            self._order = number, files, np.cumsum(self._crops_of[files])
        return self._order[1:]

    def _crop(self, file: int, start: int) -> dict[str, Tensor]:
        return super()._crop(file, start) | {"file": torch.tensor(file), "start": torch.tensor(start)}
