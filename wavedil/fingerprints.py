"""Fingerprints of data files: cheap to compute, and different if the content of a file has changed."""

import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from wavedil.shards import find_packed

MOST = 1000  # files that are read
_ENDS = 1024  # bytes at each end of a file


def compared(paths: Sequence[Path]) -> list[Path]:
    """The files whose fingerprints are compared: all of up to 1000, else 1000 evenly spaced ones."""
    count = min(len(paths), MOST)
    return [paths[index * len(paths) // count] for index in range(count)]


def fingerprint(path: Path) -> int:
    """Checksum of a file's size and its first and last KB; of a packed file, of all its bytes; -1 on an error."""
    with suppress(OSError):
        if packed := find_packed(path):
            return packed.crc
        with open(path, "rb") as file:
            start = file.read(_ENDS)
            size = file.seek(0, 2)
            file.seek(max(0, size - _ENDS))
            return zlib.crc32(file.read(), zlib.crc32(start, zlib.crc32(str(size).encode())))
    return -1
