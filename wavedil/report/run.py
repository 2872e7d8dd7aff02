"""Contents of a run folder for its page: metrics, facts, clips and images, and whether the run reached its budget."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavedil.errors import WavedilError
from wavedil.metrics import read_metrics
from wavedil.report.files import is_own, read_captions, read_json
from wavedil.writing import is_locked

#: Names of the columns of a row, by the last part of a file's name.
LABELS = {
    "input": "dry (input)",
    "target": "wet (target)",
    "output": "model",
    "original": "original",
    "recording": "held-out recording",
    "griffin_lim": "Griffin-Lim",
}
_NAME = re.compile(r"(sample|image|target|step)_(\d{1,12})(?:_(\d{1,12}))?(?:_([a-z_]\w*))?")
_OTHERS = 10**12  # first row of files with other names


@dataclass(frozen=True)
class Media:
    """A sound or an image of a run.

    Args:
        path: the file.
        row: number of the clip or image.
        part: last part of the name, e.g. ``"input"``, or an empty text.
        step: of a preview; None for samples and targets.
        facts: its captions.
    """

    path: Path
    row: int
    part: str
    step: int | None
    facts: dict[str, Any]

    def title(self, kind: str) -> str:
        """Of its row."""
        return f"{kind} {self.row + 1}" if self.row < _OTHERS else self.path.stem


class Run:
    """A run folder, of which only own files are read.

    Raises:
        WavedilError: the folder has no ``config.yaml``.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not is_own(self.folder / "config.yaml", self.folder):
            raise WavedilError(
                f"{self.folder} is not a run folder (no config.yaml): expected the folder that `wavedil train` printed"
            )
        self.name = self.folder.resolve().name
        self.skipped: list[str] = []
        self.config = (self.folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
        self.about = read_json(self.folder / "about.json", self.folder)
        self.validation = read_json(self.folder / "validation.json", self.folder)
        self.captions = {part: read_captions(self.folder / part, self.folder) for part in ("samples", "previews")}
        self.rows = self._metrics()

    def _metrics(self) -> list[dict[str, float]]:
        path = self.folder / "metrics.csv"
        if not is_own(path, self.folder):
            return []
        return [{key: float(value) for key, value in row.items()} for row in read_metrics(path)]

    def media(self, part: str, suffix: str) -> list[Media]:
        """The files of ``samples`` or ``previews`` with this suffix, sorted by row, step and name."""
        folder = self.folder / part
        captions = self.captions[part]
        found = []
        # Names with a dot are of files that are being written.
        for index, path in enumerate(sorted(folder.glob(f"[!.]*{suffix}"))):
            match = _NAME.fullmatch(path.stem)
            if not is_own(path, self.folder):
                self.skipped.append(path.name)
            elif match:
                kind, number, second, name = match.groups()
                row, step = (int(second or 0), int(number)) if kind == "step" else (int(number), None)
                found.append(Media(path, row, name or "", step, captions.get(path.stem, {})))
            elif suffix == ".wav" or path.name.startswith("image_"):  # of a task of others, with names of their own
                found.append(Media(path, _OTHERS + index, path.stem, None, captions.get(path.stem, {})))
        return sorted(found, key=lambda each: (each.row, -1 if each.step is None else each.step, each.path.name))

    def row_facts(self, part: str, row: int) -> dict[str, Any]:
        """Captions of a row."""
        return self.captions[part].get(f"row_{row}", {})

    def columns(self, prefix: str) -> Iterator[tuple[str, list[tuple[float, float, float]]]]:
        """The columns of ``metrics.csv`` with a prefix: name and finite values as ``(step, minutes, value)``."""
        for column in list(self.rows[0])[:40] if self.rows else ():
            if column.startswith(prefix):
                values = [(row["step"], row["seconds"] / 60, row[column]) for row in self.rows]
                yield column, [value for value in values if math.isfinite(value[2])]

    def setting(self, key: str) -> str | None:
        """A value of ``trainer`` in ``config.yaml``; None if it is missing or null."""
        section = re.search(r"^trainer:\n((?:[ #].*\n|\n)*)", self.config + "\n", re.MULTILINE)
        match = section and re.search(rf"^ +{key}: *([^#\n]*)", section[1], re.MULTILINE)
        value = match[1].strip().strip("'\"") if match else "null"
        return None if value in ("null", "") else value

    @property
    def budget(self) -> str:
        """Steps, epochs and time that the run may use, in words."""
        steps, epochs, time = (self.setting(key) for key in ("max_steps", "max_epochs", "max_time"))
        parts = [f"{steps} steps"] if steps not in (None, "-1") else []
        parts += [f"{epochs} epochs"] if epochs not in (None, "-1") else []
        parts += [f"{_seconds(time) / 60:g} minutes"] if _seconds(time) else []
        return " or ".join(parts) or "no limit"

    def status(self) -> tuple[str, str]:
        """``"ended"``, ``"stopped"`` or ``"empty"``, and a sentence."""
        if not self.rows:
            return "empty", "No training steps yet."
        step, seconds = int(self.rows[-1]["step"]), self.rows[-1]["seconds"]
        done = f"{step} steps in {duration(seconds)}"
        recorded = self.folder / "stopped.txt"  # written by wavedil.train if a run ends before its last step
        if is_own(recorded, self.folder):
            return "stopped", f"Trained for {done}: {recorded.read_text(encoding='utf-8', errors='replace')[:2000]}"
        steps, limit = self.setting("max_steps"), _seconds(self.setting("max_time"))
        most = int(steps) if steps and re.fullmatch(r"\d{1,15}", steps) else None
        if most is not None and step >= most:
            return "ended", f"Trained for {done}: all {most} steps."
        if limit and seconds >= 0.98 * limit:
            rest = "" if most is None else f", before all {most} steps"
            return "ended", f"Trained for {done}: the time limit of {limit / 60:g} minutes{rest}."
        if most is None and not limit:
            return "ended", f"Trained for {done}."
        return "stopped", f"Stopped before the end of its budget ({self.budget}): trained for {done}."


def is_training(folder: Path) -> bool:
    """Whether another process trains in the folder, by its lock."""
    lock = folder / ".lock"
    if not is_own(lock, folder):
        return False
    try:
        return is_locked(lock)
    except OSError:  # the folder of somebody else
        return False


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _seconds(value: str | None) -> float:
    """Seconds of a time as ``dd:hh:mm:ss``; 0 without one."""
    if value is None or not re.fullmatch(r"\d{1,6}(:\d{1,2}){3}", value):
        return 0.0
    days, hours, minutes, seconds = map(int, value.split(":"))
    return ((days * 24 + hours) * 60 + minutes) * 60.0 + seconds
