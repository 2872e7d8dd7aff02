"""Recordings of an effect: which input and target belong together, at which knob settings, and in which segments."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.errors import WavedilError
from wavedil.files import by_name, matched, matching

COLUMNS = ("input", "target", "segment", "skip", "held_out")


@dataclass(frozen=True)
class Recording:
    """An input, what an effect made of it, and how the two are cut.

    Args:
        knobs: settings by name.
        segment: samples in each segment where the file is many that were recorded one by one, each from silence or
            from switching on; None for one that goes through.
        skip: samples at the start of each segment that count neither in the loss nor in any figure, but are heard.
        held_out: how many segments at the end are for validation; None leaves it to the rule.
    """

    input: Path
    target: Path
    knobs: dict[str, float] = field(default_factory=dict)
    segment: int | None = None
    skip: int = 0
    held_out: int | None = None


@dataclass(frozen=True)
class Segment:
    """Sound that begins at time 0 of its model: ``(frames,)`` float32 input and target, scored from ``skip`` on."""

    name: str
    input: np.ndarray
    target: np.ndarray
    knobs: dict[str, float]
    skip: int

    def __len__(self) -> int:
        return len(self.input)


def find_recordings(root: str | Path) -> list[Recording]:
    """The recordings of a table, or of a folder with ``input`` and ``target``, whose files go together by name.

    A table is a CSV file with the columns ``input`` and ``target`` (paths, from the table's folder), if wanted
    ``segment``, ``skip`` and ``held_out`` (see :class:`Recording`), and a column for each knob.

    Raises:
        WavedilError: naming the file, or the table's line.
    """
    root = Path(root)
    if root.is_file():
        return _table(root)
    found = []
    for folder in (root / "input", root / "target"):
        if not folder.is_dir():
            raise WavedilError(f"{folder} is no folder: expected input/ and target/ in {root}, or a CSV table")
        paths = audio_files.list_audio_files(folder)
        names = (path.relative_to(folder).with_suffix("").as_posix() for path in paths)
        found.append(by_name(zip(names, paths, strict=True), "recording"))
    return [Recording(*pair) for pair in matched(*found, ("input", "target"), "add it or take the file away")]


def _table(path: Path) -> list[Recording]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise WavedilError(f"{path} is no CSV table: {error}") from None
    if not {"input", "target"} <= set(columns) or not rows:
        raise WavedilError(f"{path} has the columns {', '.join(columns)}: expected input, target and one row or more")
    recordings = []
    for number, row in enumerate(rows, 2):
        where = f"{path}, line {number}"
        if None in row or None in row.values() or not (row["input"] and row["target"]):
            raise WavedilError(f"{where}: expected {len(columns)} values, input and target among them")
        counts = {name: _number(where, name, row[name], int) for name in COLUMNS[2:] if row.get(name)}
        if min(counts.values(), default=0) < 0 or counts.get("segment") == 0:
            raise WavedilError(f"{where}: {counts}: expected numbers of samples and segments, 0 or more")
        knobs = {name: _number(where, name, row[name], float) for name in columns if name not in COLUMNS}
        recordings.append(Recording(path.parent / row["input"], path.parent / row["target"], knobs, **counts))
    return recordings


def _number(where: str, name: str, text: str, kind: type) -> float:
    try:
        return kind(text)
    except ValueError:
        raise WavedilError(f"{where}: {name} is {text!r}: expected a number") from None


def split(
    recordings: Sequence[Recording],
    sample_rate: int,
    *,
    context: int,
    validation: str | None = None,
    resample: bool = False,
) -> tuple[list[Segment], list[Segment], str]:
    """Segments that train, segments that are held out, and how they were chosen.

    A table's ``held_out`` decides. Else the recordings of which ``validation``, a regular expression, is found in the
    input's path (without suffix); else every tenth recording; else, of fewer than ten, the last tenth of each: of its
    segments, or of its time, then with ``context`` samples before it that are heard but do not count.
    """
    how = "by the table"
    if all(recording.held_out is None for recording in recordings):
        if validation is not None:
            found = matching([r.input for r in recordings], validation, "validation")
            held = [r.input in found for r in recordings]
            how = f"recordings matching {validation!r}"
        elif len(recordings) >= 10:
            held = [index % 10 == 0 for index in range(len(recordings))]
            how = "every tenth recording"
        else:
            held = [False] * len(recordings)
            how = "the last tenth of each recording"
        recordings = [replace(r, held_out=-1 if h else None) for r, h in zip(recordings, held, strict=True)]
    elif validation is not None:
        raise WavedilError(f"validation is {validation!r}, but the table has a column held_out: leave one of them out")
    tenth = how.startswith("the last")
    train, valid = [], []
    for recording in recordings:
        segments = read_segments(recording, sample_rate, resample)
        held_out = len(segments) if recording.held_out == -1 else recording.held_out or 0
        if tenth and len(segments) == 1:
            first, last = _cut(segments[0], context)
            train, valid = [*train, first], [*valid, last]
            continue
        if tenth:
            held_out = max(1, len(segments) // 10)
        if held_out > len(segments):
            raise WavedilError(
                f"{recording.target}: held_out is {held_out} of {len(segments)} segments: expected fewer"
            )
        border = len(segments) - held_out
        train, valid = [*train, *segments[:border]], [*valid, *segments[border:]]
    if not train or not valid:
        raise WavedilError(
            f"{how} validates: that leaves {len(train)} segments to train and {len(valid)} to validate on"
        )
    return train, valid, f"{how} validates: {len(train)} segments train, {len(valid)} validate"


def _cut(whole: Segment, context: int) -> tuple[Segment, Segment]:
    border = whole.skip + (len(whole) - whole.skip) * 9 // 10
    start = max(0, border - context)
    first = replace(whole, input=whole.input[:border], target=whole.target[:border])
    name = f"{whole.name} from sample {start}"
    last = replace(whole, name=name, input=whole.input[start:], target=whole.target[start:], skip=border - start)
    return _heard(first), _heard(last)


def read_segments(recording: Recording, sample_rate: int, resample: bool = False) -> list[Segment]:
    """A recording's segments, mono.

    Raises:
        WavedilError: another rate than the model's (unless ``resample``), lengths that differ, a length that is no
            multiple of ``segment``, nothing after ``skip``, or a target that is silent there.
    """
    sounds = []
    for path in (recording.input, recording.target):
        found = audio_files.info(path).sample_rate
        if found != sample_rate and not resample:
            raise WavedilError(
                f"{path} has {found} Hz and the model {sample_rate} Hz: set the model's sample_rate, or resample to it "
                "(--data.resample true in training, --resample elsewhere)"
            )
        sounds.append(audio_files.read(path, sample_rate=sample_rate)[0][0])
    lengths = [len(sound) for sound in sounds]
    if lengths[0] != lengths[1]:
        raise WavedilError(
            f"{recording.input} has {lengths[0]} samples and {recording.target} {lengths[1]}: expected the same; cut "
            "them to what belongs together"
        )
    size = recording.segment or lengths[0]
    if lengths[0] % size:
        raise WavedilError(f"{recording.target} has {lengths[0]} samples: expected a multiple of segment {size}")
    if recording.skip >= size:
        raise WavedilError(f"{recording.target}: skip is {recording.skip}: expected less than the {size} of a segment")
    segments = []
    for start in range(0, lengths[0], size):
        name = str(recording.target) if size == lengths[0] else f"{recording.target}, segment {start // size}"
        pair = (sound[start : start + size] for sound in sounds)
        segments.append(_heard(Segment(name, *pair, recording.knobs, recording.skip)))
    return segments


def _heard(segment: Segment) -> Segment:
    if not segment.target[segment.skip :].any():
        raise WavedilError(
            f"{segment.name} is silent from sample {segment.skip} on: its ESR is not defined, leave it out"
        )
    return segment
