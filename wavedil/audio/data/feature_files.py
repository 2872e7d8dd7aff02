"""Precomputed features, one .npy file for each recording: ``a/001.npy`` for ``a/001.wav``."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavedil.arrays import open_array
from wavedil.audio.conditioning.upsampling import Upsampling
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.headers import PathList
from wavedil.errors import WavedilError

_CONTENTS = "features", ("channels", "frames")


class FeatureFiles:
    """Features ``(channels, frames)`` of each file of a corpus, read from disk on demand.

    Frame f is for samples ``f * hop_length`` to ``(f + 1) * hop_length`` at the corpus' rate.

    Args:
        corpus: complete files, without trimmed silence.
        upsampling: of the model; sets the number of channels and the hop length.

    Raises:
        WavedilError: a feature file is missing or malformed, has NaN, or has another duration than its recording.
    """

    def __init__(self, corpus: Corpus, upsampling: Upsampling):
        self.hop_length, self.reach, channels = upsampling.hop_length, upsampling.reach, upsampling.features.channels
        if any(corpus.starts):
            raise WavedilError(
                "recordings are trimmed or split in time, but their features are not: set trim_db to null, and use "
                "more than one file"
            )
        # Paths instead of open files: a process may open only so many.
        self.paths = PathList(path.with_suffix(".npy") for path in corpus.paths)
        self.shapes = [(channels, math.ceil(length / self.hop_length)) for length in corpus.lengths.tolist()]
        for file in range(len(self.paths)):
            self.whole(file)

    def whole(self, file: int) -> Tensor:
        """All features of a file, float32 ``(channels, frames)``."""
        return self._read(file, 0, self.shapes[file][1])

    def cut(self, file: int, start: int, length: int) -> Tensor:
        """Features of a crop, float32 ``(channels, reach + frames + reach)``.

        Args:
            file: number of the file in the corpus.
            start: first sample, a multiple of the hop length.
            length: samples. Outside the file, its first or last frame is repeated.
        """
        first = start // self.hop_length - self.reach
        count = -(-length // self.hop_length) + 2 * self.reach
        return self._frames(file, np.arange(first, first + count))

    def first(self, file: int, samples: int) -> Tensor:
        """Features ``(channels, frames)`` of the first samples; the last frame is repeated after the file ends."""
        return self._frames(file, np.arange(-(-samples // self.hop_length)))

    def _frames(self, file: int, numbers: np.ndarray) -> Tensor:
        numbers = numbers.clip(0, self.shapes[file][1] - 1)
        return self._read(file, numbers[0], numbers[-1] + 1)[:, numbers - numbers[0]]

    def _read(self, file: int, start: int, stop: int) -> Tensor:
        """Frames ``start`` to ``stop``. The file is checked each time: it may have been replaced meanwhile."""
        path, shape = self.paths[file], self.shapes[file]
        with open_array(path, *_CONTENTS) as array:
            if array.shape != shape:
                raise WavedilError(
                    f"{path} has shape {array.shape}: expected {shape}, one frame every {self.hop_length} samples of "
                    "the recording of that name"
                )
            return _finite(path, array.columns(start, stop))


def read_features(path: str | Path, channels: int) -> Tensor:
    """Reads a .npy file of features, float32 ``(channels, frames)``.

    Raises:
        WavedilError: the file is missing or damaged, has another number of channels, or NaN or infinity.
    """
    with open_array(path, *_CONTENTS) as array:
        if array.shape[0] != channels:
            raise WavedilError(f"{path} has shape {array.shape}: expected {channels} channels in ({channels}, frames)")
        return _finite(path, array.read())


def _finite(path: str | Path, values: np.ndarray) -> Tensor:
    with np.errstate(over="ignore", invalid="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise WavedilError(f"{path} has NaN or infinity in float32: compute the features again")
    return torch.from_numpy(values)
