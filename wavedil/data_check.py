"""The result of checking a data set before training: facts, findings, and a list of files to leave out."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wavedil.errors import WavedilError, count_text, printable
from wavedil.figures import write_figure
from wavedil.writing import atomic_write

#: Kind of finding for files that cannot be used.
BROKEN = "broken"
KINDS = (BROKEN, "silent", "quiet", "clipped", "level", "offset", "duplicate", "rate", "channels")  # of sounds
KINDS += ("unpaired", "size", "constant", "shared", "unknown", "unlabeled")  # of images, volumes and their masks
KINDS += ("grid", "spacing", "orientation")  # of volumes
_SHOWN = 20  # findings of a kind in the text

Value = TypeVar("Value")


@dataclass(frozen=True)
class Finding:
    """Something about a file that the user should know."""

    path: str
    kind: str  # e.g. "broken" or "clipped"
    text: str


@dataclass
class DataCheck:
    """Result of a check.

    Attributes:
        data: the folder.
        count: number of files that were checked.
        facts: name and value, for the summary.
        findings: in the order of the files.
        distributions: name and values, for the picture; a value is the number of items of a class in a mapping.
    """

    data: str
    count: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    distributions: dict[str, list[float] | dict[str, int]] = field(default_factory=dict)

    def add(self, path: str | os.PathLike[str], kind: str, text: str) -> None:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is not in KINDS")
        self.findings.append(Finding(os.fspath(path), kind, text))

    def attempt(
        self, path: str | os.PathLike[str], kind: str, read: Callable[..., Value], *arguments: Any
    ) -> Value | None:
        """The result of ``read(*arguments)``; None, with a finding about ``path``, if it raises WavedilError."""
        try:
            return read(*arguments)
        except WavedilError as error:
            name = printable(path)
            self.add(path, kind, str(error).removeprefix(f"{name} ").removeprefix(f"{name}: "))
            return None

    def complete(self, found: Sequence[Mapping[str, Path]], kinds: Sequence[str]) -> list[tuple[Path, ...]]:
        """The files of each name that has one of each kind, sorted by name; a finding for each other name.

        Args:
            found: for each kind, its files by name.
            kinds: nouns for them.
        """
        self.count += sum(map(len, found))
        complete = []
        for name in sorted(set().union(*found)):
            files = [paths.get(name) for paths in found]
            missing = [kind for path, kind in zip(files, kinds, strict=True) if path is None]
            if missing:
                self.add(next(filter(None, files)), "unpaired", f"has no {' and no '.join(missing)}")
            else:
                complete.append(tuple(files))
        return complete

    def paths(self, kinds: Collection[str]) -> list[str]:
        """Files with a finding of one of the kinds, each once."""
        return list(dict.fromkeys(finding.path for finding in self.findings if finding.kind in kinds))

    def write_list(self, path: str | Path, kinds: Collection[str] = (BROKEN,)) -> int:
        """Writes a list of files for ``exclude: "@FILE"`` of a recipe; returns their number.

        Each line is a path relative to the folder of the list.
        """
        base = os.path.dirname(os.path.abspath(path))
        lines = [os.path.relpath(each, base) for each in self.paths(kinds)]
        with atomic_write(path) as beside:
            beside.write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))
        return len(lines)

    def json(self) -> dict[str, Any]:
        """Everything but the distributions, as JSON values."""
        result = asdict(self)
        del result["distributions"]
        for finding in result["findings"]:
            finding["path"] = printable(finding["path"])
        return result

    def __str__(self) -> str:
        lines = [f"{count_text(self.count, 'file')} in {printable(self.data)}"]
        lines += [f"{name}: {_text(value)}" for name, value in self.facts.items() if value not in ({}, [])]
        for kind, number in Counter(finding.kind for finding in self.findings).most_common():
            lines.append(f"\n{kind}: {number}")
            found = [finding for finding in self.findings if finding.kind == kind]
            lines += [f"  {printable(finding.path)}: {printable(finding.text)}" for finding in found[:_SHOWN]]
            lines += [f"  ... and {number - _SHOWN} more (--json lists all)"] if number > _SHOWN else []
        return "\n".join(lines if self.findings else [*lines, "nothing found"])


def plot(check: DataCheck, path: str | Path) -> None:
    """Writes a picture with a histogram of each distribution to a .png, .svg or .pdf file.

    Raises:
        WavedilError: another suffix.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * max(1, len(check.distributions)), 3.4), layout="constrained")
    for index, (name, values) in enumerate(check.distributions.items(), 1):
        axes = figure.add_subplot(1, len(check.distributions), index)
        if isinstance(values, Mapping):
            axes.bar([str(key) for key in values], list(values.values()), color="#2f6fb7")
            axes.tick_params(axis="x", rotation=60)
        else:
            axes.hist(values, bins=40, color="#2f6fb7")
        axes.set(xlabel=name, ylabel="files" if not isinstance(values, Mapping) else "")
    write_figure(figure, path)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(key)} ({number:,})" for key, number in value.items())
    if isinstance(value, list):
        return "; ".join(map(printable, value))
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
