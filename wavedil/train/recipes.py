"""Where recipes are, and where their runs go."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

import yaml

from wavedil.errors import WavedilError
from wavedil.train.base import TrainingModule

DEFAULT = "pluck"
#: Where the first process of a run tells the others its folder.
FOLDER = "WAVEDIL_RUN_FOLDER"


def recipe_folder() -> Path:
    """The recipes that come with the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "recipes", package.parent / "recipes") if path.is_dir())


def find_recipe(name: str | None) -> Path:
    """The YAML file of a recipe given by path, by name (``speech``), or not at all (the default recipe)."""
    if name is not None and Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise WavedilError(
                f"recipe {name} does not exist: give a YAML file, or one of {', '.join(known_recipes())}"
            )
        return Path(name)
    recipes = known_recipes()
    if (name or DEFAULT) not in recipes:
        raise WavedilError(f"recipe {name!r} is unknown: give a YAML file, or one of {', '.join(recipes)}")
    return recipes[name or DEFAULT]


def known_recipes() -> dict[str, Path]:
    return {path.stem: path for path in sorted(recipe_folder().rglob("*.yaml"))}


def module_class(config: Path) -> type[TrainingModule]:
    """The training module that a recipe names: which of its other keys there are depends on it."""
    try:
        name = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["class_path"]
        found = getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
    except (yaml.YAMLError, OSError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise WavedilError(f"{config} names no training module as model.class_path ({error!r})") from None
    if not (isinstance(found, type) and issubclass(found, TrainingModule)):
        raise WavedilError(f"{config}: model.class_path is {name}: expected a subclass of {TrainingModule.__name__}")
    return found


def run_folder(recipe: Path, out: str | None, resume: str | None) -> tuple[Path, list[Path]]:
    """The folder of a run and, where it is resumed, its checkpoints, newest first."""
    base = Path(out) if out else Path("runs") / recipe.stem
    if resume is None:
        if int(os.environ.get("LOCAL_RANK", 0)) and FOLDER in os.environ:
            return Path(os.environ[FOLDER]), []  # Lightning starts the other processes of a run by the same command
        if out and (base / "config.yaml").exists():
            raise WavedilError(f"{base} holds a run: add --resume auto to continue it, or choose another --out")
        if out and base.exists() and not base.is_dir():
            raise WavedilError(f"{base} is a file: choose another --out")
        number = 2
        folder = base
        while folder.exists() and not out:
            folder = base.with_name(f"{base.name}-{number}")
            number += 1
        return folder, []
    if resume != "auto":
        raise WavedilError(
            f"--resume is {resume!r}: expected auto; the run is the one in --out, or the newest of the recipe"
        )
    numbered = re.compile(re.escape(base.name) + r"-\d+")
    runs = [base] if out else [base, *(path for path in base.parent.glob("*") if numbered.fullmatch(path.name))]
    checkpoints = [path for run in runs for path in (run / "checkpoints").glob("*.ckpt")]
    if not checkpoints:
        raise WavedilError(f"--resume auto found no checkpoint in {', '.join(map(str, runs))}: start without --resume")
    checkpoints.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    folder = checkpoints[0].parents[1]
    return folder, [path for path in checkpoints if path.parents[1] == folder]
