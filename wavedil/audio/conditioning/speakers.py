"""Speaker names of audio files: from folders, a table, or the file names."""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from wavedil.errors import WavedilError
from wavedil.files import check_regular_file, normalized


def speaker_source(text: str) -> Callable[[Path], str]:
    """Parses the option ``speakers`` and returns a function from a path, relative to the recordings, to its speaker.

    Args:
        text: ``folders`` takes the first folder of the path, e.g. ``anna`` for ``anna/001.wav``; a .csv file has a
            header and the columns ``file`` (path with suffix) and ``speaker``; any other text is a regular expression
            with one group, e.g. ``_([a-z]+)_``, searched in the path without suffix.
    """
    if text == "folders":
        return _first_folder
    return _from_table(text) if Path(text).suffix == ".csv" else _from_pattern(text)


def _first_folder(path: Path) -> str:
    if len(path.parts) < 2:
        raise WavedilError(f"{path} is directly in the folder of the recordings: expected one folder for each speaker")
    return path.parts[0]


def _from_table(table: str) -> Callable[[Path], str]:
    check_regular_file(table, "a table of speakers")
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WavedilError(f"{table}: cannot be read as a table of speakers ({error})") from None
    if not rows or not {"file", "speaker"} <= rows[0].keys():
        raise WavedilError(f"{table}: expected a header with the columns file and speaker, and at least one row")
    names = {normalized(row["file"] or ""): row["speaker"] for row in rows}

    def look_up(path: Path) -> str:
        name = normalized(path.as_posix())
        if not names.get(name):
            raise WavedilError(f"{table} has no speaker for {path.as_posix()}: add a row, or exclude the file")
        return names[name]

    return look_up


def _from_pattern(pattern: str) -> Callable[[Path], str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise WavedilError(f"speakers={pattern!r} is not a regular expression: {error}") from None
    if expression.groups != 1:
        raise WavedilError(
            f"speakers={pattern!r} has {expression.groups} groups: expected one, which is the name, e.g. _([a-z]+)_; "
            "or folders, or a .csv file"
        )

    def search(path: Path) -> str:
        name = path.with_suffix("").as_posix()
        found = expression.search(name)
        if found is None or not found[1]:
            raise WavedilError(f"speakers={pattern!r} finds no speaker in {name}: change it, or exclude the file")
        return found[1]

    return search


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
    speaker_of, names = speaker_source(source), []
    for path in paths:
        name = speaker_of(path.relative_to(root))
        if name not in known:
            raise WavedilError(f"{path}: speaker {name!r} is unknown: this model knows {', '.join(known)}")
        names.append(name)
    return names
