"""Rows of clips of runs: samples beside their originals, previews by step, of one run or of several."""

from collections.abc import Sequence

from wavedil.report.clips import PICTURE, Clip, Row
from wavedil.report.files import MAX_STEPS, is_own
from wavedil.report.run import LABELS, Media, Run


def sample_rows(runs: Sequence[Run]) -> list[Row]:
    """A row for each sample. Recordings that several runs share are one column; outputs have the run's name."""
    rows: dict[int, Row] = {}
    for run in runs:
        for media in run.media("samples", ".wav"):
            row = rows.setdefault(media.row, Row("", []))
            if not row.title:
                row.facts = run.row_facts("samples", media.row)
                row.title = media.title("Clip")
            _add(row, media, run, len(runs) > 1)
    for row in rows.values():
        row.clips.sort(key=lambda clip: not clip.label.startswith(("dry", "wet", "original", "held-out")))
    return [row for _, row in sorted(rows.items())]


def _add(row: Row, media: Media, run: Run, named: bool) -> None:
    part = media.part
    label = LABELS.get(part, part.replace("_", " ")) if part else "model"
    is_output = part in ("", "output", "griffin_lim")
    if named and is_output:
        label = f"{run.name}" if label == "model" else f"{run.name}: {label}"
    elif named:
        content = media.path.read_bytes()
        if any(clip.label == label and clip.path.read_bytes() == content for clip in row.clips):
            return
        if any(clip.label == label for clip in row.clips):
            label = f"{label} of {run.name}"
    row.clips.append(_clip(label, media, run))


def _clip(label: str, media: Media, run: Run) -> Clip:
    facts = {name: value for name, value in media.facts.items() if name != "picture"}
    clip = Clip(label, media.path, facts=facts)
    roll = media.path.with_suffix(".png")
    if media.facts.get("picture") == "piano roll" and is_own(roll, run.folder):
        clip.picture, clip.alt = roll.read_bytes(), "Piano roll"
    return clip


def preview_rows(run: Run) -> list[Row]:
    """A row for each preview: the held-out recordings, if they belong to the outputs, then the steps from old to new.

    Recordings that the model did not continue or resynthesize have rows of their own.
    """
    rows: dict[int, Row] = {}
    recordings: list[Row] = []
    for media in run.media("previews", ".wav"):
        facts = run.row_facts("previews", media.row)
        row = rows.setdefault(media.row, Row(media.title("Preview"), [], facts))
        if media.step is not None:
            row.clips.append(_clip(f"step {media.step}", media, run))
            continue
        label = LABELS.get(media.part, "original" if facts.get("belongs") else "held-out recording")
        clip = _clip(label, media, run)
        if media.part or facts.get("belongs"):
            row.clips.append(clip)
        else:
            title = f"{media.title('Held-out recording')}, to compare the kind of sound: no preview repeats it"
            recordings.append(Row(title, [clip], {"file": facts.get("file")}))
    for row in rows.values():
        row.facts = {name: value for name, value in row.facts.items() if name != "belongs" and value is not None}
    if recordings:
        for row in rows.values():
            row.facts.pop("file", None)
    return [row for _, row in sorted(rows.items()) if row.clips] + recordings


def newest_first(rows: Sequence[Row], limit: int) -> tuple[list[Row], int]:
    """Rows of previews with the last ``MAX_STEPS`` steps, fewer if these do not fit in ``limit`` bytes; also how many
    clips are left out.
    """
    clips = [clip for row in rows for clip in row.clips]
    sizes = [clip.path.stat().st_size * 4 // 3 + PICTURE for clip in clips]
    by_step: dict[int, int] = {}
    for clip, size in zip(clips, sizes, strict=True):
        by_step[_step(clip)] = by_step.get(_step(clip), 0) + size
    total, first = sum(sizes), -1
    steps = sorted(step for step in by_step if step >= 0)
    for index, step in enumerate(steps[:-1]):
        if total > limit or index < len(steps) - MAX_STEPS:
            total, first = total - by_step[step], step + 1
    kept = [Row(row.title, [clip for clip in row.clips if not 0 <= _step(clip) < first], row.facts) for row in rows]
    return kept, len(clips) - sum(len(row.clips) for row in kept)


def _step(clip: Clip) -> int:
    """Step of an output; -1 for a recording."""
    return int(clip.label.removeprefix("step ")) if clip.label.startswith("step ") else -1
