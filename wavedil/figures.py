"""Writing of matplotlib figures to files."""

import io
import os
from pathlib import Path
from typing import Any

from wavedil.errors import WavedilError
from wavedil.writing import atomic_write

_SUFFIXES = (".png", ".svg", ".pdf")


def check_figure_path(path: str | os.PathLike[str]) -> None:
    """Raises WavedilError unless the name ends with .png, .svg or .pdf."""
    if Path(path).suffix.lower() not in _SUFFIXES:
        raise WavedilError(
            f"{path}: expected a file name that ends with {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"
        )


def write_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a matplotlib figure. Missing folders are created; after an error no partial file remains.

    Raises:
        WavedilError: the name ends with another suffix than .png, .svg or .pdf.
    """
    check_figure_path(path)
    picture = io.BytesIO()  # matplotlib hides the error of a full disk behind one of its own when it writes a .pdf file
    figure.savefig(picture, format=Path(path).suffix[1:].lower(), dpi=150)
    with atomic_write(path) as beside:
        beside.write_bytes(picture.getvalue())
