"""Sound in a packed data set, with the part of soundfile's interface that reading uses."""

import zlib

import numpy as np

from wavedil.shards import PackedFile


class PackedSound:
    """Samples in a shard: int16, or float32 for all other codings.

    A file that is read in order from its first to its last sample is compared with its checksum.
    """

    format, can_seek = "WAV", True

    def __init__(self, file: PackedFile):
        self._file, self._dtype = file, np.dtype(file.dtype)
        self.samplerate, self.channels, self.frames = file.rate, file.channels, file.frames
        self.subtype = "FLOAT" if self._dtype.kind == "f" else "PCM_16"
        self._position = self._checked = self._crc = 0

    def seek(self, frame: int) -> None:
        self._position = frame

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """The next frames, float32 ``(time, channels)``."""
        width = self.channels * self._dtype.itemsize
        count = max(0, min(frames, self.frames - self._position))
        data = self._file.read(self._position * width, count * width)
        if self._checked == self._position < self.frames:
            self._crc, self._checked = zlib.crc32(data, self._crc), self._position + count
            if self._checked == self.frames:
                self._file.check(self._crc)
        self._position += count
        samples = np.frombuffer(data, self._dtype).reshape(count, self.channels)
        if self._dtype.kind == "i":
            return samples.astype(np.float32) / np.float32(32768)
        return samples.astype(np.float32)
