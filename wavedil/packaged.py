"""What ``load`` and the commands accept as a model: folders, files of other programs, and names of packaged models."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from wavedil.errors import WavedilError, one_of, similar

FOLDER = Path(__file__).parent / "models"

#: Files of other programs that are complete models: suffix, and import path of the function that reads them.
READERS = {".nam": "wavedil.interop.nam.read_nam"}


@dataclass(frozen=True)
class PackagedModel:
    """A packaged model: its name, and the facts at the top of its model card, ``README.md``."""

    name: str
    folder: str
    task: str
    sample_rate: int | None
    parameters: int
    bytes: int
    figures: str


def packaged_names() -> list[str]:
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def packaged_models() -> list[PackagedModel]:
    models = []
    for name in packaged_names():
        card = (FOLDER / name / "README.md").read_text(encoding="utf-8").split("---\n")[1]
        facts = dict(line.split(": ", 1) for line in card.splitlines())
        rate = facts.get("sample_rate")
        models.append(
            PackagedModel(
                name=name,
                folder=str(FOLDER / name),
                task=facts["task"],
                sample_rate=None if rate is None else int(rate),
                parameters=int(facts["parameters"]),
                bytes=sum(path.stat().st_size for path in (FOLDER / name).iterdir()),
                figures=facts["figures"],
            )
        )
    return models


def find_model(name: str | Path) -> Path:
    """The folder of a model: ``name`` if there is such a folder, else that of the packaged model of this name."""
    path = Path(name)
    return FOLDER / path if str(name) in packaged_names() and not path.is_dir() else path


def check_not_an_address(name: str | Path) -> None:
    """Raises WavedilError if ``name`` is a URL. Call it before ``Path(name)``, which turns ``//`` into ``/``."""
    if "://" in str(name) and not Path(name).exists():
        remedy = "download the model first" + f": wavedil convert {name} FOLDER" * str(name).startswith("hf://")
        raise WavedilError(f"{name} is an address: expected a model folder or a file; {remedy}")


def missing_model(path: Path) -> str:
    """The error message about a model that does not exist."""
    try:
        beside = [each for each in itertools.islice(path.parent.iterdir(), 1000) if is_model(each)]
    except OSError:
        beside = []
    meant = similar(path.name, [*packaged_names(), *(each.name for each in beside)])
    place = next((str(each) for each in beside if each.name == meant), meant)
    return (
        f"{path} does not exist: expected a model folder (RUN/model of a run), a .nam file, or "
        f"{one_of('', packaged_names())}" + f"; did you mean {place}?" * bool(meant)
    )


def is_file_of_another_program(path: str | Path) -> bool:
    """Whether ``path`` exists, is not a folder, and has a suffix of :data:`READERS`."""
    path = Path(path)
    return path.suffix.lower() in READERS and path.exists() and not path.is_dir()


def is_model(path: str | Path) -> bool:
    """Whether ``path`` is a model folder or a file of another program; its content may still be wrong."""
    return Path(path, "config.json").is_file() or is_file_of_another_program(path)
