"""Speaker names of sound files: from folders, a table, or the file names."""

import csv
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from wavedil.errors import WavedilError


class SpeakerSource(ABC):
    """Finds the speaker of a file."""

    @abstractmethod
    def name_of(self, path: Path, root: Path) -> str:
        """Speaker of the file at ``path``, which is below the folder ``root``."""


class SpeakersByFolder(SpeakerSource):
    """The first folder below the root, e.g. ``anna`` for ``root/anna/001.wav``."""

    def name_of(self, path: Path, root: Path) -> str:
        parts = path.relative_to(root).parts
        if len(parts) < 2:
            raise WavedilError(f"{path} is directly in {root}: expected one folder for each speaker")
        return parts[0]


class SpeakersByTable(SpeakerSource):
    """A CSV file with a header and the columns ``file`` (path below the root, with suffix) and ``speaker``."""

    def __init__(self, table: str | Path):
        self.path = Path(table)
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise WavedilError(f"{table}: cannot be read as a table of speakers ({error})") from None
        if not rows or not {"file", "speaker"} <= rows[0].keys():
            raise WavedilError(f"{table}: expected a header with the columns file and speaker, and at least one row")
        self.names = {row["file"]: row["speaker"] for row in rows}

    def name_of(self, path: Path, root: Path) -> str:
        file = path.relative_to(root).as_posix()
        if not self.names.get(file):
            raise WavedilError(f"{self.path} has no speaker for {file}: add a row, or exclude the file")
        return self.names[file]


class SpeakersByName(SpeakerSource):
    """The group of a regular expression, e.g. ``_([a-z]+)_``, searched in the path below the root without suffix."""

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

    def name_of(self, path: Path, root: Path) -> str:
        file = path.relative_to(root).with_suffix("").as_posix()
        found = self.expression.search(file)
        if found is None or not found[1]:
            raise WavedilError(
                f"speakers={self.expression.pattern!r} finds no speaker in {file}: change the expression, or exclude "
                "the file"
            )
        return found[1]


def speaker_source(text: str) -> SpeakerSource:
    """Parses the option ``speakers``: ``folders``, a .csv file, or a regular expression with one group."""
    if text == "folders":
        return SpeakersByFolder()
    return SpeakersByTable(text) if Path(text).suffix == ".csv" else SpeakersByName(text)


def speakers_of(paths: Sequence[Path], root: Path, source: str | None, known: Sequence[str]) -> list[str]:
    """Finds the speaker of each file.

    Args:
        paths: files below ``root``.
        root: folder of the recordings.
        source: see :func:`speaker_source`.
        known: speakers of the model.

    Raises:
        WavedilError: ``source`` is None or invalid, or a file's speaker is missing or not among ``known``.
    """
    if source is None:
        raise WavedilError(
            f"speakers is not set, but the model has the speakers {', '.join(known)}: set it to folders, a .csv file, "
            "or a regular expression with one group"
        )
    parsed, names = speaker_source(source), []
    for path in paths:
        name = parsed.name_of(path, root)
        if name not in known:
            raise WavedilError(f"{path}: speaker {name!r} is unknown: this model knows {', '.join(known)}")
        names.append(name)
    return names
