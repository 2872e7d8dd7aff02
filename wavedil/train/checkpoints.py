"""Checkpoint files: written so that there is always one that loads, and checked before they are used."""

import io
import os
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from wavedil.errors import WavedilError
from wavedil.train.run_folder import process_rank
from wavedil.writing import errors_name, make_folder


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file, flushes it and renames it; the old one is kept as ``.previous``.

    (Lightning's own writes to the temporary folder and moves the file: a kill or a full disk leaves half of it.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        make_folder(path.parent)
        buffer = io.BytesIO()  # torch.save to a file hides the error of a full disk behind one of its own
        torch.save(checkpoint, buffer)
        beside = path.with_name(f".{path.name}.new")
        with errors_name(path):
            try:
                with beside.open("wb") as file:
                    file.write(buffer.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                if is_intact(path):
                    _copy_name(path, path.with_name(f"{path.stem}.previous{path.suffix}"))
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
        _sync_folder(path.parent)


def is_intact(path: Path) -> bool:
    """Whether a file is a complete checkpoint: the checksums of its zip archive are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged archive raises many kinds of errors
        return False


def newest_readable(checkpoints: Sequence[Path]) -> tuple[Path | None, int]:
    """The first checkpoint that can be read, and its step; None and 0 without checkpoints.

    Raises:
        WavedilError: there are checkpoints, but none can be read.
    """
    for path in checkpoints:
        try:
            if not is_intact(path):
                raise ValueError("the file is damaged")
            return path, int(torch.load(path, weights_only=True, map_location="cpu")["global_step"])
        except Exception as error:  # torch.load raises many kinds of errors for a damaged file
            reason = " ".join(str(error).split())[:100]
            if not process_rank():
                print(f"{path} cannot be read ({reason}): trying an older checkpoint", file=sys.stderr)
    if checkpoints:
        raise WavedilError(
            f"none of the {len(checkpoints)} checkpoints of {checkpoints[0].parents[1]} can be read: start a new run"
        )
    return None, 0


def _copy_name(path: Path, copy: Path) -> None:
    """Makes ``copy`` a second name of a file, in one step and without a moment in which ``path`` is missing."""
    link = copy.with_name(f".{copy.name}.new")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without links
        os.replace(path, copy)
    else:
        os.replace(link, copy)
        link.unlink(missing_ok=True)  # rename does nothing if both names are the same file already


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows cannot open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
