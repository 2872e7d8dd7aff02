"""Progress bars on a terminal."""

import sys
from typing import Self

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Whether :class:`Bar` and :func:`say` print nothing: ``wavedil --quiet``."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    return _quiet


def say(text: str = "", end: str = "\n") -> None:
    """Prints progress or a remark on standard error."""
    if not _quiet:
        print(text, end=end, file=sys.stderr, flush=True)


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
