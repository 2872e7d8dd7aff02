"""Precomputed features, one .npy file for each recording: ``a/001.npy`` for ``a/001.wav``."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.conditioning.upsampling import Upsampling
from wavedil.audio.data.corpus import Corpus
from wavedil.errors import WavedilError
from wavedil.files import check_regular_file


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
        self.paths, self.num_frames = [], []
        for recording, length in zip(corpus.paths, corpus.lengths.tolist(), strict=True):
            path = recording.with_suffix(".npy")
            array = read_array(path)
            frames = math.ceil(length / self.hop_length)
            if array.shape != (channels, frames):
                raise WavedilError(
                    f"{path} has shape {array.shape}: expected ({channels}, {frames}), one frame every "
                    f"{self.hop_length} samples for the {length} samples of {recording.name}"
                )
            if not np.isfinite(array).all():
                raise WavedilError(f"{path} has NaN or infinity: compute the features again")
            self.paths.append(path)
            self.num_frames.append(frames)

    def whole(self, file: int) -> Tensor:
        """All features of a file, float32 ``(channels, frames)``."""
        return torch.from_numpy(np.array(read_array(self.paths[file]), np.float32))

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
        numbers = numbers.clip(0, self.num_frames[file] - 1)
        return torch.from_numpy(np.array(read_array(self.paths[file])[:, numbers], np.float32))


def read_array(path: str | Path) -> np.ndarray:
    """Opens a .npy file of ``(channels, frames)`` numbers as a memory map.

    Raises:
        WavedilError: the file is missing, or does not hold such an array.
    """
    check_regular_file(path, "the features of a recording")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise WavedilError(f"{path}: no such file; expected the features of the recording of that name") from None
    except (OSError, ValueError, EOFError) as error:
        raise WavedilError(f"{path} cannot be read as features: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu":
        kind = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise WavedilError(f"{path} cannot be read as features: it has {kind}: expected numbers (channels, frames)")
    return array
