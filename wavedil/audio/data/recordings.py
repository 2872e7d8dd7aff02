"""Paired recordings of an effect: input and target files, knob settings, and the segments that they are cut into."""

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wavedil.audio.data import audio_files
from wavedil.audio.data.alignment import check_aligned
from wavedil.audio.data.levels import Levels, check_level
from wavedil.errors import WavedilError, printable
from wavedil.files import pair_by_name, unique_names
from wavedil.shards import is_folder
from wavedil.splits import EVERY, describe_split, hold_out

#: Columns of a table that are not knobs.
COLUMNS = ("input", "target", "segment", "skip", "held_out")


@dataclass(frozen=True)
class Recording:
    """Input and target file of an effect.

    Args:
        input: sound file that went into the effect.
        target: sound file that came out, of the same length.
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


@dataclass(frozen=True)
class Segment:
    """Input and target ``(frames,)`` float32, which start at time 0 of the model; samples from ``skip`` on count."""

    name: str
    input: np.ndarray
    target: np.ndarray
    knobs: dict[str, float]
    skip: int

    def __len__(self) -> int:
        return len(self.input)


def find_recordings(root: str | Path) -> list[Recording]:
    """Lists the recordings of a CSV table, or of a folder with subfolders ``input`` and ``target``.

    Files in the two subfolders are paired by name. A table has the columns ``input`` and ``target`` (paths relative to
    the table's folder), optionally ``segment``, ``skip`` and ``held_out`` (see :class:`Recording`), and one column for
    each knob.

    Raises:
        WavedilError: the table or the folders are malformed; the message has the file, or the line of the table.
    """
    root = Path(root)
    if root.is_file():
        return _read_table(root)
    if not is_folder(root):
        raise WavedilError(f"{root} does not exist: expected a CSV table, or a folder with input/ and target/")
    found = []
    for folder in (root / "input", root / "target"):
        if not is_folder(folder):
            raise WavedilError(f"{folder} is not a folder: expected input/ and target/ in {root}, or a CSV table")
        paths = audio_files.list_audio_files(folder)
        names = (path.relative_to(folder).with_suffix("").as_posix() for path in paths)
        found.append(unique_names(zip(names, paths, strict=True), "recording"))
    return [Recording(*pair) for pair in pair_by_name(*found, ("input", "target"), "add it or remove the file")]


def _read_table(path: Path) -> list[Recording]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error) as error:
        raise WavedilError(f"{path} is not a CSV table: {error}") from None
    if not {"input", "target"} <= set(columns) or not rows:
        raise WavedilError(
            f"{path} has the columns {', '.join(columns)} and {len(rows)} rows: expected columns input and target and "
            "at least one row"
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


def _parse(line: str, column: str, text: str, kind: type) -> float:
    try:
        return kind(text)
    except ValueError:
        raise WavedilError(f"{line}: {column} is {text!r}: expected a number") from None


def split_recordings(
    recordings: Sequence[Recording],
    sample_rate: int,
    *,
    context: int,
    validation: str | None = None,
    resample: bool = False,
) -> tuple[list[Segment], list[Segment], str]:
    """Reads recordings and splits them into segments for training and for validation.

    The first of these rules that applies decides:

    1. the table's column ``held_out``;
    2. recordings whose input path (without suffix) matches ``validation`` are held out;
    3. with 10 recordings or more, every tenth is held out;
    4. the last tenth of each recording is held out: of its segments, or, for a continuous recording, of its time.

    Args:
        recordings: see :func:`find_recordings`.
        sample_rate: of the model, in Hz.
        context: number of samples before the last tenth of a continuous recording that its held-out segment also has
            as input, but that do not count.
        validation: regular expression, see rule 2.
        resample: resample recordings of another rate instead of raising.

    Returns:
        Training segments, held-out segments, and a description of the split.

    Raises:
        WavedilError: as :func:`read_segments`; ``validation`` for a table with a column ``held_out``; nothing to train
            or to validate on; or a target is earlier than its input, or later by more than ``context`` samples. Other
            suspicious pairs are warned about, see :func:`wavedil.audio.data.alignment.check_aligned`.
    """
    counts = held = None  # number of held-out segments of each recording; whether each recording is held out
    if any(recording.held_out is not None for recording in recordings):
        if validation is not None:
            raise WavedilError(f"validation is {validation!r}, but the table has a column held_out: remove one of them")
        counts, rule = [recording.held_out or 0 for recording in recordings], "held_out of the table"
    elif validation is not None or len(recordings) >= EVERY:
        held, rule = hold_out([recording.input for recording in recordings], validation, kind="recordings")
    else:
        rule = "the last tenth of each recording validates"
    train, valid, suspicious, levels = [], [], [], Levels()
    for index, recording in enumerate(recordings):
        segments = read_segments(recording, sample_rate, resample, levels)
        dry, wet = (np.concatenate([getattr(s, side) for s in segments]) for side in ("input", "target"))
        suspicious.append(check_aligned(str(recording.target), dry, wet, sample_rate, context))
        if counts is not None:
            if counts[index] > len(segments):
                raise WavedilError(
                    f"{recording.target}: held_out is {counts[index]}: expected at most its {len(segments)} segments"
                )
            border = len(segments) - counts[index]
        elif held is not None:
            border = 0 if held[index] else len(segments)
        else:
            if len(segments) == 1:
                segments = _split_in_time(segments[0], context)
            border = len(segments) - max(1, len(segments) // EVERY)
        train, valid = [*train, *segments[:border]], [*valid, *segments[border:]]
    levels.warn()
    suspicious = [text for text in suspicious if text]
    if suspicious:
        more = f" ({len(suspicious)} of {len(recordings)} recordings have a warning)" if len(suspicious) > 1 else ""
        warnings.warn(printable(suspicious[0] + more), stacklevel=2)
    return train, valid, describe_split(rule, len(train), len(valid), "segments")


def _split_in_time(segment: Segment, context: int) -> list[Segment]:
    """The first nine tenths and the last tenth, which also has ``context`` samples before it as input."""
    border = segment.skip + (len(segment) - segment.skip) * (EVERY - 1) // EVERY
    start = max(0, border - context)
    first = replace(segment, input=segment.input[:border], target=segment.target[:border])
    last = replace(
        segment,
        name=f"{segment.name} from sample {start}",
        input=segment.input[start:],
        target=segment.target[start:],
        skip=border - start,
    )
    for part in (first, last):
        _check_not_silent(part)
    return [first, last]


def read_segments(
    recording: Recording, sample_rate: int, resample: bool = False, levels: Levels | None = None
) -> list[Segment]:
    """Reads a recording, mixed to mono, and cuts it into its segments.

    ``levels`` counts samples outside [-1, 1]; None warns of them.

    Raises:
        WavedilError: the sample rate is not the model's (unless ``resample``), input and target differ in length, the
            length is not a multiple of ``segment``, ``skip`` is not below the length of a segment, a peak exceeds 16,
            or a target is silent after ``skip``.
    """
    dry, wet = _read_pair(recording, sample_rate, resample, levels)
    size = recording.segment or len(dry)
    if len(dry) % size:
        raise WavedilError(f"{recording.target} has {len(dry)} samples: expected a multiple of segment {size}")
    if recording.skip >= size:
        raise WavedilError(f"{recording.target}: skip is {recording.skip}: expected less than a segment, {size}")
    segments = []
    for start in range(0, len(dry), size):
        name = str(recording.target) if size == len(dry) else f"{recording.target}, segment {start // size}"
        pair = (sound[start : start + size] for sound in (dry, wet))
        segments.append(Segment(name, *pair, recording.knobs, recording.skip))
        _check_not_silent(segments[-1])
    return segments


def _read_pair(recording: Recording, sample_rate: int, resample: bool, levels: Levels | None) -> list[np.ndarray]:
    sounds = []
    for path in (recording.input, recording.target):
        rate = audio_files.info(path).sample_rate
        if rate != sample_rate and not resample:
            raise WavedilError(
                f"{path} has {rate} Hz and the model {sample_rate} Hz: set the model's sample_rate, or resample the "
                "file (--data.resample true in training, --resample elsewhere)"
            )
        sounds.append(check_level(audio_files.read(path, sample_rate=sample_rate)[0][0], path, levels))
    lengths = [len(sound) for sound in sounds]
    if lengths[0] != lengths[1]:
        raise WavedilError(
            f"{recording.input} has {lengths[0]} samples and {recording.target} {lengths[1]}: expected the same; cut "
            "them to the part that they share"
        )
    return sounds


def _check_not_silent(segment: Segment) -> None:
    if not segment.target[segment.skip :].any():
        raise WavedilError(
            f"{segment.name} is silent from sample {segment.skip} on, so its ESR is not defined: remove it"
        )
