"""Decoding and encoding of audio files block by block, in constant memory.

All reading and writing of sound goes through this module; :mod:`wavedil.audio.data.audio_files` handles files in one
piece. libsndfile's errors become a :class:`WavedilError` with the path.
"""

from __future__ import annotations

import errno
import io
import math
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wavedil.audio.data.packed import PackedSound
from wavedil.audio.data.resampling import check_rates, resampled_length
from wavedil.errors import WavedilError, one_of
from wavedil.shards import find_packed
from wavedil.writing import atomic_write

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
_MANY_BITS = ("PCM_24", "PCM_32", *FLOATING)
_ASCII_TAGS = ("MP3", "AIFF")  # libsndfile 1.2.2 damages other characters in them
_BLOCK = 2**20  # values (frames x channels) decoded at a time
# Codings in which a seek fails or ends at another frame (libsndfile issue 885), so a crop decodes and drops all frames
# before it.
_NO_SEEK = {"VORBIS", "ALAC_20", "DWVW_12", "DWVW_16", "DWVW_24", "DWVW_N"}
# Samples to decode before a crop. A frame of mp3 uses up to 511 bytes of the frames before it, which are 88 frames of
# 576 samples at the lowest rate (8 kbit/s at 24 kHz, stereo).
_WARM_UP = {"MPEG_LAYER_I": 2**16, "MPEG_LAYER_II": 2**16, "MPEG_LAYER_III": 2**16}


def read_blocks(path: str | Path, size: int, sample_rate: int | None = None) -> Iterator[np.ndarray]:
    """Reads an audio file in blocks, resampled to ``sample_rate`` if set.

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
    first = start - _WARM_UP.get(file.subtype, 0) if file.can_seek and file.subtype not in _NO_SEEK else 0
    if first > 0:
        if first >= file.frames:
            return
        file.seek(first)
    skip = start - max(0, first)
    left = math.inf if frames is None else frames
    if file.frames > 0:
        left = min(left, file.frames - start)  # flac: what follows the last frame, e.g. a tag, is not sound
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
def open_sound(path: Path) -> Iterator[soundfile.SoundFile | PackedSound]:
    """Opens an audio file for reading. Errors of libsndfile within the ``with`` block become a WavedilError."""
    import soundfile

    packed = find_packed(path)
    if packed is not None:
        if packed.dtype is None:
            raise WavedilError(f"{path} is packed, but not as a sound: expected the path of an audio file")
        yield PackedSound(packed)
        return
    try:
        if not path.is_file():  # libsndfile would block on a named pipe
            problem = "not a regular file" if path.exists() else "no such file"
            raise WavedilError(f"{path}: {problem}; expected the path of an audio file")
        if path.suffix.lower() == ".raw":  # soundfile would ask for rate and coding
            raise WavedilError(f"{path} has no header: convert it to wav first")
        with _opened(path) as file:
            file.can_seek = file.seekable()
            file.seekable = lambda: False  # else soundfile seeks after each read, and decoders lose their memory
            yield file
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise WavedilError(
            f"{path}: not a readable audio file: {reason}; convert it to wav or flac, or remove it"
        ) from None
    except OSError as error:
        raise WavedilError(f"{path}: cannot be read: {error.strerror or error}") from None


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    import soundfile

    with soundfile.SoundFile(_file_name(path)) as file:
        if file.format == "OGG" and _is_chained(path):
            raise WavedilError(
                f"{path} has several Ogg streams, one after the other, of which only the first could be read: write "
                "each to a file of its own, or convert the file to wav or flac"
            )
        corrected = None
        if file.format in ("WAV", "WAVEX") and file.frames == 0:
            corrected = _correct_wav(path)
        elif file.format == "MP3" and not _has_length(path):
            corrected = _CorrectedFile(path, length=64 * path.stat().st_size)
        if corrected is None:
            yield file
    if corrected is not None:
        with corrected, soundfile.SoundFile(corrected) as file:
            yield file


def _file_name(path: Path) -> str | bytes:
    """The name for libsndfile; bytes where names may be no text."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def _is_chained(path: Path) -> bool:
    """Whether an Ogg file has the first page of a stream after pages of another."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        later = re.compile(rb"OggS\x00[^\x02\x03\x06\x07]", re.DOTALL).search(data)
        return later is not None and re.compile(rb"OggS\x00[\x02\x03\x06\x07]").search(data, later.end()) is not None


def _has_length(path: Path) -> bool:
    """Whether the first frame of an mp3 file has its length. If not, libsndfile stops at an estimated length."""
    with path.open("rb") as file:
        start = file.read(10)
        if start[:3] == b"ID3":
            file.seek(sum((byte & 127) << shift for byte, shift in zip(start[6:], (21, 14, 7, 0), strict=False)) + 10)
        else:
            file.seek(0)
        return re.search(b"Xing|Info|VBRI", file.read(4096)) is not None


def _correct_wav(path: Path) -> _CorrectedFile | None:
    """A WAV file with the size of its data, if that is 0 but sound follows, as programs write to a pipe; else None."""
    end = path.stat().st_size
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                size_at = file.tell() - 4
                name = file.read(4)
                more_chunks = name.isalnum() and size_at + 12 + int.from_bytes(file.read(4), "little") <= end
                return _CorrectedFile(path, size_at) if size == 0 and name and not more_chunks else None
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


class _CorrectedFile(io.FileIO):
    """A file as if it had another content or length, with which libsndfile reads all of it.

    Args:
        largest_at: position of four bytes that are read as the largest number.
        length: in bytes, instead of the file's.
    """

    def __init__(self, path: Path, largest_at: int | None = None, length: int | None = None):
        super().__init__(path, "rb")
        self.largest_at, self.length = range(0) if largest_at is None else range(largest_at, largest_at + 4), length

    def readinto(self, buffer: Any) -> int:
        at = self.tell()
        count = super().readinto(buffer)
        if self.length is not None and at >= self.length - 128:  # where mp3 files may have a tag
            count = min(len(buffer), self.length - at)
            buffer[:count] = bytes(count)
            self.seek(at + count)
        for index in self.largest_at:
            if at <= index < at + count:
                buffer[index - at : index - at + 1] = b"\xff"
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and self.length is not None:
            offset, whence = self.length + offset, os.SEEK_SET
        return super().seek(offset, whence)


@contextmanager
def written_blocks(
    path: str | Path, sample_rate: int, channels: int, subtype: str | None = None, tags: Mapping[str, str] | None = None
) -> Iterator[Callable[[np.ndarray], int]]:
    """Writes an audio file in blocks.

    Yields a function that appends a block ``(channels, time)`` and returns the number of its samples that were clipped
    to [-1, 1]; floating-point subtypes and blocks of integers are not clipped. The file appears under its name when the
    ``with`` block ends without an error.

    Args:
        path: the suffix decides the format, e.g. .wav, .flac, .ogg, .mp3.
        sample_rate: in Hz.
        channels: number of channels.
        subtype: libsndfile's name of the coding, e.g. ``"FLOAT"``; default 16-bit PCM if the format supports it.
        tags: texts such as ``{"artist": "..."}``. Those that the format cannot store are left out.

    Raises:
        WavedilError: the suffix is unknown, the format does not support subtype, rate or number of channels, or a block
            has NaN or infinity.
    """
    import soundfile

    path = Path(path)
    kind, subtype = coding(path, subtype)

    def append(block: np.ndarray) -> int:
        if not np.isfinite(block).all():
            bad = int((~np.isfinite(block)).sum())
            raise WavedilError(f"{path}: not written: {bad} of {block.size} samples are NaN or Inf")
        is_exact = subtype in FLOATING or block.dtype.kind == "i"
        clipped = 0 if is_exact else int((np.abs(block) > 1).sum())
        try:
            file.write((block.clip(-1, 1) if clipped else block).T)
        except AssertionError:  # soundfile's, if fewer frames were written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        return clipped

    try:
        with atomic_write(path) as temporary:
            name = _file_name(temporary)
            with soundfile.SoundFile(name, "w", sample_rate, channels, subtype, format=kind) as file:
                for tag, text in (tags or {}).items():
                    if text.isascii() or kind not in _ASCII_TAGS:
                        with suppress(soundfile.LibsndfileError):
                            setattr(file, tag, text)
                yield append
            _check_space(temporary, path)
    except soundfile.LibsndfileError as error:
        if error.code == 2:  # a system error; libsndfile has no details
            raise OSError(errno.ENOSPC, "the disk may be full", str(path)) from None
        what = f"{kind} {subtype} with {channels} channels at {sample_rate} Hz"
        raise WavedilError(f"{path}: cannot write {what}: {error.error_string}") from None


def _check_space(temporary: Path, path: Path) -> None:
    """Raises OSError if a file cannot grow: libsndfile reports no error of the bytes that it writes last."""
    size = temporary.stat().st_size
    try:
        with temporary.open("ab") as file:
            file.write(bytes(2**16))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    os.truncate(temporary, size)


def coding(path: Path, subtype: str | None = None, like: str | None = None) -> tuple[str, str]:
    """libsndfile's format and subtype for a file to write.

    Args:
        path: of the file; its suffix decides the format.
        subtype: None for that of ``like`` if the format has it, 24-bit PCM in place of more bits, else 16-bit PCM or
            the format's default.
        like: subtype of the file that the sound comes from.

    Raises:
        WavedilError: the suffix is unknown, or the format does not have the subtype.
    """
    import soundfile

    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise WavedilError(f"{path}: unknown suffix '{path.suffix}': expected one of {SUFFIXES}")
    kind = FORMATS[suffix]
    if subtype is None:
        first = ["OPUS"] if suffix == ".opus" else [like, "PCM_24" if like in _MANY_BITS else None]
        wanted = [*(each for each in first if each), "PCM_16"]
        fallback = soundfile.default_subtype(kind)
        subtype = next((each for each in wanted if soundfile.check_format(kind, each)), fallback)
    if not soundfile.check_format(kind, subtype):
        raise WavedilError(
            f"{path}: {kind} has no subtype '{subtype}': expected {one_of(subtype, soundfile.available_subtypes(kind))}"
        )
    return kind, subtype
