"""Reading and writing of audio files: any rate, number of channels and coding that libsndfile supports.

Sound is float32 in [-1, 1], ``(channels, time)``. Lengths in headers are not trusted, because mp3 and broken flac files
can promise 2**63 - 1 frames: lengths are checked or counted, and no memory is allocated from them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch

from wavedil.audio.data.levels import check_floating
from wavedil.audio.data.packed import PackedSound
from wavedil.audio.data.resampling import check_rates, resample_crop
from wavedil.audio.data.streams import FORMATS, SUFFIXES, decoded_blocks, open_sound, unchecked_blocks, written_blocks
from wavedil.core.schema import AnyPath, Range, SampleRate, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError
from wavedil.files import check_regular_file, walk_files
from wavedil.shards import find_packed, is_folder

if TYPE_CHECKING:
    import soundfile


@dataclass(frozen=True)
class AudioInfo:
    """Properties of an audio file. ``frames`` is the number that can be decoded, not the header's.

    ``tags`` are the texts that libsndfile knows: title, artist, album, date …
    """

    path: Path
    sample_rate: int  # Hz
    channels: int
    frames: int
    format: str
    subtype: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


@checked
def info(path: AnyPath) -> AudioInfo:
    """Reads the properties of an audio file.

    The header's length is verified by reading the last frame. If it is wrong, the frames are decoded and counted.

    Raises:
        WavedilError: the file is missing, broken, or not an audio file.
    """
    path = Path(path)
    with open_sound(path) as file:
        frames = file.frames if isinstance(file, PackedSound) or _ends_at(file, file.frames) else None
    with open_sound(path) as file:  # again: after a failed seek, some formats cannot be read
        if frames is None:
            frames = sum(len(block) for block in unchecked_blocks(file))
        tags = {} if isinstance(file, PackedSound) else file.copy_metadata()
        return AudioInfo(path, file.samplerate, file.channels, frames, file.format, file.subtype, tags)


@checked
def read(
    path: AnyPath,
    *,
    start: Annotated[int, Range(0, 2**62)] = 0,
    frames: Annotated[int, Range(1, 2**62)] | None = None,
    sample_rate: SampleRate | None = None,
    mono: bool = True,
) -> tuple[np.ndarray, int]:
    """Reads an audio file, or a crop of it; the rest is not decoded if the format supports seeking.

    Args:
        path: wav, flac, ogg, mp3 or another format that libsndfile supports.
        start: first sample of the crop, at the rate of the result.
        frames: length of the crop at the rate of the result; None reads to the end. A crop that extends past the end of
            the file is returned shorter.
        sample_rate: resample to this rate in Hz (soxr, high quality); None keeps the file's rate. A crop equals the
            same part of the resampled file, without artifacts at its ends.
        mono: mix to one channel by the mean. Channels of opposite sign cancel.

    Returns:
        The sound, float32 ``(channels, time)``, and its rate in Hz. Values of floating-point files may exceed [-1, 1]
        and are not clipped.

    Raises:
        WavedilError: the file is missing, broken or empty, has NaN or infinity, or ends before ``start``.
    """
    path = Path(path)
    with open_sound(path) as file:
        source_rate = file.samplerate
        rate = sample_rate or source_rate
        if rate == source_rate:
            sound = _decode(file, path, mono, start, frames)
        else:
            check_rates(path, source_rate, rate)
            decode = partial(_decode, file, path, mono)
            sound = resample_crop(decode, source_rate, rate, start, frames)
    if sound.shape[1] == 0 and start == 0:
        raise WavedilError(f"{path} is empty (0 samples): remove the file")
    if sound.shape[1] == 0:
        raise WavedilError(
            f"start is {start}, but {path} ends before that at {rate} Hz: wavedil.audio.data.audio_files.info returns "
            "its length"
        )
    return sound, rate


@checked
def write(path: AnyPath, sound: Any, sample_rate: SampleRate, subtype: str | None = None) -> Path:
    """Writes audio to a file; the suffix sets the format.

    An interrupted process leaves no partial file. Samples outside [-1, 1] are clipped, with a warning that counts them;
    floating-point subtypes (``"FLOAT"``, ``"DOUBLE"``) are not clipped.

    Args:
        path: ends in .wav, .flac, .ogg, .mp3, …; missing folders are created.
        sound: ``(time,)`` or ``(channels, time)``, a numpy array or a tensor on any device.
        sample_rate: in Hz.
        subtype: libsndfile's name of the coding; default 16-bit PCM if the format supports it.

    Returns:
        The path.

    Raises:
        WavedilError: NaN or infinity, no samples, a wrong shape, an unknown suffix, or a subtype or rate that the
            format does not support.
    """
    path = Path(path)
    tensor = to_tensor(f"sound for {path}", sound).detach().cpu()
    check_floating(tensor, f"sound for {path}")
    values = np.atleast_2d((tensor if tensor.dtype == torch.float64 else tensor.float()).numpy())
    if tensor.ndim not in (1, 2) or values.size == 0:
        raise WavedilError(
            f"{path}: sound has shape {tuple(tensor.shape)}: expected (time,) or (channels, time), with at least one "
            "sample"
        )
    with written_blocks(path, sample_rate, len(values), subtype) as append:
        clipped = append(values)
    if clipped:
        warnings.warn(
            f"{path}: {clipped} of {values.size} samples are outside [-1, 1] and were clipped (peak "
            f"{np.abs(values).max():.3g}); scale the sound or use subtype 'FLOAT'",
            stacklevel=2,
        )
    return path


def list_audio_files(root: str | os.PathLike[str]) -> list[Path]:
    """Lists all audio files below a folder, sorted by their path within it; for a file, the file alone.

    The folder may be packed (:mod:`wavedil.packing`), and then be a URL.

    Links and hidden files are treated as :func:`wavedil.files.walk_files` describes.

    Raises:
        WavedilError: the folder is missing, cannot be listed or has no audio file.
    """
    root = Path(root)
    if root.is_file() or find_packed(root) is not None:
        return [root]
    if not is_folder(root):
        check_regular_file(root, "a folder with audio files")
        raise WavedilError(f"{root}: no such folder; expected a folder with audio files")
    found = walk_files(root, FORMATS)
    if not found:
        raise WavedilError(f"{root}: no audio files in this folder: expected files that end in {SUFFIXES}")
    return found


def _ends_at(file: soundfile.SoundFile, frames: int) -> bool:
    """Whether the last of ``frames`` frames can be read, and no more."""
    import soundfile

    if not file.can_seek or frames < 1:
        return False
    try:
        file.seek(frames - 1)
        return len(file.read(2, dtype="float32")) == 1
    except soundfile.LibsndfileError:
        return False


def _decode(file: soundfile.SoundFile, path: Path, mono: bool, start: int, frames: int | None) -> np.ndarray:
    """Frames ``start`` to ``start + frames`` as float32 ``(channels, time)``."""
    blocks = decoded_blocks(file, path, start, frames)
    blocks = [block.mean(axis=1, keepdims=True) if mono else block for block in blocks]
    if not blocks:
        return np.zeros((1 if mono else file.channels, 0), np.float32)
    return np.ascontiguousarray(np.concatenate(blocks).T)
