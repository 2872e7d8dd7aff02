"""Progress on a terminal."""

from __future__ import annotations


class Bar:
    """A progress bar with speed and time left on standard error; quiet where that is no terminal.

    rate: units in a second of sound; the speed is then told as a multiple of real time, too.
    """

    def __init__(self, name: str, total: int, unit: str, rate: int | None = None):
        from tqdm import tqdm

        self._rate = rate
        self._bar = tqdm(total=total, desc=name, unit=unit, unit_scale=True, disable=None, leave=False)

    def to(self, done: int) -> None:
        self._bar.update(done - self._bar.n)
        if self._rate and not self._bar.disable and self._bar.format_dict["rate"]:
            times = self._bar.format_dict["rate"] / self._rate
            self._bar.set_postfix_str(f"{times:.2f} x real time", refresh=False)

    def of(self, done: int, total: int) -> None:
        self._bar.total = total
        self.to(done)

    def close(self) -> None:
        self._bar.close()
