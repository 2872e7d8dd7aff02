"""Files that cannot be read during training: other items replace theirs, up to a number of files."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from wavedil.errors import WavedilError

ATTEMPTS = 1000  # replacements for one item
_log = logging.getLogger("wavedil")

Item = TypeVar("Item")


class SkippedFiles:
    """The files of a data set that could not be read so far. Each is logged once.

    Data workers of one process count together; several training processes count separately.

    Args:
        files: number of files in the data set.
        limit: largest number of files to skip; with 0, the first is an error.
    """

    def __init__(self, files: int, limit: int = 0):
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise WavedilError(f"max_skipped is {limit!r}: expected a number of files, at least 0")
        self.limit = limit
        self._skipped = torch.zeros(files if limit else 0, dtype=torch.bool)
        if limit:
            self._skipped.share_memory_()  # so that data workers see each other's files

    def __len__(self) -> int:
        return int(self._skipped.sum())

    def read(self, place: Callable[[int], tuple[int, ...]], load: Callable[..., Item]) -> Item:
        """The first item that can be read.

        A file is tried again whenever it is drawn, so items depend on the files alone, and not on what this process
        read before.

        Args:
            place: arguments of ``load`` for attempt 0, 1, 2 and so on; the first is the file's number.
            load: reads an item.

        Raises:
            WavedilError: more files than the limit could not be read.
        """
        for attempt in range(ATTEMPTS):
            arguments = place(attempt)
            try:
                return load(*arguments)
            except WavedilError as error:
                last = error
                self._add(arguments[0], error)
        raise WavedilError(f"{last}; and {ATTEMPTS} crops in a row could not be read: restore the data")

    def origin(self, place: Callable[[int], tuple[int, ...]]) -> tuple[int, ...]:
        """Arguments of ``load`` with which :meth:`read` has read an item: of the first file not skipped so far."""
        places = (place(attempt) for attempt in range(ATTEMPTS))
        return next((each for each in places if not self.limit or not self._skipped[each[0]]), place(0))

    def _add(self, file: int, error: WavedilError) -> None:
        check = "wavedil check DATA lists broken files"
        if not self.limit:
            raise WavedilError(
                f"{error}; {check}, and max_skipped (data.max_skipped in a recipe) lets training skip such files"
            ) from None
        is_new = not self._skipped[file]
        self._skipped[file] = True
        if len(self) > self.limit:
            raise WavedilError(
                f"{error}; max_skipped is {self.limit}, and {len(self)} files could not be read: {check}"
            ) from None
        if is_new:
            _log.warning("skipped in training, file %d of at most %d: %s", len(self), self.limit, error)
