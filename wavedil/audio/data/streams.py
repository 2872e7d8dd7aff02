"""Sound files of any length, read and written block by block in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.audio.data.resampling import check_rates, resampled_length
from wavedil.errors import WavedilError
from wavedil.files import atomic_write


def read_blocks(path: str | Path, size: int, sample_rate: int | None = None) -> Iterator[np.ndarray]:
    """A file's blocks in order, float32 ``(channels, time)``, of about ``size`` samples, resampled where asked for.

    Joined they are what :func:`wavedil.audio.data.audio_files.read` gives.

    Raises:
        WavedilError: as that.
    """
    import soxr

    path = Path(path)
    with audio_files.opened(path) as file:
        source, rate = file.samplerate, sample_rate or file.samplerate
        resampler = None
        if rate != source:
            check_rates(path, source, rate)
            resampler = soxr.ResampleStream(source, rate, file.channels, dtype="float32")
        heard = given = 0
        while True:
            block = file.read(size, dtype="float32", always_2d=True)
            last = len(block) == 0
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                at = heard + int(np.argmin(finite))
                raise WavedilError(f"{path}: holds NaN or Inf, first at sample {at}; repair the file")
            heard += len(block)
            if last and not heard:
                raise WavedilError(f"{path}: holds no sound (0 samples); remove the file")
            if resampler is not None:
                block = resampler.resample_chunk(block, last=last)
                if last:
                    block = block[: resampled_length(heard, source, rate) - given]
            given += len(block)
            if len(block):
                yield np.ascontiguousarray(block.T)
            if last:
                return


@contextmanager
def written_blocks(
    path: str | Path, sample_rate: int, channels: int, subtype: str | None = None
) -> Iterator[Callable[[np.ndarray], int]]:
    """A function that appends a block ``(channels, time)`` and returns how many of its samples were clipped.

    The file appears under its name when the ``with`` block ends without an error. Suffix and subtype as in
    :func:`wavedil.audio.data.audio_files.write`.
    """
    import soundfile

    path = Path(path)
    kind, subtype = audio_files.coding(path, subtype)

    def append(block: np.ndarray) -> int:
        if not np.isfinite(block).all():
            raise WavedilError(f"{path}: not written: the sound holds NaN or Inf")
        over = 0 if subtype in ("FLOAT", "DOUBLE") else int((np.abs(block) > 1).sum())
        file.write((block.clip(-1, 1) if over else block).T)
        return over

    try:
        with (
            atomic_write(path) as beside,
            soundfile.SoundFile(beside, "w", sample_rate, channels, subtype, format=kind) as file,
        ):
            yield append
    except soundfile.LibsndfileError as error:
        what = f"{kind} {subtype} with {channels} channels at {sample_rate} Hz"
        raise WavedilError(f"{path}: {what} cannot be written: {error.error_string}") from None
