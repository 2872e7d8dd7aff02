"""The folder of a run: claimed and locked by one process, with a record of what a finished run holds."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wavedil.batches import world_size
from wavedil.errors import WavedilError, reason
from wavedil.metrics import read_metrics
from wavedil.outputs import check_folder_name
from wavedil.writing import atomic_write, check_in_place, lock_file, unlock

#: Environment variable with the folder of a run, for the other processes of the run.
RUN_FOLDER_VARIABLE = "WAVEDIL_RUN_FOLDER"
METRICS, RESTARTS = "metrics.csv", "restarts.csv"
EARLY_STOP = "stopped.txt"  # why a run ended before its last step
#: What a run writes before its first checkpoint; all that is removed when it fails before that.
_FILES = ("config.yaml", METRICS, RESTARTS, "about.json", "validation.json", "report.html", ".lock")
_FOLDERS = ("checkpoints", "data", "previews", "tensorboard")


@contextmanager
def claim_folder(recipe: Path, out: str | None, resume: str | None) -> Iterator[tuple[Path, list[Path]]]:
    """Locks the folder of a run and yields it and, if it is resumed, its checkpoints, newest first.

    The system releases the lock when the process ends, also if it is killed. A folder that this process created is
    removed after an error or interrupt before the first checkpoint.

    Args:
        recipe: its file, which names the default folder.
        out: the option ``--out``.
        resume: the option ``--resume``.

    Raises:
        WavedilError: the folder cannot be used, or another process trains in it.
    """
    first, created = process_rank() == 0, False
    if not first:
        out = out or os.environ.get(RUN_FOLDER_VARIABLE)
    if out is None and (not first or world_size() > 1):
        raise missing_out()
    try:
        if resume is not None:
            folder = _folder_to_resume(recipe, out, resume)
        elif not first:  # the first process claims the folder
            folder = Path(out)
        else:
            folder, created = _new_folder(recipe, out)
        lock = _lock(folder) if first else None
    except OSError as error:
        if created:
            _remove(folder)
        place = os.fsdecode(error.filename or out or "runs")
        raise WavedilError(f"--out: {place} cannot be written: {reason(error)}; choose another folder") from None
    try:
        if (
            first
            and resume is None
            and any((folder / name).exists() for name in ("config.yaml", "checkpoints", "model"))
        ):
            remedy = "continue it with --resume auto" if _checkpoints(folder) else "it has no checkpoint, so remove it"
            raise WavedilError(f"{folder} holds a run: {remedy}, or choose another --out")
        if first:
            for path in (folder / "checkpoints").glob(".*.new"):  # of a killed process
                path.unlink(missing_ok=True)
        yield folder, _checkpoints(folder) if resume is not None else []
    except BaseException:
        if created and not (_checkpoints(folder) or (folder / "model").exists() or read_metrics(folder / METRICS)):
            with suppress(WavedilError):
                check_in_place(folder)
                _remove(folder)
        raise
    finally:
        unlock(lock)


def clear_unfinished(folder: Path) -> bool:
    """Removes a run that was killed before its first checkpoint; returns whether the folder has a run to resume."""
    if _checkpoints(folder):
        return True
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder / "model", ignore_errors=True)
        _remove(folder)
    return False


def process_rank() -> int:
    """A number above 0 in all processes of a run but the first."""
    # Lightning sets LOCAL_RANK, torchrun also RANK; NODE_RANK is set by hand.
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
    return next((rank for name in names if (rank := int(os.environ.get(name) or 0))), 0)


def missing_out() -> WavedilError:
    return WavedilError("--out is missing: the processes of a run need the name of the same folder, e.g. --out runs/a")


def record_early_stop(folder: Path, text: str) -> None:
    """Writes why a run ended before its last step; removes the file of an earlier part of the run if it did not."""
    if not text:
        (folder / EARLY_STOP).unlink(missing_ok=True)
        return
    with atomic_write(folder / EARLY_STOP) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def record_finished(folder: Path, step: int) -> None:
    """Records that a run is finished at ``step``, with the files that it has by then."""
    files = (path for part in ("model", "samples") for path in (folder / part).rglob("[!.]*"))
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files if path.is_file()}
    sizes["report.html"] = 0  # the report may have failed, or be written again
    with atomic_write(folder / ".finished") as beside:
        beside.write_text(json.dumps({"step": step, "files": sizes}), encoding="utf-8")


def is_finished(folder: Path, step: int) -> bool:
    """Whether a run is finished at ``step`` and still has its model, samples and report."""
    try:
        record = json.loads((folder / ".finished").read_text(encoding="utf-8"))
        sizes = record["files"].items()
        # The report may be written again, by wavedil report.
        return record["step"] == step and all(
            (folder / name).stat().st_size == size or name == "report.html" for name, size in sizes
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no record, or a damaged one
        return False


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    paths = [
        path for path in (folder / "checkpoints").glob("*.ckpt") if path.is_file() and not path.name.startswith(".")
    ]
    # A copied run may have equal times.
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, ".previous." not in path.name), reverse=True)


def _folder_to_resume(recipe: Path, out: str | None, resume: str) -> Path:
    if resume != "auto":
        raise WavedilError(f"--resume is {resume!r}: expected auto; name the run with --out, or its recipe with -c")
    base = Path(out) if out else Path("runs") / recipe.stem
    numbered = re.compile(re.escape(base.name) + r"-\d+")
    runs = [base] if out else [base, *(path for path in base.parent.glob("*") if numbered.fullmatch(path.name))]
    newest = {run: _checkpoints(run)[0].stat().st_mtime for run in runs if _checkpoints(run)}
    if not newest:
        raise WavedilError(f"--resume auto found no checkpoint in {', '.join(map(str, runs))}: start without --resume")
    return max(newest, key=newest.__getitem__)


def _new_folder(recipe: Path, out: str | None) -> tuple[Path, bool]:
    """A folder for a new run, and whether it was created. Without ``out``, one that no other run has."""
    if out:
        check_folder_name("--out", out)
    base = Path(out) if out else Path("runs") / recipe.stem
    base.parent.mkdir(parents=True, exist_ok=True)
    folder, number = base, 2
    while True:
        try:
            folder.mkdir()
            return folder, True
        except FileExistsError:
            if out:
                break
        folder = base.with_name(f"{base.name}-{number}")
        number += 1
    if not base.is_dir():
        raise WavedilError(f"--out {base} is a file: expected a folder")
    return base, False


def _lock(folder: Path) -> int:
    """Locks a folder until ``unlock``."""
    for _ in range(5):
        handle = lock_file(folder / ".lock")
        if handle is not None:
            return handle
        time.sleep(0.05)  # wavedil report holds the lock for a moment, to see whether a training does
    raise WavedilError(f"{folder} is in use by another training run: wait for its end, or choose another --out")


def _remove(folder: Path) -> None:
    """Removes what a run writes before its first checkpoint, and the folder if nothing else is in it."""
    for name in _FOLDERS:
        if not (folder / name).is_symlink():
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
        if folder.parent.name == "runs":
            folder.parent.rmdir()
