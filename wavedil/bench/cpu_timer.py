"""A timer for ``trainer.callbacks`` that ends training after CPU time of the process."""

import time

from lightning.pytorch.callbacks import Timer


class CpuTimer(Timer):
    """Lightning's Timer with the CPU time of this process since the timer was created, so set-up counts, too.

    The learning rate of a run follows it as it follows ``trainer.max_time``.

    Args:
        seconds: of CPU time.
    """

    def __init__(self, seconds: float):
        super().__init__(verbose=False)
        self._duration, self._created = seconds, time.process_time()

    def time_elapsed(self, stage: str = "train") -> float:
        """CPU seconds, in every stage."""
        return time.process_time() - self._created
