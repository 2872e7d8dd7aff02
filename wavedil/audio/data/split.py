"""Which files train and which validate: deterministic, by file, the same on every machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wavedil.errors import WavedilError
from wavedil.files import matching

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Piece:
    """A stretch of a file, as fractions of its length."""

    path: Path
    start: float = 0.0
    stop: float = 1.0


@dataclass(frozen=True)
class Split:
    """Files for training and for validation; `note` says how they were chosen."""

    train: list[Piece]
    validation: list[Piece]
    note: str


def split_files(
    files: Sequence[PathLike],
    every: int = 10,
    *,
    validation: str | Sequence[PathLike] | None = None,
    exclude: str | None = None,
) -> Split:
    """Split files into training and validation: every tenth of the sorted files validates.

    Sorted by path, files 0, 10, 20, … validate and all others train, so a recording is never in
    both and every machine gets the same split. A single file is split in time: its last tenth
    validates.

    Args:
        files: any order; duplicates count once.
        every: one file in this many validates.
        validation: instead of every tenth, the files that validate: a list, or a regular
            expression searched in each path below the files' common folder, without suffix
            (``r"_[0-4]$"`` finds ``7_jackson_3.wav``).
        exclude: a regular expression for files to leave out altogether.

    Raises:
        WavedilError: nothing left to train or to validate on, a listed file that is not among
            the files, or a broken regular expression.
    """
    if every < 2:
        raise WavedilError(f"split_files: every={every}; expected 2 or more, 10 keeps a tenth")
    paths = sorted({Path(file) for file in files}, key=Path.as_posix)
    if not paths:
        raise WavedilError("split_files: no files; see wavedil.audio.data.audio_files.list_audio_files")
    if exclude is not None:
        out = matching(paths, exclude, "exclude")
        paths = [path for path in paths if path not in out]
        if not paths:
            raise WavedilError(f"exclude={exclude!r} matches all {len(out)} files; narrow it")

    if validation is None and len(paths) == 1:
        cut = 1 - 1 / every
        return Split(
            [Piece(paths[0], 0.0, cut)],
            [Piece(paths[0], cut, 1.0)],
            f"one file: its first {cut:.0%} trains and its last {1 - cut:.0%} validates",
        )
    if validation is None:
        held = set(paths[::every])
        how = f"every {every}th of the sorted files validates"
    elif isinstance(validation, str):
        held = matching(paths, validation, "validation")
        how = f"files matching {validation!r} validate"
    else:
        held = {Path(file) for file in validation}
        missing = sorted(held - set(paths))
        if missing:
            raise WavedilError(
                f"{missing[0]}: listed for validation but not among the {len(paths)} files; "
                "paths must be written as in the list of files"
            )
        how = "the listed files validate"
    train = [Piece(path) for path in paths if path not in held]
    held_out = [Piece(path) for path in paths if path in held]
    if not train or not held_out:
        raise WavedilError(
            f"{how}: that leaves {len(train)} files to train and {len(held_out)} to validate on "
            f"out of {len(paths)}; both need at least one"
        )
    return Split(train, held_out, f"{how}: {len(train)} train, {len(held_out)} validate")
