"""Split of audio files into training and validation: deterministic, by file, the same on every machine."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wavedil.errors import WavedilError
from wavedil.files import excluded_paths
from wavedil.splits import EVERY, describe_split, hold_out

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Piece:
    """Part of a file; ``start`` and ``stop`` are fractions of its length."""

    path: Path
    start: float = 0.0
    stop: float = 1.0


@dataclass(frozen=True)
class Split:
    """Files for training and for validation; ``note`` describes how they were chosen."""

    train: list[Piece]
    validation: list[Piece]
    note: str


def split_files(
    files: Sequence[PathLike],
    every: int = EVERY,
    *,
    validation: str | Sequence[PathLike] | None = None,
    exclude: str | None = None,
) -> Split:
    """Splits files into training and validation: by default, every tenth of the sorted files is held out for
    validation.

    A recording is never in both. A single file is split in time: its last tenth is held out.

    Args:
        files: in any order; duplicates count once.
        every: one file in this many is held out, if ``validation`` is None.
        validation: the held-out files, as a list or as a regular expression searched in each path below the
            common folder of the files, without suffix (``r"_[0-4]$"`` matches ``7_jackson_3.wav``).
        exclude: files to exclude from both; see :func:`wavedil.files.excluded_paths`.

    Raises:
        WavedilError: nothing is left to train or to validate on, a listed file is not among ``files``, or a regular
            expression is not valid.
    """
    paths = sorted({Path(file) for file in files}, key=Path.as_posix)
    if not paths:
        raise WavedilError("files is empty: expected at least one; see wavedil.audio.data.audio_files.list_audio_files")
    if exclude is not None:
        excluded = excluded_paths(paths, exclude)
        paths = [path for path in paths if path not in excluded]
        if not paths:
            raise WavedilError(f"exclude={exclude!r} matches all {len(excluded)} files: use a narrower expression")
    held, rule = hold_out(paths, validation, every)
    if validation is None and len(paths) == 1:
        border = 1 - 1 / every
        note = f"one file: its first {border:.0%} is for training, its last {1 - border:.0%} for validation"
        return Split([Piece(paths[0], 0.0, border)], [Piece(paths[0], border, 1.0)], note)
    train = [Piece(path) for path, out in zip(paths, held, strict=True) if not out]
    valid = [Piece(path) for path, out in zip(paths, held, strict=True) if out]
    return Split(train, valid, describe_split(rule, len(train), len(valid)))
