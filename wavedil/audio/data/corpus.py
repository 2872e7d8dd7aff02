"""Recordings at one sample rate, mono, with normalized level and trimmed silence."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.audio.data.headers import PathList, read_headers
from wavedil.audio.data.levels import Levels, check_level
from wavedil.audio.data.resampling import resampled_length
from wavedil.audio.data.split import PathLike, Piece
from wavedil.errors import WavedilError, count_text

SILENCE = 1e-4  # a file whose peak is below this (-80 dB of full scale) is silent
PEAK_LEVEL = 0.9  # peak of each file with normalize="peak"
RMS_LEVEL = 0.1  # RMS of each file with normalize="rms"; less where the peak would exceed 1
PRELOAD_BYTES = 512 * 2**20  # corpora up to this size, as float32, are kept in memory
_REMEDY = "scale the files, or set normalize to peak (--data.normalize peak in training, --normalize peak elsewhere)"
_FRAME_SECONDS = 0.01  # length of the frames in which trim_db measures the level


class SilentFilesError(WavedilError):
    """All files are silent, and silence is removed."""


@dataclass(frozen=True)
class _Entry:
    """Part of a file (in samples at the corpus' rate) and its gain."""

    path: Path
    start: int
    length: int
    gain: float


class Corpus:
    """Recordings at one sample rate, mixed to mono.

    Small corpora are decoded once and kept in memory; larger ones are read crop by crop. Samples outside [-1, 1] are
    warned about, once.

    Args:
        files: paths, or pieces as :func:`wavedil.audio.data.split.split_files` returns them.
        sample_rate: in Hz; all files are resampled to it.
        normalize: ``"peak"`` scales each file to a peak of 0.9; ``"rms"`` scales it to an RMS of 0.1, or less if its
            peak would exceed 1; None keeps levels. Silent files are not scaled.
        trim_db: removes silence at both ends of each file: frames of 10 ms that are more than this many dB below the
            file's loudest frame. Silent files (peak below 1e-4 of full scale) are removed and listed in ``dropped``.
            None keeps everything.
        preload_bytes: largest size to keep in memory, as float32.
        progress: called with the numbers of files whose length is known and of all files.

    Attributes:
        paths: file of each entry.
        lengths: samples of each entry, int64 array.
        rates: number of files of each sample rate.
        starts: first sample of each entry in its file, int64 array.
        dropped: silent files that were removed.

    Raises:
        WavedilError: a file is missing, broken or empty, or its peak exceeds 16 (without ``normalize``), or all files
            are silent.
    """

    def __init__(
        self,
        files: Sequence[PathLike | Piece],
        sample_rate: int,
        *,
        normalize: Literal["peak", "rms"] | None = None,
        trim_db: float | None = None,
        preload_bytes: int = PRELOAD_BYTES,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not files:
            raise WavedilError("files is empty: expected at least one file")
        if normalize not in (None, "peak", "rms"):
            raise WavedilError(f"normalize is {normalize!r}: expected 'peak', 'rms' or None")
        if trim_db is not None and not trim_db > 0:
            raise WavedilError(f"trim_db is {trim_db}: expected a positive number of dB; 40 is usual")
        pieces = [file if isinstance(file, Piece) else Piece(Path(file)) for file in files]
        self.sample_rate = sample_rate
        self.dropped: list[Path] = []
        self._normalize, self._trim_db = normalize, trim_db
        self._levels = Levels(_REMEDY)
        starts, lengths = self._spans(pieces, progress)
        preload = 4 * int(lengths.sum()) <= preload_bytes
        if not preload and normalize is None and trim_db is None:  # nothing has to be decoded
            self._sounds, self._gains = None, np.ones(len(pieces), np.float32)
            self.paths, self.starts, self.lengths = PathList(piece.path for piece in pieces), starts, lengths
            return
        entries: list[_Entry] = []
        self._sounds: list[np.ndarray] | None = [] if preload else None
        for piece, start, frames in zip(pieces, starts.tolist(), lengths.tolist(), strict=True):
            sound, _ = audio_files.read(piece.path, start=start, frames=frames, sample_rate=sample_rate)
            entry = self._trim_and_scale(piece.path, start, sound[0])
            if entry is None:
                self.dropped.append(piece.path)
                continue
            entries.append(entry)
            offset = entry.start - start
            kept = sound[0, offset : offset + entry.length] * np.float32(entry.gain)
            check_level(kept, piece.path, self._levels)
            if self._sounds is not None:
                self._sounds.append(kept)
        self._levels.warn()
        if not entries:
            raise SilentFilesError(
                f"trim_db is {trim_db}, which removes all {len(pieces)} files (first: {pieces[0].path}): no sample is "
                f"above {SILENCE} of full scale (-80 dB); check the recordings, check whether their two channels "
                "cancel, or set trim_db to null"
            )
        # Arrays, which data workers share; see PathList.
        self.paths = PathList(entry.path for entry in entries)
        self.lengths = np.array([entry.length for entry in entries], np.int64)
        self.starts = np.array([entry.start for entry in entries], np.int64)
        self._gains = np.array([entry.gain for entry in entries], np.float32)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def seconds(self) -> float:
        """Total duration."""
        return int(self.lengths.sum()) / self.sample_rate

    @property
    def preloaded(self) -> bool:
        """Whether the corpus is kept in memory."""
        return self._sounds is not None

    def __str__(self) -> str:
        dropped = f", {len(self.dropped)} silent files dropped" if self.dropped else ""
        place = "in memory" if self.preloaded else "read from disk"
        return f"{count_text(len(self), 'file')}, {self.seconds:.1f} s at {self.sample_rate} Hz, {place}{dropped}"

    def sound(self, index: int, start: int = 0, frames: int | None = None) -> np.ndarray:
        """Samples ``start`` to ``start + frames`` (None: to the end) of an entry, float32 ``(time,)``.

        Raises:
            WavedilError: the file is read now, and was removed, damaged or shortened meanwhile, or its peak exceeds 16.
        """
        length = int(self.lengths[index])
        frames = length - start if frames is None else min(frames, length - start)
        if self._sounds is not None:
            return self._sounds[index][start : start + frames]
        first = int(self.starts[index]) + start
        path = self.paths[index]
        sound, _ = audio_files.read(path, start=first, frames=frames, sample_rate=self.sample_rate)
        if sound.shape[1] < frames:
            raise WavedilError(
                f"{path} ends at sample {first + sound.shape[1]} (at {self.sample_rate} Hz), earlier than at "
                "the start: it was truncated or replaced; restore it, or start again"
            )
        scaled = check_level(sound[0] * self._gains[index], path, self._levels)
        self._levels.warn()
        return scaled

    def _spans(
        self, pieces: Sequence[Piece], progress: Callable[[int, int], None] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """First sample and length of each piece, at the corpus' rate."""
        frames, rates = read_headers([piece.path for piece in pieces], progress)
        self.rates = Counter(rates.tolist())
        spans = np.zeros((2, len(pieces)), np.int64)
        for index, piece in enumerate(pieces):
            length = resampled_length(int(frames[index]), int(rates[index]), self.sample_rate)
            start, stop = round(piece.start * length), round(piece.stop * length)
            if stop <= start:
                raise WavedilError(
                    f"{piece.path} has {frames[index]} samples at {rates[index]} Hz: too short to use at "
                    f"{self.sample_rate} Hz; remove the file or use a longer one"
                )
            spans[:, index] = start, stop - start
        return spans[0], spans[1]

    def _trim_and_scale(self, path: Path, start: int, sound: np.ndarray) -> _Entry | None:
        """The entry for a decoded piece; None if it is silent and silence is trimmed."""
        peak = float(np.abs(sound).max())
        silent = peak < SILENCE
        first, last = 0, len(sound)
        if self._trim_db is not None:
            if silent:
                return None
            first, last = _loud_span(sound, self._trim_db, round(_FRAME_SECONDS * self.sample_rate))
        gain = 1.0
        if self._normalize == "peak" and not silent:
            gain = PEAK_LEVEL / peak
        elif self._normalize == "rms" and not silent:
            rms = float(np.sqrt(np.square(sound[first:last], dtype=np.float64).mean()))
            gain = min(RMS_LEVEL / rms, 1 / peak)
        return _Entry(path, start + first, last - first, gain)


def _loud_span(sound: np.ndarray, trim_db: float, frame: int) -> tuple[int, int]:
    """First and last sample of the frames within ``trim_db`` of the loudest, plus one frame on each side."""
    frame = max(1, frame)
    count = -(-len(sound) // frame)
    padded = np.zeros(count * frame, np.float64)
    padded[: len(sound)] = sound
    power = np.square(padded).reshape(count, frame).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-trim_db / 10))
    return max(0, int(loud[0]) - 1) * frame, min(len(sound), (int(loud[-1]) + 2) * frame)
