"""Who speaks in which file: from folders, a table, or the files' names."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from wavedil.errors import WavedilError


class SpeakerSource:
    """``of(path, root)``: the name of the speaker of a file below the folder ``root``."""

    def of(self, path: Path, root: Path) -> str:
        raise NotImplementedError


class SpeakersByFolder(SpeakerSource):
    """The first folder below the root, as in ``root/anna/001.wav``."""

    def of(self, path: Path, root: Path) -> str:
        parts = path.relative_to(root).parts
        if len(parts) < 2:
            raise WavedilError(f"{path} lies in {root} itself, so no folder names its speaker: give each a folder")
        return parts[0]


class SpeakersByTable(SpeakerSource):
    """A CSV file with a header and the columns ``file`` (below the root, with suffix) and ``speaker``."""

    def __init__(self, table: str | Path):
        self.path = Path(table)
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise WavedilError(f"{table}: cannot be read as a table of speakers ({error})") from None
        if not rows or not {"file", "speaker"} <= rows[0].keys():
            raise WavedilError(f"{table}: expected a header with the columns file and speaker, and rows below it")
        self.names = {row["file"]: row["speaker"] for row in rows}

    def of(self, path: Path, root: Path) -> str:
        name = path.relative_to(root).as_posix()
        if not self.names.get(name):
            raise WavedilError(f"{self.path} names no speaker of {name}: add a row, or exclude the file")
        return self.names[name]


class SpeakersByName(SpeakerSource):
    """The group of a regular expression searched in the path below the root, without suffix: ``_([a-z]+)_``."""

    def __init__(self, pattern: str):
        try:
            self.expression = re.compile(pattern)
        except re.error as error:
            raise WavedilError(f"speakers={pattern!r} is not a regular expression: {error}") from None
        if self.expression.groups != 1:
            raise WavedilError(
                f"speakers={pattern!r} has {self.expression.groups} groups: expected one, which is the name, e.g. "
                "_([a-z]+)_; or folders, or a .csv file"
            )

    def of(self, path: Path, root: Path) -> str:
        name = path.relative_to(root).with_suffix("").as_posix()
        found = self.expression.search(name)
        if found is None or not found[1]:
            raise WavedilError(f"speakers={self.expression.pattern!r} finds no speaker in {name}: widen or exclude")
        return found[1]


def speaker_source(text: str) -> SpeakerSource:
    """What a recipe or the shell calls a source: ``folders``, a .csv file, or a regular expression with one group."""
    if text == "folders":
        return SpeakersByFolder()
    return SpeakersByTable(text) if Path(text).suffix == ".csv" else SpeakersByName(text)


def speakers_of(paths: Sequence[Path], root: Path, source: str | None, known: Sequence[str]) -> list[str]:
    """The speaker of each file; all must be among those that a model knows."""
    if source is None:
        raise WavedilError(
            f"this model has the speakers {', '.join(known)}: say where the files' come from by speakers, which is "
            "folders, a .csv file, or a regular expression with one group"
        )
    found, names = speaker_source(source), []
    for path in paths:
        name = found.of(path, root)
        if name not in known:
            raise WavedilError(f"{path}: speaker {name!r} is unknown: this model knows {', '.join(known)}")
        names.append(name)
    return names
