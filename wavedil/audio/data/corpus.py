"""Recordings as training data: which files, how loud, and which crops.

Nothing here draws from a global generator: files are sorted, the split is by position in that
order, and crop number i depends on the seed and on i alone, whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wavedil.audio.data import audio_files
from wavedil.audio.data.feature_window import FeatureWindow
from wavedil.audio.data.resampling import resampled_length
from wavedil.audio.data.split import PathLike, Piece, Split, split_files
from wavedil.audio.distributions.quantizers import MuLaw, Quantizer
from wavedil.errors import WavedilError

if TYPE_CHECKING:
    from wavedil.audio.data.feature_files import FeatureFiles

SILENCE = 1e-4  # a file whose peak is below this share of full scale (-80 dB) is silent
PEAK_LEVEL = 0.9  # what normalize="peak" brings each file's largest sample to
RMS_LEVEL = 0.1  # what normalize="rms" brings each file's RMS to (less where it would clip)
PRELOAD_BYTES = 512 * 2**20  # corpora below this many bytes of float32 are kept in memory
_FRAME_SECONDS = 0.01  # silence is judged in steps of 10 ms

__all__ = ["Corpus", "Piece", "RandomCrops", "Split", "WholeFiles", "check_crop", "split_files"]


def check_crop(length: int, receptive_field: int) -> None:
    """Refuse crops in which no prediction sees its whole past.

    Raises:
        WavedilError: `length` is not above `receptive_field`, both in samples.
    """
    if length <= receptive_field:
        raise WavedilError(
            f"crop of {length} samples is not longer than the receptive field of "
            f"{receptive_field} samples, so no prediction in it sees its whole past: use at least "
            f"{receptive_field + 1}, better {2 * receptive_field} samples, or fewer dilations"
        )


@dataclass(frozen=True)
class _Entry:
    """Where a kept piece lies in its file (samples at the corpus' rate), and its gain."""

    path: Path
    start: int
    length: int
    gain: float


class Corpus:
    """Recordings at one rate, mixed to mono, with level and silence dealt with.

    Small corpora are decoded once and kept in memory; larger ones are read crop by crop.

    Args:
        files: paths, or pieces as :func:`split_files` gives them.
        sample_rate: everything is resampled to this rate, in Hz.
        normalize: ``"peak"`` scales each file to a peak of 0.9, ``"rms"`` to an RMS of 0.1 (less
            where that would clip); None leaves levels alone. Silent files are never scaled.
        trim_db: cut silence off both ends: 10 ms frames more than this many dB below the file's
            loudest frame. Silent files (peak below 1e-4 of full scale) are dropped and counted in
            `dropped`. None keeps everything.
        preload_bytes: largest size in memory, as float32.

    Attributes:
        paths: file of each entry. lengths: samples of each entry, int64 array. starts: its first sample in its file.
        dropped: files left out as silent.

    Raises:
        WavedilError: a file is missing, broken or empty, or every file is silent.
    """

    def __init__(
        self,
        files: Sequence[PathLike | Piece],
        sample_rate: int,
        *,
        normalize: Literal["peak", "rms"] | None = None,
        trim_db: float | None = None,
        preload_bytes: int = PRELOAD_BYTES,
    ) -> None:
        if not files:
            raise WavedilError("a corpus needs at least one file")
        if normalize not in (None, "peak", "rms"):
            raise WavedilError(f"normalize={normalize!r}: expected 'peak', 'rms' or None")
        if trim_db is not None and not trim_db > 0:
            raise WavedilError(f"trim_db={trim_db}: expected a positive number of dB, 40 is usual")
        pieces = [file if isinstance(file, Piece) else Piece(Path(file)) for file in files]
        self.sample_rate = sample_rate
        self.dropped: list[Path] = []
        self._normalize, self._trim_db = normalize, trim_db
        spans = [self._span(piece) for piece in pieces]
        preload = 4 * sum(frames for _, frames in spans) <= preload_bytes
        must_decode = preload or normalize is not None or trim_db is not None
        self._entries: list[_Entry] = []
        self._sounds: list[np.ndarray] | None = [] if preload else None
        for piece, (start, frames) in zip(pieces, spans, strict=True):
            if not must_decode:
                self._entries.append(_Entry(piece.path, start, frames, 1.0))
                continue
            sound, _ = audio_files.read(piece.path, start=start, frames=frames, sample_rate=sample_rate)
            entry = self._judge(piece.path, start, sound[0])
            if entry is None:
                self.dropped.append(piece.path)
                continue
            self._entries.append(entry)
            if self._sounds is not None:
                offset = entry.start - start
                kept = sound[0, offset : offset + entry.length]
                self._sounds.append(kept * np.float32(entry.gain))
        if not self._entries:
            raise WavedilError(
                f"trimming silence left none of the {len(pieces)} files (first: "
                f"{pieces[0].path}): no sample above {SILENCE} of full scale (-80 dB); check the "
                "recordings, or whether their two channels cancel, or set trim_db to null"
            )
        self.paths = [entry.path for entry in self._entries]
        self.lengths = np.array([entry.length for entry in self._entries], np.int64)
        self.starts = [entry.start for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def seconds(self) -> float:
        """Total duration."""
        return int(self.lengths.sum()) / self.sample_rate

    @property
    def preloaded(self) -> bool:
        return self._sounds is not None

    def __str__(self) -> str:
        dropped = f", {len(self.dropped)} silent files dropped" if self.dropped else ""
        where = "in memory" if self.preloaded else "read from disk"
        return f"{len(self)} files, {self.seconds:.1f} s at {self.sample_rate} Hz, {where}{dropped}"

    def sound(self, index: int, start: int = 0, frames: int | None = None) -> np.ndarray:
        """Samples `start` to `start + frames` (None: the end) of one file, float32 ``(time,)``."""
        entry = self._entries[index]
        frames = entry.length - start if frames is None else min(frames, entry.length - start)
        if self._sounds is not None:
            return self._sounds[index][start : start + frames]
        sound, _ = audio_files.read(entry.path, start=entry.start + start, frames=frames, sample_rate=self.sample_rate)
        return sound[0] * np.float32(entry.gain)

    def _span(self, piece: Piece) -> tuple[int, int]:
        """First sample and length of a piece, at the corpus' rate."""
        info = audio_files.info(piece.path)
        whole = resampled_length(info.frames, info.sample_rate, self.sample_rate)
        start, stop = round(piece.start * whole), round(piece.stop * whole)
        if stop <= start:
            raise WavedilError(
                f"{piece.path}: {info.frames} samples at {info.sample_rate} Hz leave nothing to "
                f"use at {self.sample_rate} Hz; remove the file or give a longer one"
            )
        return start, stop - start

    def _judge(self, path: Path, start: int, sound: np.ndarray) -> _Entry | None:
        """What of a decoded piece to keep, and at which gain; None when it is silent."""
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
    """First and last sample of the frames within `trim_db` of the loudest, one frame to spare."""
    frame = max(1, frame)
    count = -(-len(sound) // frame)
    padded = np.zeros(count * frame, np.float64)
    padded[: len(sound)] = sound
    power = np.square(padded).reshape(count, frame).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-trim_db / 10))
    return max(0, int(loud[0]) - 1) * frame, min(len(sound), (int(loud[-1]) + 2) * frame)


class RandomCrops(Dataset[dict[str, Tensor]]):
    """Crops at random places, each sample of the corpus equally likely to be aimed at.

    A crop never crosses files. Before a file's first sample its history is zero, as in
    generation, so a crop that starts a file counts from its first sample on; a crop from within
    counts only from sample `context` on, where every prediction sees its whole past. A file
    shorter than the crop is padded on the right with the zero-amplitude code.

    Item i depends on `seed` and i only: a run that resumes after n items goes on with item n and
    sees the crops it would have seen.

    Args:
        corpus: where crops come from.
        length: samples in each crop.
        context: samples at the start of a crop that serve as the past of the others, usually the
            receptive field (of a network: the past samples that a prediction sees); 0 counts all.
        quantizer: of the codes; default 256 mu-law codes.
        seed: any non-negative integer.
        size: how many crops the data set holds.
        window: for features of the sound: crops then start where frames do, and items hold the sound around them.
        features: for features from files, a ``FeatureFiles``: likewise, and items hold
            the features.
        speakers: number of each file's speaker.

    Items are ``{"codes": int64 (length,), "mask": bool (length,)}``; the mask marks the samples
    that count in the loss, at least one in each crop. With a window there are ``"sound"`` and ``"frames"``, see
    :meth:`FeatureWindow.cut`; with features ``"features"``, ``(channels, reach + frames + reach)``; with speakers
    ``"speaker"``, int64 ().

    Raises:
        WavedilError: `length` not above `context`, by a hop where there is a window.
    """

    def __init__(
        self,
        corpus: Corpus,
        length: int,
        *,
        context: int = 0,
        quantizer: Quantizer | None = None,
        seed: int = 0,
        size: int = 2**31,
        window: FeatureWindow | None = None,
        features: FeatureFiles | None = None,
        speakers: Sequence[int] | None = None,
    ) -> None:
        self.hop_length = getattr(window or features, "hop_length", 1)
        if not 0 <= context <= length - self.hop_length:
            by = f" by a hop of {self.hop_length}" if window or features else ""
            raise WavedilError(
                f"a crop of {length} samples with {context} of context leaves nothing to learn "
                f"from: length must exceed context{by}, and context be at least 0"
            )
        self.window, self.features, self.speakers = window, features, speakers
        self.corpus, self.length, self.context = corpus, length, context
        self.quantizer, self.seed, self.size = quantizer or MuLaw(256), seed, size
        self._ends = np.cumsum(corpus.lengths)

    def __len__(self) -> int:
        return self.size

    def place(self, index: int) -> tuple[int, int]:
        """File number and first sample of crop `index`."""
        generator = np.random.default_rng([self.seed, index])
        aim = int(generator.integers(self._ends[-1]))
        file = int(np.searchsorted(self._ends, aim, side="right"))
        aim -= int(self._ends[file] - self.corpus.lengths[file])
        # The sample aimed at may be any of those that count; then the crop is moved into the file.
        start = aim - int(generator.integers(self.context, self.length))
        last = max(int(self.corpus.lengths[file]) - self.length, 0)
        # At the start of a frame; the last crop may go on beyond the file for that.
        return file, min(max(start, 0) // self.hop_length, -(-last // self.hop_length)) * self.hop_length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.size:
            raise IndexError(f"crop {index} of {self.size}")
        file, start = self.place(index)
        sound = torch.from_numpy(self.corpus.sound(file, start, self.length))
        codes = torch.full((self.length,), self.quantizer.zero, dtype=torch.int64)
        codes[: len(sound)] = self.quantizer.encode(sound)
        mask = torch.zeros(self.length, dtype=torch.bool)
        mask[self.context if start else 0 : len(sound)] = True
        item = {"codes": codes, "mask": mask}
        if self.window is not None:
            whole = int(self.corpus.lengths[file])
            item |= self.window.cut(whole, partial(self.corpus.sound, file), start, self.length)
        if self.features is not None:
            item["features"] = self.features.cut(file, start, self.length)
        if self.speakers is not None:
            item["speaker"] = torch.tensor(self.speakers[file])
        return item


class WholeFiles(Dataset[dict[str, Tensor]]):
    """Every file of a corpus whole and in order, for evaluation: ``codes`` int64 and ``sound`` float32, ``(time,)``.

    With ``speakers``, the number of each file's, there is ``"speaker"``, int64 (); with features from files
    ``"features"``, ``(channels, frames)``.
    """

    def __init__(
        self,
        corpus: Corpus,
        quantizer: Quantizer | None = None,
        speakers: Sequence[int] | None = None,
        features: FeatureFiles | None = None,
    ) -> None:
        self.corpus, self.quantizer = corpus, quantizer or MuLaw(256)
        self.speakers, self.features = speakers, features

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"file {index} of {len(self)}")
        sound = torch.from_numpy(self.corpus.sound(index))
        item = {"codes": self.quantizer.encode(sound), "sound": sound}
        if self.features is not None:
            item["features"] = self.features.whole(index)
        return item if self.speakers is None else item | {"speaker": torch.tensor(self.speakers[index])}
