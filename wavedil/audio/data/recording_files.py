"""Finds recordings of an effect: a pair of files, a CSV table, or a folder."""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

from wavedil.audio.data import audio_files
from wavedil.audio.data.streams import FORMATS
from wavedil.errors import WavedilError
from wavedil.files import check_regular_file, pair_by_name, unique_names
from wavedil.shards import is_folder

#: Columns of a table that are not knobs.
COLUMNS = ("input", "target", "segment", "skip", "held_out")
EXPECTED = (
    "expected DRY.wav,WET.wav, a CSV table, or a folder with input/ and target/ or with input.wav and KNOB=VALUE.wav"
)
_SETTING = re.compile(r"([^=,]+)=([^=,]+)")


@dataclass(frozen=True)
class Recording:
    """Input and target file of an effect.

    Args:
        input: audio file that went into the effect.
        target: audio file that came out.
        knobs: settings by name.
        segment: length in samples of each segment, if the files are a series of segments recorded one by one, each
            after silence or after switching on; None for one continuous recording.
        skip: number of samples at the start of each segment that the model receives but that count neither in the loss
            nor in the evaluation.
        held_out: number of segments at the end that are held out for validation; None applies the hold-out rule.
    """

    input: Path
    target: Path
    knobs: dict[str, float] = field(default_factory=dict)
    segment: int | None = None
    skip: int = 0
    held_out: int | None = None


def find_recordings(root: str | Path) -> list[Recording]:
    """Lists recordings. ``root`` is one of:

    - ``DRY.wav,WET.wav``: one pair;
    - a CSV table with the columns ``input`` and ``target`` (paths relative to the table's folder), optionally
      ``segment``, ``skip`` and ``held_out`` (see :class:`Recording`), and one column for each knob;
    - a folder with subfolders ``input`` and ``target``, whose files are paired by name;
    - a folder with one file ``input`` (``input.wav``) and targets that are named by their knob settings:
      ``gain=0.5,tone=3.wav``.

    Raises:
        WavedilError: files are missing, or the table or a name is malformed; the message has the file, or the line of
            the table.
    """
    path = Path(root)
    if path.is_file():
        return _read_table(path)
    if is_folder(path):
        return _read_names(path) if _single_input(path) is not None else _read_folders(path)
    if "," in str(root):
        return [_read_pair_names(str(root))]
    check_regular_file(root, "a file or a folder of recordings")
    raise WavedilError(f"{root} does not exist: {EXPECTED}")


def _read_pair_names(text: str) -> Recording:
    """Two files with a comma between them; names may have commas, too."""
    parts = text.split(",")
    pairs = [(",".join(parts[:n]).strip(), ",".join(parts[n:]).strip()) for n in range(1, len(parts))]
    for dry, wet in pairs:
        if Path(dry).is_file() and Path(wet).is_file():
            return Recording(Path(dry), Path(wet))
    dry, wet = next((pair for pair in pairs if any(Path(each).is_file() for each in pair)), pairs[0])
    missing = wet if Path(dry).is_file() else dry
    raise WavedilError(f"{text}: {missing or 'the second file'} is not a file: {EXPECTED}")


def _read_folders(root: Path) -> list[Recording]:
    found = []
    for folder in (root / "input", root / "target"):
        if not is_folder(folder):
            raise WavedilError(f"{folder} is not a folder: {EXPECTED}")
        paths = audio_files.list_audio_files(folder)
        names = (path.relative_to(folder).with_suffix("").as_posix() for path in paths)
        found.append(unique_names(zip(names, paths, strict=True), "recording"))
    return [Recording(*pair) for pair in pair_by_name(*found, ("input", "target"), "add it or remove the file")]


def _single_input(root: Path) -> Path | None:
    """The audio file ``input`` of a folder."""
    if not root.is_dir() or (root / "input").is_dir():
        return None
    return next((path for path in sorted(root.glob("input.*")) if path.suffix.lower() in FORMATS), None)


def _read_names(root: Path) -> list[Recording]:
    """Targets beside ``input.wav``, named by their knob settings."""
    dry = _single_input(root)
    recordings = []
    for path in audio_files.list_audio_files(root):
        if path == dry:
            continue
        settings = [_SETTING.fullmatch(part.strip()) for part in path.stem.split(",")]
        knobs = {match[1].strip(): _parse(str(path), match[1].strip(), match[2], float) for match in settings if match}
        if len(knobs) != len(settings) or (recordings and knobs.keys() != recordings[0].knobs.keys()):
            names = ", ".join(recordings[0].knobs) if recordings else "gain=0.5,tone=3.wav"
            raise WavedilError(
                f"{path}: expected a name with one value for each knob, as KNOB=VALUE,KNOB=VALUE: {names}"
            )
        recordings.append(Recording(dry, path, knobs))
    if not recordings:
        raise WavedilError(f"{root} has {dry.name} but no target: expected files such as gain=0.5,tone=3.wav")
    return recordings


def _read_table(path: Path) -> list[Recording]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise WavedilError(f"{path} is not a CSV table: {error}; {EXPECTED}") from None
    if len(set(columns)) < len(columns):
        raise WavedilError(f"{path} has two columns {max(columns, key=columns.count)!r}: keep one of them")
    if not {"input", "target"} <= set(columns) or not rows:
        raise WavedilError(
            f"{path} has the columns {', '.join(columns)} and {len(rows)} rows: expected columns input and "
            "target and at least one row"
        )
    recordings = []
    for number, row in enumerate(rows, 2):
        line = f"{path}, line {number}"
        if None in row or None in row.values() or not (row["input"] and row["target"]):
            raise WavedilError(f"{line}: expected {len(columns)} values, with input and target not empty")
        counts = {name: _parse(line, name, row[name], int) for name in COLUMNS[2:] if row.get(name)}
        if min(counts.values(), default=0) < 0 or counts.get("segment") == 0:
            raise WavedilError(f"{line}: {counts}: expected segment of at least 1, skip and held_out of at least 0")
        knobs = {name: _parse(line, name, row[name], float) for name in columns if name not in COLUMNS}
        recordings.append(Recording(path.parent / row["input"], path.parent / row["target"], knobs, **counts))
    return recordings


def _parse(place: str, name: str, text: str, kind: type) -> float:
    try:
        return kind(text)
    except ValueError:
        raise WavedilError(f"{place}: {name} is {text!r}: expected a number") from None
