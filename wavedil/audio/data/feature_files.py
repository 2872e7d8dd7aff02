"""Features that were made elsewhere, as files beside recordings: ``a/001.npy`` for ``a/001.wav``."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.conditioning.upsampling import Upsampling
from wavedil.audio.data.corpus import Corpus
from wavedil.errors import WavedilError


class FeatureFiles:
    """The features of each file of a corpus, ``(channels, frames)``, read as they are needed.

    Frame f is of the samples from ``f * hop_length`` up to ``(f + 1) * hop_length`` at the corpus' rate.

    Args:
        corpus: whole files: nothing trimmed off their starts.
        local: of the model; its features say channels and hop.

    Raises:
        WavedilError: naming the file, for one that is missing, malformed, holds NaN, or does not last as long as its
            recording.
    """

    def __init__(self, corpus: Corpus, local: Upsampling):
        self.hop_length, self.reach, channels = local.hop_length, local.reach, local.features.channels
        if any(start for start in corpus.starts):
            raise WavedilError(
                "files are trimmed or cut up, and their features are not: set trim_db to null, give files"
            )
        self.places, self.frames = [], []  # not the open files: there may be more than a process may have
        for path, length in zip(corpus.paths, corpus.lengths.tolist(), strict=True):
            place = path.with_suffix(".npy")
            array = read_array(place)
            frames = math.ceil(length / self.hop_length)
            if array.shape != (channels, frames):
                raise WavedilError(
                    f"{place} is of shape {array.shape}: expected ({channels}, {frames}), a frame every "
                    f"{self.hop_length} samples for the {length} samples of {path.name}"
                )
            if not np.isfinite(array).all():
                raise WavedilError(f"{place} holds NaN or infinity: check how it was made")
            self.places.append(place)
            self.frames.append(frames)

    def whole(self, file: int) -> Tensor:
        """``(channels, frames)`` float32."""
        return torch.from_numpy(np.array(read_array(self.places[file]), np.float32))

    def cut(self, file: int, start: int, length: int) -> Tensor:
        """``(channels, reach + frames + reach)`` of ``length`` samples from ``start``, a multiple of the hop.

        Outside the file its first or last frame stands.
        """
        first = start // self.hop_length - self.reach
        numbers = np.arange(first, first + -(-length // self.hop_length) + 2 * self.reach).clip(
            0, self.frames[file] - 1
        )
        return torch.from_numpy(np.array(read_array(self.places[file])[:, numbers], np.float32))

    def first(self, file: int, samples: int) -> Tensor:
        """``(channels, frames)`` of the first samples, the last frame standing where the file ends."""
        numbers = np.arange(-(-samples // self.hop_length)).clip(max=self.frames[file] - 1)
        return torch.from_numpy(np.array(read_array(self.places[file])[:, numbers], np.float32))


def read_array(path: str | Path) -> np.ndarray:
    """A .npy of ``(channels, frames)`` numbers, mapped into memory."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise WavedilError(f"{path} is not there: expected the features of the recording beside it") from None
    except (OSError, ValueError, EOFError) as error:
        raise WavedilError(f"{path} cannot be read as features: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        kind = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise WavedilError(f"{path} cannot be read as features: it holds {kind}, expected numbers (channels, frames)")
    return array
