"""The sound around a crop that the features of the crop are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.conditioning.upsampling import Upsampling


@dataclass(frozen=True)
class FeatureWindow:
    """What a crop needs so that its features are those of the whole file.

    Args:
        hop_length: samples from a frame to the next; crops start at multiples of it.
        reach: frames that a sample hears before and after its own.
        margin: samples that a frame hears beyond those that it belongs to.
    """

    hop_length: int
    reach: int
    margin: int

    @classmethod
    def of(cls, local: Upsampling) -> FeatureWindow:
        return cls(local.hop_length, local.reach, local.features.margin)

    def cut(self, whole: int, read: Callable[[int, int], np.ndarray], start: int, length: int) -> dict[str, Tensor]:
        """The sound and the frames of a crop of ``length`` samples from ``start``, in a file of ``whole`` samples.

        ``read(start, frames)`` gives samples of the file. ``"sound"`` goes ``reach`` frames and ``margin`` samples
        beyond the crop on each side, zero outside the file. ``"frames"`` are the numbers of its frames in which those
        outside the file are replaced by its first or last.
        """
        first = start // self.hop_length - self.reach
        count = -(-length // self.hop_length) + 2 * self.reach
        begin = first * self.hop_length - self.margin
        sound = torch.zeros(count * self.hop_length + 2 * self.margin)
        inside = max(begin, 0)
        found = torch.from_numpy(read(inside, begin + len(sound) - inside))
        sound[inside - begin : inside - begin + len(found)] = found
        frames = torch.arange(first, first + count).clamp(0, -(-whole // self.hop_length) - 1) - first
        return {"sound": sound, "frames": frames}
