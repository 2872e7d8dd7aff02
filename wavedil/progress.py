"""Progress on a terminal."""

from __future__ import annotations


class Bar:
    """A progress bar with speed and time left on standard error; quiet where that is no terminal."""

    def __init__(self, name: str, total: int, unit: str):
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=name, unit=unit, unit_scale=True, disable=None, leave=False)

    def to(self, done: int) -> None:
        self._bar.update(done - self._bar.n)

    def of(self, done: int, total: int) -> None:
        self._bar.total = total
        self.to(done)

    def close(self) -> None:
        self._bar.close()
