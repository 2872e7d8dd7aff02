"""Effects as C source."""

from pathlib import Path

from torch import nn

from wavedil.audio.effects.compiled.c_writer import function_prefix, write_c
from wavedil.audio.effects.compiled.program import lower
from wavedil.errors import WavedilError
from wavedil.writing import atomic_write

#: In the first line of every file that :func:`export_c` writes.
MARK = "written by wavedil"


def header_of(path: str | Path) -> Path:
    """The header beside a C file."""
    return Path(path).with_suffix(".h")


def export_c(model: nn.Module, path: str | Path) -> Path:
    """Writes an effect as a C file and its header: portable C99 without dependencies.

    The names of its functions start with that of the file: ``amp_init`` and so on in ``amp.c``.

    Args:
        model: an :class:`wavedil.audio.Effect` or a model of ``wavedil.audio.models.nam``.
        path: ends in ``.c``; the header has the same name with ``.h``.

    Raises:
        WavedilError: the model has no C source, no function can have this name, or a file there was not written by this
            function.
    """
    path, header = Path(path), header_of(path)
    function_prefix(path.stem)  # refuses bad names, also those that are too long for the file system
    for place in (path, header):
        if place.exists() and not place.is_file():  # reading a named pipe would wait for a writer
            what = "a folder" if place.is_dir() else "not a regular file"
            raise WavedilError(f"{place} is {what}: choose another name for the C file")
        if place.exists() and MARK not in _first_line(place):
            raise WavedilError(f"{place} was not written by wavedil: remove it, or choose another name for the C file")
    source = write_c(lower(model), path.stem)
    with atomic_write(header) as beside_header, atomic_write(path) as beside:
        beside_header.write_text(source.header, encoding="ascii")
        beside.write_text(source.code, encoding="ascii")
    return path


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline(1000)
