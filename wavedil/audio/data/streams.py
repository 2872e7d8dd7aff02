"""Decoding and encoding of sound files block by block, in constant memory.

All reading and writing of sound goes through this module; :mod:`wavedil.audio.data.audio_files` handles files in one
piece. libsndfile's errors become a :class:`WavedilError` with the path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavedil.audio.data.resampling import check_rates, resampled_length
from wavedil.errors import WavedilError
from wavedil.files import atomic_write

if TYPE_CHECKING:
    import soundfile

#: libsndfile's format for each suffix. Headerless files (.raw) are not supported: they have no rate and no coding.
FORMATS = {
    ".wav": "WAV", ".wave": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG",
    ".mp3": "MP3", ".aif": "AIFF", ".aiff": "AIFF", ".au": "AU", ".caf": "CAF", ".w64": "W64",
    ".rf64": "RF64",
}  # fmt: skip
SUFFIXES = ", ".join(FORMATS)
#: Subtypes that can store values outside [-1, 1].
FLOATING = ("FLOAT", "DOUBLE")
_BLOCK = 2**20  # values (frames x channels) decoded at a time
# A seek in these codings may end at another frame (libsndfile issue 885; mp3 without a table of contents), so a crop
# decodes and drops all frames before it.
_INEXACT_SEEK = {"VORBIS", "MPEG_LAYER_III"}


def read_blocks(path: str | Path, size: int, sample_rate: int | None = None) -> Iterator[np.ndarray]:
    """Reads a sound file in blocks, resampled to ``sample_rate`` if set.

    The blocks are float32 ``(channels, time)`` of about ``size`` samples. Concatenated, they equal the result of
    :func:`wavedil.audio.data.audio_files.read`.

    Raises:
        WavedilError: the file is missing, broken or empty, or has NaN or infinity.
    """
    import soxr

    path = Path(path)
    with open_sound(path) as file:
        source_rate, rate = file.samplerate, sample_rate or file.samplerate
        resampler = None
        if rate != source_rate:
            check_rates(path, source_rate, rate)
            # Not resample_crop: the stream keeps its filter's state, so nothing is decoded twice.
            resampler = soxr.ResampleStream(source_rate, rate, file.channels, dtype="float32")
        decoded = returned = 0
        for block in decoded_blocks(file, path, size=size):
            decoded += len(block)
            if resampler is not None:
                block = resampler.resample_chunk(block)
            returned += len(block)
            if len(block):
                yield np.ascontiguousarray(block.T)
        if not decoded:
            raise WavedilError(f"{path} is empty (0 samples): remove the file")
        if resampler is not None:
            rest = resampler.resample_chunk(np.zeros((0, file.channels), np.float32), last=True)
            rest = rest[: resampled_length(decoded, source_rate, rate) - returned]
            if len(rest):
                yield np.ascontiguousarray(rest.T)


def decoded_blocks(
    file: soundfile.SoundFile, path: Path, start: int = 0, frames: int | None = None, size: int | None = None
) -> Iterator[np.ndarray]:
    """Decodes float32 blocks ``(time, channels)`` from frame ``start`` on, at most ``frames`` in total.

    Raises:
        WavedilError: NaN or infinity in the file at ``path``.
    """
    position = start
    for block in unchecked_blocks(file, start, frames, size):
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            at = position + int(np.argmin(finite))
            raise WavedilError(
                f"{path} has NaN or Inf, first at sample {at} ({at / file.samplerate:.3f} s): repair or remove the file"
            )
        position += len(block)
        yield block


def unchecked_blocks(
    file: soundfile.SoundFile, start: int = 0, frames: int | None = None, size: int | None = None
) -> Iterator[np.ndarray]:
    """As :func:`decoded_blocks`, without the check for NaN and infinity."""
    size = max(1, _BLOCK // file.channels) if size is None else size
    skip = start
    if start and file.seekable() and file.subtype not in _INEXACT_SEEK:
        if start >= file.frames:
            return
        file.seek(start)
        skip = 0
    left = math.inf if frames is None else frames
    while left > 0:
        block = file.read(int(min(size, skip or left)), dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        if skip:
            skip -= len(block)
        else:
            left -= len(block)
            yield block


@contextmanager
def open_sound(path: Path) -> Iterator[soundfile.SoundFile]:
    """Opens a sound file for reading. Errors of libsndfile within the ``with`` block become a WavedilError."""
    import soundfile

    try:
        if not path.is_file():  # libsndfile would block on a named pipe
            problem = "not a regular file" if path.exists() else "no such file"
            raise WavedilError(f"{path}: {problem}; expected the path of a sound file")
        if path.suffix.lower() == ".raw":  # soundfile would ask for rate and coding
            raise WavedilError(f"{path} has no header: convert it to wav first")
        with soundfile.SoundFile(path) as file:
            yield file
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise WavedilError(
            f"{path}: not a readable sound file: {reason}; convert it to wav or flac, or remove it"
        ) from None
    except OSError as error:
        raise WavedilError(f"{path}: cannot be read: {error.strerror or error}") from None


@contextmanager
def written_blocks(
    path: str | Path, sample_rate: int, channels: int, subtype: str | None = None
) -> Iterator[Callable[[np.ndarray], int]]:
    """Writes a sound file in blocks.

    Yields a function that appends a block ``(channels, time)`` and returns the number of its samples that were clipped
    to [-1, 1]; floating-point subtypes are not clipped. The file appears under its name when the ``with`` block ends
    without an error.

    Args:
        path: the suffix decides the format, e.g. .wav, .flac, .ogg, .mp3.
        sample_rate: in Hz.
        channels: number of channels.
        subtype: libsndfile's name of the coding, e.g. ``"FLOAT"``; default 16-bit PCM if the format supports it.

    Raises:
        WavedilError: the suffix is unknown, the format does not support subtype, rate or number of channels, or a block
            has NaN or infinity.
    """
    import soundfile

    path = Path(path)
    kind, subtype = _coding(path, subtype)

    def append(block: np.ndarray) -> int:
        if not np.isfinite(block).all():
            bad = int((~np.isfinite(block)).sum())
            raise WavedilError(f"{path}: not written: {bad} of {block.size} samples are NaN or Inf")
        clipped = 0 if subtype in FLOATING else int((np.abs(block) > 1).sum())
        file.write((block.clip(-1, 1) if clipped else block).T)
        return clipped

    try:
        with (
            atomic_write(path) as temporary,
            soundfile.SoundFile(temporary, "w", sample_rate, channels, subtype, format=kind) as file,
        ):
            yield append
    except soundfile.LibsndfileError as error:
        what = f"{kind} {subtype} with {channels} channels at {sample_rate} Hz"
        raise WavedilError(f"{path}: cannot write {what}: {error.error_string}") from None


def _coding(path: Path, subtype: str | None) -> tuple[str, str]:
    """libsndfile's format and subtype for a path; 16-bit PCM by default if the format supports it."""
    import soundfile

    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise WavedilError(f"{path}: unknown suffix '{path.suffix}': expected one of {SUFFIXES}")
    kind = FORMATS[suffix]
    if subtype is None and suffix == ".opus":
        subtype = "OPUS"
    elif subtype is None:
        subtype = "PCM_16" if soundfile.check_format(kind, "PCM_16") else soundfile.default_subtype(kind)
    if not soundfile.check_format(kind, subtype):
        choices = ", ".join(soundfile.available_subtypes(kind))
        raise WavedilError(f"{path}: {kind} has no subtype '{subtype}': expected one of {choices}")
    return kind, subtype
