"""Finds recipes and the folders of their runs."""

import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from wavedil.errors import WavedilError
from wavedil.renames import upgrade_option, upgrade_recipe
from wavedil.train.module import TrainingModule

DEFAULT = "pluck"
#: Environment variable with the folder of a run, for the other processes of the run.
RUN_FOLDER_VARIABLE = "WAVEDIL_RUN_FOLDER"


def recipe_folder() -> Path:
    """The recipes of the package: inside it when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(path for path in (package / "recipes", package.parent / "recipes") if path.is_dir())


def known_recipes() -> dict[str, Path]:
    """The recipes of the package by name."""
    return {path.stem: path for path in sorted(recipe_folder().rglob("*.yaml"))}


def find_recipe(name: str | None) -> Path:
    """The YAML file of a recipe: a path, a name (``speech``), or None for the default recipe."""
    recipes = known_recipes()
    if name is not None and Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise WavedilError(f"recipe {name} does not exist: expected a YAML file, or one of {', '.join(recipes)}")
        return Path(name)
    if (name or DEFAULT) not in recipes:
        raise WavedilError(f"recipe {name!r} is unknown: expected a YAML file, or one of {', '.join(recipes)}")
    return recipes[name or DEFAULT]


def read_recipe(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Reads a recipe or the ``config.yaml`` of a run, and renames names of version 0.1.

    Returns:
        The recipe, and one text ``"old -> new"`` for each renamed name.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise WavedilError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise WavedilError(f"{path} is not a recipe: expected a mapping with model, data and trainer")
    return upgrade_recipe(content)


def check_options(options: Sequence[str], recipe: dict[str, Any]) -> None:
    """Checks that command-line options use today's names.

    Raises:
        WavedilError: a name of version 0.1; the message has today's name.
    """
    for index, text in enumerate(options):
        if not text.startswith("--"):
            continue
        option, equals, value = text.partition("=")
        if not equals and index + 1 < len(options) and not options[index + 1].startswith("--"):
            value = options[index + 1]
        new_option, new_value = upgrade_option(option, value, recipe)
        if new_option != option:
            raise WavedilError(f"{option} is an option of version 0.1: it is now {new_option}")
        if new_value != value:
            raise WavedilError(f"{option} is {value}, a name of version 0.1: it is now {new_value}")


def module_class(path: Path) -> type[TrainingModule]:
    """The training module that a recipe names. Its class decides the other keys of the recipe."""
    recipe, _ = read_recipe(path)
    try:
        name = recipe["model"]["class_path"]
        found = getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
    except (ImportError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise WavedilError(f"{path}: model.class_path names no training module ({error!r})") from None
    if not (isinstance(found, type) and issubclass(found, TrainingModule)):
        raise WavedilError(f"{path}: model.class_path is {name}: expected a subclass of {TrainingModule.__name__}")
    return found


def run_folder(recipe: Path, out: str | None, resume: str | None) -> tuple[Path, list[Path]]:
    """The folder of a run and, if it is resumed, its checkpoints, newest first.

    Args:
        recipe: its file, which names the default folder.
        out: ``--out`` of the shell.
        resume: ``--resume`` of the shell.
    """
    base = Path(out) if out else Path("runs") / recipe.stem
    if resume is None:
        # Lightning starts the other processes of a run with the same command.
        if int(os.environ.get("LOCAL_RANK", 0)) and RUN_FOLDER_VARIABLE in os.environ:
            return Path(os.environ[RUN_FOLDER_VARIABLE]), []
        if out and (base / "config.yaml").exists():
            raise WavedilError(f"{base} holds a run: continue it with --resume auto, or choose another --out")
        if out and base.exists() and not base.is_dir():
            raise WavedilError(f"--out {base} is a file: expected a folder")
        number = 2
        folder = base
        while folder.exists() and not out:
            folder = base.with_name(f"{base.name}-{number}")
            number += 1
        return folder, []
    if resume != "auto":
        raise WavedilError(f"--resume is {resume!r}: expected auto; name the run with --out, or its recipe with -c")
    numbered = re.compile(re.escape(base.name) + r"-\d+")
    runs = [base] if out else [base, *(path for path in base.parent.glob("*") if numbered.fullmatch(path.name))]
    checkpoints = [path for run in runs for path in (run / "checkpoints").glob("*.ckpt")]
    if not checkpoints:
        raise WavedilError(f"--resume auto found no checkpoint in {', '.join(map(str, runs))}: start without --resume")
    checkpoints.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    folder = checkpoints[0].parents[1]
    return folder, [path for path in checkpoints if path.parents[1] == folder]
