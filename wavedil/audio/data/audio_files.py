"""Sound files in and out: any rate, channel count and subtype that libsndfile knows.

Sound is float32 in [-1, 1], ``(channels, time)``. Headers are not believed: mp3 and broken flac
files can promise 2**63 - 1 frames, so lengths are checked or counted, and nothing is allocated from
a promise. Whatever is wrong with a file ends in one `WavedilError` that names it.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wavedil.audio.data.resampling import check_rates, resample_crop
from wavedil.errors import WavedilError
from wavedil.files import atomic_write

if TYPE_CHECKING:
    import soundfile
    import torch

    Sound = np.ndarray | torch.Tensor

# Suffix to libsndfile's name of the format. Headerless files (.raw) are left out on purpose:
# nothing in them says what they hold.
FORMATS = {
    ".wav": "WAV", ".wave": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG",
    ".mp3": "MP3", ".aif": "AIFF", ".aiff": "AIFF", ".au": "AU", ".caf": "CAF", ".w64": "W64",
    ".rf64": "RF64",
}  # fmt: skip
_SUFFIXES = ", ".join(FORMATS)
_BLOCK = 2**20  # values (frames x channels) decoded at a time
# Codings whose seek may land beside the frame that was asked for (libsndfile issue 885; mp3 without
# a table of contents): a crop decodes what is before it and drops it.
_INEXACT = {"VORBIS", "MPEG_LAYER_III"}


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file holds. ``frames`` is what can be decoded, not what the header says."""

    path: Path
    sample_rate: int  # Hz
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


def info(path: str | os.PathLike[str]) -> AudioInfo:
    """Describe the sound file at `path`.

    The header's length is tried by reading the last frame; where that fails, the whole file is
    decoded and counted.

    Raises:
        WavedilError: no such file, not a sound file, or broken.
    """
    path = Path(path)
    with opened(path) as file:
        frames = file.frames
        if not _holds(file, frames):
            frames = sum(len(block) for block in _blocks(file, 0, None))
        return AudioInfo(path, file.samplerate, file.channels, frames, file.format, file.subtype)


def read(
    path: str | os.PathLike[str],
    *,
    start: int = 0,
    frames: int | None = None,
    sample_rate: int | None = None,
    mono: bool = True,
) -> tuple[np.ndarray, int]:
    """Read a sound file, or a crop of it without decoding the rest where the format can seek.

    Args:
        path: wav, flac, ogg, mp3 or whatever else libsndfile opens.
        start: first sample of the crop, counted at the rate of the result.
        frames: length of the crop at the rate of the result; None reads to the end. A crop that
            runs past the end comes back shorter.
        sample_rate: resample to this rate in Hz (soxr, high quality). A crop equals the same
            stretch of the whole file resampled, so its edges are not audible. None keeps the rate.
        mono: mix to one channel by the mean. Channels of opposite sign cancel.

    Returns:
        The sound, float32 ``(channels, time)``, and its rate in Hz. Floating-point files may
        exceed [-1, 1] and are returned as they are.

    Raises:
        WavedilError: the file is missing, broken or empty, holds NaN or infinity, or ends
            before `start`.
    """
    path = Path(path)
    if start < 0 or (frames is not None and frames < 1) or (sample_rate or 1) < 1:
        raise WavedilError(
            f"read {path}: start {start}, frames {frames}, sample_rate {sample_rate}: expected "
            "start >= 0, frames >= 1 (or None for all) and sample_rate >= 1 (or None to keep it)"
        )
    with opened(path) as file:
        source_rate = file.samplerate
        rate = sample_rate or source_rate
        if rate == source_rate:
            sound = _decode(file, path, mono, start, frames)
        else:
            check_rates(path, source_rate, rate)
            decode = partial(_decode, file, path, mono)
            sound = resample_crop(decode, source_rate, rate, start, frames)
    if sound.shape[1] == 0:
        if start == 0:
            raise WavedilError(f"{path}: holds no sound (0 samples); remove the file")
        raise WavedilError(
            f"{path}: a crop from sample {start} was asked for, but the file ends before that "
            f"at {rate} Hz; see wavedil.audio.data.audio_files.info for its length"
        )
    return sound, rate


def write(path: str | os.PathLike[str], sound: Sound, sample_rate: int, subtype: str | None = None) -> Path:
    """Write sound to a file whose suffix decides the format.

    The file is written beside its place and then moved there, so an interrupted run leaves no
    half file. Samples outside [-1, 1] are clipped, with a warning that counts them, unless the
    subtype is floating point (``"FLOAT"``, ``"DOUBLE"``), which keeps them.

    Args:
        path: ends in .wav, .flac, .ogg, .mp3, …; missing folders are made.
        sound: ``(time,)`` or ``(channels, time)``, numpy array or tensor on any device.
        sample_rate: in Hz.
        subtype: libsndfile's name of the coding; default 16-bit PCM where the format has it.

    Raises:
        WavedilError: NaN or infinity, no samples, a wrong shape, an unknown suffix, or a subtype
            or rate that the format does not have.
    """
    import soundfile

    path = Path(path)
    kind, subtype = coding(path, subtype)
    values = sound if isinstance(sound, np.ndarray) else sound.detach().float().cpu().numpy()
    values = np.atleast_2d(values)
    if values.ndim != 2 or values.size == 0 or not np.issubdtype(values.dtype, np.floating):
        raise WavedilError(
            f"{path}: cannot write a {values.dtype} array of shape {tuple(sound.shape)}; "
            "expected floating point, (time,) or (channels, time), with at least one sample"
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise WavedilError(f"{path}: not written: {bad} of {values.size} samples are NaN or Inf")
    if subtype not in ("FLOAT", "DOUBLE"):
        over = int((np.abs(values) > 1).sum())
        if over:
            warnings.warn(
                f"{path}: {over} of {values.size} samples lie outside [-1, 1] and were clipped "
                f"(peak {np.abs(values).max():.3g}); scale the sound or use subtype 'FLOAT'",
                stacklevel=2,
            )
        values = values.clip(-1, 1)
    try:
        with atomic_write(path) as beside:
            soundfile.write(beside, values.T, sample_rate, format=kind, subtype=subtype)
    except soundfile.LibsndfileError as error:
        what = f"{kind} {subtype} with {len(values)} channels at {sample_rate} Hz"
        raise WavedilError(f"{path}: {what} cannot be written: {error.error_string}") from None
    return path


def coding(path: Path, subtype: str | None = None) -> tuple[str, str]:
    """libsndfile's names of the format that a suffix means and of the coding, 16-bit PCM where it has that."""
    import soundfile

    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise WavedilError(f"{path}: unknown suffix '{path.suffix}'; use one of {_SUFFIXES}")
    if subtype is None:
        opus = path.suffix.lower() == ".opus"
        pcm = soundfile.check_format(kind, "PCM_16")
        subtype = "OPUS" if opus else "PCM_16" if pcm else soundfile.default_subtype(kind)
    if not soundfile.check_format(kind, subtype):
        choices = ", ".join(soundfile.available_subtypes(kind))
        raise WavedilError(f"{path}: {kind} has no subtype '{subtype}'; it has {choices}")
    return kind, subtype


def list_audio_files(root: str | os.PathLike[str]) -> list[Path]:
    """All sound files under a folder, sorted by their path within it; a file gives itself.

    Hidden files and folders (a leading dot) are skipped; links to folders are followed once.

    Raises:
        WavedilError: the folder is missing or holds no sound file.
    """
    root = Path(root)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise WavedilError(f"{root}: no such folder; give a folder that holds recordings")
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        subfolders[:] = [
            name for name in subfolders if name[0] != "." and os.path.realpath(os.path.join(folder, name)) not in seen
        ]
        paths = (Path(folder, name) for name in names if name[0] != ".")
        found += [path for path in paths if path.suffix.lower() in FORMATS and path.is_file()]
    if not found:
        raise WavedilError(f"{root}: no sound files in this folder; looked for {_SUFFIXES}")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


@contextmanager
def opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open for reading; every complaint of libsndfile inside becomes an error naming the file."""
    import soundfile

    try:
        if not path.is_file():  # a named pipe would block, a folder would puzzle libsndfile
            what = "not a regular file" if path.exists() else "no such file"
            raise WavedilError(f"{path}: {what}; give the path of a sound file")
        if path.suffix.lower() == ".raw":  # soundfile would ask for rate and coding
            raise WavedilError(f"{path}: headerless; give it a header (wav) first")
        with soundfile.SoundFile(path) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise WavedilError(
            f"{path}: not a readable sound file: {error.error_string.rstrip('.')}; "
            "convert it to wav or flac, or remove it"
        ) from None
    except OSError as error:
        raise WavedilError(f"{path}: cannot be read: {error.strerror or error}") from None


def _holds(file: soundfile.SoundFile, frames: int) -> bool:
    """Whether the last of `frames` frames can be read. Leaves the file at its start."""
    import soundfile

    if frames == 0 or not file.seekable():
        return frames == 0
    try:
        file.seek(frames - 1)
        return len(file.read(1, dtype="float32")) == 1
    except soundfile.LibsndfileError:
        return False
    finally:
        file.seek(0)


def _blocks(file: soundfile.SoundFile, start: int, frames: int | None) -> Iterator[np.ndarray]:
    """Decode ``(time, channels)`` blocks from frame `start` on, at most `frames` in all."""
    step = max(1, _BLOCK // file.channels)
    skip = start
    if start and file.seekable() and file.subtype not in _INEXACT:
        if start >= file.frames:
            return
        file.seek(start)
        skip = 0
    left = math.inf if frames is None else frames
    while left > 0:
        wanted = min(step, skip or left)
        block = file.read(int(wanted), dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        if skip:
            skip -= len(block)
        else:
            left -= len(block)
            yield block


def _decode(file: soundfile.SoundFile, path: Path, mono: bool, start: int, frames: int | None) -> np.ndarray:
    """Frames `start` to `start + frames` as float32 ``(channels, time)``; checked for NaN, Inf."""
    blocks: list[np.ndarray] = []
    position = start
    for block in _blocks(file, start, frames):
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            at = position + int(np.argmin(finite))
            raise WavedilError(
                f"{path}: holds NaN or Inf, first at sample {at} "
                f"({at / file.samplerate:.3f} s); repair or remove the file"
            )
        position += len(block)
        blocks.append(block.mean(axis=1, keepdims=True) if mono else block)
    if not blocks:
        return np.zeros((1 if mono else file.channels, 0), np.float32)
    return np.ascontiguousarray(np.concatenate(blocks).T)
