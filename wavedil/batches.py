"""Work on many items in batches, each done once: restartable, and shared by any number of processes.

Repeat a command to continue it after an interruption. Start it several times to share the work: by hand, with
``torchrun``, or with SLURM. A process locks the batch that it works on, and the system releases the lock when the
process ends, so other processes do the batches of a killed one. (No work is assigned by rank, because a killed rank
would leave its part undone.)

The folder of the results has ``batches/`` with the settings, the locks and one file of records per finished batch. When
all batches are finished, ``manifest.jsonl`` has all records, one per line, in the order of the items.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wavedil.errors import WavedilError, check_positive
from wavedil.outputs import check_outputs
from wavedil.writing import atomic_write

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Record = dict[str, Any]
MANIFEST = "manifest.jsonl"
BATCH = 16  # default number of files per batch of an evaluation
_PLACE = "batches"  # folder of the records, in that of the results
_SHARED = 0  # number of the lock for the files of all processes; batch i has lock i + 1


class Batches:
    """Batches of items whose results are in a folder.

    Args:
        folder: of the results; created if missing. Processes that share the work use the same folder.
        items: number of items.
        size: items per batch.
        settings: what the results depend on, as JSON values.

    Raises:
        WavedilError: ``folder`` has results of other settings, or is a model folder.
        OSError: ``folder`` is not writable.
    """

    def __init__(self, folder: str | Path, items: int, size: int, settings: Mapping[str, Any]):
        check_positive(items=items, batch=size)
        self.folder, self.items, self.size = Path(folder), items, size
        if (self.folder / "config.json").exists():
            raise WavedilError(f"{self.folder} is a model folder: choose another folder for the results")
        self._place = self.folder / _PLACE
        self._place.mkdir(parents=True, exist_ok=True)
        with self._lock() as take:
            take(_SHARED, wait=True)
            self._check_settings({"items": items, "batch": size, **settings})

    def __len__(self) -> int:
        return -(-self.items // self.size)

    def run(
        self, work: Callable[[range], list[Record]], progress: Callable[[int, int], None] | None = None
    ) -> tuple[Path | None, int]:
        """Does the batches that are not finished, and waits for those that other processes work on.

        Args:
            work: does a range of items and returns their records, of JSON values. The item ``files`` of a record is a
                dictionary of paths below the folder; their sizes and checksums are added to the record.
            progress: called with the number of finished items, also by other processes, and the number of all items.

        Returns:
            The path of the manifest, and the number of items that this process did. On file systems without locks the
            path is None until the last process has finished.
        """
        finished = {index for index in range(len(self)) if self._is_finished(index)}
        if len(finished) < len(self):
            (self.folder / MANIFEST).unlink(missing_ok=True)
        made = 0
        with self._lock() as take:
            for wait in (False, True):  # first what is free, then what other processes have locked
                for index in self._order():
                    if index in finished or not take(index + 1, wait):
                        continue
                    if not self._is_finished(index):
                        items = range(index * self.size, min((index + 1) * self.size, self.items))
                        self._save(index, work(items))
                        made += len(items)
                    take(index + 1, release=True)
                    finished.add(index)
                    if progress is not None:
                        progress(min(self.size * self._count(), self.items), self.items)
            if self._count() < len(self):
                return None, made
            take(_SHARED, wait=True)
            if not (self.folder / MANIFEST).exists():
                with atomic_write(self.folder / MANIFEST) as beside, beside.open("w", encoding="utf-8") as file:
                    file.writelines(json.dumps(record) + "\n" for record in self.records())
        return self.folder / MANIFEST, made

    def records(self) -> Iterator[Record]:
        """The records of the finished batches, in the order of the items."""
        for index in range(len(self)):
            yield from self._read(index) or ()

    def _order(self) -> Iterator[int]:
        """All batches; each rank of ``torchrun`` or SLURM begins with others, so that few locks are in use."""
        first = len(self) * rank() // world_size()
        return iter([*range(first, len(self)), *range(first)])

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Saves the settings; raises WavedilError if others are saved."""
        path, settings = self._place / "settings.json", json.loads(json.dumps(settings))
        try:
            saved = dict(json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            with atomic_write(path) as beside:
                beside.write_text(json.dumps(settings, indent=2), encoding="utf-8")
            return
        for name in sorted(settings.keys() | saved.keys()):
            if settings.get(name) != saved.get(name):
                raise WavedilError(
                    f"{self.folder} has results with another {name} ({_short(saved.get(name))}, now "
                    f"{_short(settings.get(name))}): choose another folder, or repeat the command that made them"
                )

    def _path(self, index: int) -> Path:
        return self._place / f"{index:07d}.json"

    def _count(self) -> int:
        """Number of batches that have records."""
        return sum(name[:7].isdigit() and name.endswith(".json") for name in os.listdir(self._place))

    def _read(self, index: int) -> list[Record] | None:
        """The records of a finished batch; None if there are none, or they are damaged."""
        try:
            records = json.loads(self._path(index).read_text(encoding="utf-8"))
            for record in records:
                for file in record.get("files", {}).values():
                    file["path"] + "", file["bytes"] + 0
            return records
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def _is_finished(self, index: int) -> bool:
        """Whether a batch has records, and its files have the sizes in them."""
        records = self._read(index)
        if records is None:
            return False
        files = [file for record in records for file in record.get("files", {}).values()]
        return all(_size(self.folder / file["path"]) == file["bytes"] for file in files)

    def _save(self, index: int, records: list[Record]) -> None:
        for record in records:
            if "files" in record:
                record["files"] = {name: self._description(Path(path)) for name, path in record["files"].items()}
        with atomic_write(self._path(index)) as beside:
            beside.write_text(json.dumps(records), encoding="utf-8")

    def _description(self, path: Path) -> dict[str, Any]:
        """Path relative to the folder, size and checksum of a file."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"path": path.relative_to(self.folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest}

    @contextmanager
    def _lock(self) -> Iterator[Callable[..., bool]]:
        """Yields a function that takes or releases a lock by its number; all are released at the end.

        The function returns False if another process has the lock. On file systems without locks, batch i belongs to
        rank i modulo the number of processes.
        """
        with (self._place / "locks").open("ab") as file:

            def take(number: int, wait: bool = False, release: bool = False) -> bool:
                try:
                    kind = fcntl.LOCK_UN if release else fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
                    fcntl.lockf(file, kind, 1, number)
                    return True
                except BlockingIOError:
                    return False
                except (OSError, AttributeError):
                    return number == _SHARED or (number - 1) % world_size() == rank()

            yield take


def check_records(records: str | Path | None, batch: int | None, data: str | Path) -> None:
    """Raises WavedilError if the folder of the records is in the evaluated data, or is missing beside a batch size."""
    if records is not None:
        check_outputs([records], [data])
    elif batch is not None:
        raise WavedilError(f"batch is {batch}, but records is not set: set it to a folder, or leave batch out")


def refuse_batches(folder: str | Path) -> None:
    """Raises WavedilError if a folder has results of batches, whose manifest other files would contradict."""
    if Path(folder, _PLACE, "settings.json").exists():
        raise WavedilError(f"{folder} has results that were made with --batch: choose another folder, or use --batch")


def rank() -> int:
    """Number of this process among those that ``torchrun`` or SLURM started; 0 without them."""
    return _number("RANK", "SLURM_PROCID", default=0)


def world_size() -> int:
    """Number of processes that ``torchrun`` or SLURM started; 1 without them."""
    return max(1, _number("WORLD_SIZE", "SLURM_NTASKS", default=1))


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's config and tensors."""
    digest = hashlib.sha256(json.dumps(getattr(model, "config", None), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint_paths(paths: Iterable[str | Path]) -> str:
    """SHA-256 of the absolute paths of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(os.path.abspath(path)) + b"\0")
    return digest.hexdigest()


def _number(*names: str, default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # also a null character
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:36]}...{text[-1]}"
