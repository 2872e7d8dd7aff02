"""Files that a page reads and embeds: those of a run folder, captions of clips, and the limit of the page's size."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from wavedil.writing import atomic_write

MAX_PAGE_BYTES = 20_000_000
MAX_BYTES = 2**26  # of a file that is read
MAX_ROWS, MAX_STEPS = 100, 12  # rows of clips or images in a page, and steps of each: a run writes it often
CAPTIONS = "captions.json"
Row = TypeVar("Row")


class Budget:
    """Counts the bytes of embedded files against the limit of a page; ``notes`` say what was left out."""

    def __init__(self, limit: int = MAX_PAGE_BYTES - 1_500_000):  # the rest is for text, curves and pictures
        self.left, self.notes = limit, []

    def take(self, text: str) -> bool:
        """Whether a text still fits in the page; if so, it is counted."""
        fits = len(text) <= self.left
        if fits:
            self.left -= len(text)
        return fits

    def first(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The first ``MAX_ROWS`` rows, and a note about the others."""
        if len(rows) > MAX_ROWS:
            self.notes.append(f"{len(rows) - MAX_ROWS} rows are left out: a page has at most {MAX_ROWS} of a kind")
        return rows[:MAX_ROWS]


def left_out(count: int) -> str:
    """The note about previews that are not in a page."""
    return f"{count} of the oldest previews are left out: the page has the last {MAX_STEPS} steps and at most 20 MB"


def is_own(path: Path, folder: Path) -> bool:
    """Whether a file may be read: a regular file of up to 64 MiB in the folder, not where a link leads to."""
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
        return is_inside and path.is_file() and path.stat().st_size <= MAX_BYTES
    except (OSError, RuntimeError, ValueError):  # e.g. a loop of links
        return False


def text(value: Any) -> str:
    """A value as HTML text, also in attributes; names that are not UTF-8 have question marks."""
    return html.escape(str(value).encode("utf-8", "replace").decode())


def short(value: Any, limit: int = 300) -> str:
    """A value as a text of at most ``limit`` characters."""
    found = str(value)
    return found if len(found) <= limit else f"{found[:limit]}…"


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def read_json(path: Path, folder: Path) -> dict[str, Any]:
    """The object in a JSON file of the folder; empty if there is none, or a damaged one."""
    if not is_own(path, folder):
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_captions(folder: Path, run: Path) -> dict[str, dict[str, Any]]:
    """Captions of the files in a folder by file name; see :func:`add_captions`."""
    found = read_json(folder / CAPTIONS, run)
    return {name: caption for name, caption in found.items() if isinstance(caption, dict)}


def add_captions(folder: Path, captions: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds captions to ``captions.json`` in a folder of clips or images.

    Args:
        folder: of the files.
        captions: facts by name of a file without suffix, e.g. ``{"sample_000": {"speaker": "anna"}}``; a page shows
            each fact with its name.
    """
    known = read_captions(folder, folder)
    for name, caption in captions.items():
        known[name] = {**known.get(name, {}), **caption}
    with atomic_write(folder / CAPTIONS) as beside:
        beside.write_text(json.dumps(known, indent=1, default=str) + "\n", encoding="utf-8")
