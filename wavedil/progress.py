"""Progress bars on a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Self

_quiet, _details = False, True


def set_quiet(quiet: bool) -> None:
    """Whether :class:`Bar` and :func:`say` print nothing: ``wavedil --quiet``."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    return _quiet


@contextmanager
def without_details(hidden: bool = True) -> Iterator[None]:
    """While it is active, :func:`say` prints no details: those of a run that is one of many."""
    global _details
    before, _details = _details, _details and not hidden
    try:
        yield
    finally:
        _details = before


def say(text: str = "", end: str = "\n", is_detail: bool = False) -> None:
    """Prints progress or a remark on standard error."""
    if not _quiet and (_details or not is_detail):
        print(text, end=end, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, e.g. "02:35"; with hours if there are any."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")


class Bar:
    """A progress bar with speed and remaining time on standard error; hidden where that is not a terminal.

    Use it as a context manager and pass ``update`` as the argument ``progress`` of a function.

    Args:
        name: label of the bar, e.g. ``"sampling"``.
        sample_rate: units per second of sound; the speed is then also shown as a multiple of real time.
    """

    def __init__(self, name: str, sample_rate: int | None = None):
        from tqdm import tqdm

        self._sample_rate = sample_rate
        self._bar = tqdm(desc=name, unit="", unit_scale=True, disable=True if is_quiet() else None, leave=False)

    def update(self, done: int, total: int) -> None:
        """Shows that ``done`` of ``total`` units are finished."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)
        if self._sample_rate and not self._bar.disable and self._bar.format_dict["rate"]:
            speed = self._bar.format_dict["rate"] / self._sample_rate
            self._bar.set_postfix_str(f"{speed:.2f} x real time", refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
