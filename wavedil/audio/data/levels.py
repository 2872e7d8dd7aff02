"""Checks that sound is floating point in [-1, 1]; called wherever sound enters the package."""

import math
import warnings
from typing import TypeVar

import numpy as np
from torch import Tensor

from wavedil.errors import WavedilError, printable

#: Sound with a higher peak is refused. Recordings in floating point exceed 1 by some dB; 16 is 24 dB.
MAX_PEAK = 16.0
#: Sound with a higher peak is warned about. Rounding and resampling may exceed 1 by a little.
OUTSIDE = 1.001

Sound = TypeVar("Sound", np.ndarray, Tensor)


class Levels:
    """Counts the samples outside [-1, 1] of several sounds, for one warning.

    Args:
        remedy: end of the warning and of the errors.
    """

    def __init__(self, remedy: str = "scale the sound"):
        self.remedy = remedy
        self.sounds = self.count = self.total = 0
        self.peak, self.first, self._last, self._warned = 0.0, "", None, False

    def add(self, name: str, count: int, total: int, peak: float) -> None:
        """Adds a sound, or the next block of one, with ``count`` of ``total`` samples outside [-1, 1]."""
        self.sounds += name != self._last
        self.first, self._last = self.first or name, name
        self.count, self.total = self.count + count, self.total + total
        self.peak = max(self.peak, peak)

    def warn(self) -> None:
        """Warns once if any sample was beyond -1 or 1."""
        if self.count and not self._warned:
            self._warned = True
            others = f" (and {self.sounds - 1} more)" if self.sounds > 1 else ""
            text = (
                f"{self.first}{others}: {self.count} of {self.total} samples are outside [-1, 1], peak {self.peak:.4g}:"
                f" models may clip them; {self.remedy}"
            )
            warnings.warn(printable(text), stacklevel=3)


def check_floating(sound: np.ndarray | Tensor, name: object = "sound") -> None:
    """Raises WavedilError for integers."""
    is_floating = sound.is_floating_point() if isinstance(sound, Tensor) else np.issubdtype(sound.dtype, np.floating)
    if not is_floating:
        raise WavedilError(f"{name} is {sound.dtype}: expected floating point; divide 16-bit integers by 32768")


def check_level(sound: Sound, name: object = "sound", levels: Levels | None = None) -> Sound:
    """Checks the type and the peak of a sound, and returns the sound.

    A tensor on a GPU is waited for, so call it where sound enters, not in each training step.

    Args:
        sound: of any shape.
        name: argument or file, for messages.
        levels: where to count samples outside [-1, 1]; None warns of them immediately.

    Raises:
        WavedilError: integers, or a peak above 16.
    """
    check_floating(sound, name)
    size = math.prod(sound.shape)
    peak = max(float(sound.max()), -float(sound.min())) if size else 0.0
    found = Levels() if levels is None else levels
    if peak > MAX_PEAK:
        raise WavedilError(
            f"{name} has a peak of {peak:.6g}: expected sound in [-1, 1]; if these are 16-bit integers stored as "
            f"floating point, divide them by 32768, else {found.remedy}"
        )
    if peak > OUTSIDE:
        found.add(str(name), int((abs(sound) > 1).sum()), size, peak)
        if levels is None:
            found.warn()
    return sound
