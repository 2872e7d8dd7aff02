"""Finds, reads and checks recipes."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonargparse._common as jsonargparse_settings
from jsonargparse import set_parsing_settings
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from wavedil.errors import WavedilError, first_line, one_of
from wavedil.recipe_files import DEFAULT, known_recipes
from wavedil.renames import upgrade_option, upgrade_recipe
from wavedil.train.module import TrainingModule
from wavedil.train.recipe_text import load_yaml, parse_yaml

#: A resumed run, whose ``config.yaml`` may be somebody else's, may name only what these packages define.
SAFE_PACKAGES = (
    "wavedil",
    "torch.nn",
    "torch.optim",
    "torchvision.transforms.v2",
    *(f"lightning.{part}" for part in ("fabric.plugins", "fabric.strategies", "fabric.accelerators", "fabric.loggers")),
    *(
        f"lightning.pytorch.{part}"
        for part in ("accelerators", "callbacks", "loggers", "plugins", "profilers", "strategies")
    ),
)
_OWN_PARTS = "bench cli figures files interop outputs packing report train.run weights writing".split()
#: Parts of them that start programs, run commands, or read and write files of any name.
_UNSAFE_PARTS = (
    *(f"wavedil.{part}" for part in _OWN_PARTS),
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.callbacks.lambda_function",
)
#: Values of ``trainer.strategy`` besides class paths.
STRATEGIES = ("auto", "fsdp", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def find_recipe(name: str | None) -> Path:
    """The YAML file of a recipe: a path, a name (``speech``), or None for the default recipe."""
    recipes = known_recipes()
    if name is not None and Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).exists():
            names = one_of(Path(name).stem, recipes)
            raise WavedilError(f"recipe {name} does not exist: expected a YAML file, or {names}")
        return Path(name)
    name = DEFAULT if name is None else name
    if name not in recipes:
        raise WavedilError(f"recipe {name!r} is unknown: expected a YAML file, or {one_of(name, recipes)}")
    return recipes[name]


def read_recipe(path: Path, before: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Reads a recipe or the ``config.yaml`` of a run, and renames names of version 0.1.

    Args:
        path: the file.
        before: a recipe that it is merged with, whose classes are filled in where it has only arguments.

    Returns:
        The recipe, and one text ``"old -> new"`` for each renamed name.
    """
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise WavedilError(f"{path} is not a recipe: expected a mapping with model, data and trainer")
    return upgrade_recipe(_with_classes(content, before))


def find_recipes(names: str | Sequence[str] | None) -> list[Path]:
    """The YAML files of recipes that are merged, see :func:`find_recipe`; one for a name or None."""
    return [find_recipe(name) for name in ([names] if names is None or isinstance(names, str) else names)]


def read_recipes(paths: Path | Sequence[Path]) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Reads recipes that are merged, later ones over earlier ones, as :func:`read_recipe` does.

    Returns:
        The merged recipe, the recipes, and one text for each renamed name. A later recipe may leave out the classes of
        earlier ones, which are filled in.
    """
    merged, recipes, renamed = {}, [], []
    for path in [paths] if isinstance(paths, Path) else paths:
        recipe, notes = read_recipe(path, merged)
        merged, recipes = _merged(merged, recipe), [*recipes, recipe]
        renamed += [f"{path} has names of version 0.1, read as: {', '.join(notes)}"] if notes else []
    return merged, recipes, renamed


def _merged(before: Any, after: Any) -> Any:
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return after
    if "class_path" in after and after["class_path"] != before.get("class_path"):
        return after
    return {key: _merged(before.get(key), after[key]) if key in after else before[key] for key in {**before, **after}}


def _with_classes(recipe: Any, before: Any) -> Any:
    """A recipe with the classes of an earlier one where it has only arguments."""
    if not (isinstance(recipe, dict) and isinstance(before, dict)):
        return recipe
    if "class_path" in before and "class_path" not in recipe:
        arguments = recipe["init_args"] if recipe.keys() == {"init_args"} else recipe
        recipe = {"class_path": before["class_path"], "init_args": arguments}
    if "class_path" in recipe and recipe["class_path"] != before.get("class_path"):
        return recipe
    return {key: _with_classes(value, before.get(key)) for key, value in recipe.items()}


def check_options(options: Sequence[str], recipe: dict[str, Any]) -> None:
    """Raises WavedilError for a command-line option with a name of version 0.1; the message has today's name."""
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


def check_given_once(options: Sequence[str], of_search: Collection[str] = ()) -> None:
    """Raises WavedilError if two options set the same key, of which the first would be ignored.

    Args:
        options: options of a recipe.
        of_search: those that a search sets for its trainings.
    """
    given: dict[str, str] = {}
    for index, text in enumerate(options):
        if not text.startswith("--"):
            continue
        option, equals, value = text.partition("=")
        value = value if equals else options[index + 1] if index + 1 < len(options) else ""
        if option.endswith("+"):  # adds one to a list; further keys are of this one
            given = {key: first for key, first in given.items() if not key.startswith(f"{option[:-1]}.")}
            continue
        for key in _keys_set(option.replace(".init_args", ""), value):
            if key in of_search:
                raise WavedilError(
                    f"{key} is given twice: a search sets it from its steps; leave {key} out, or leave steps out"
                )
            if key in given:
                raise WavedilError(f"{key} is given twice: {given[key]} and {text}; keep one of them")
            given[key] = text


def _keys_set(key: str, value: str) -> Iterator[str]:
    """The keys that an option sets: those in ``--trainer '{max_steps: 3}'``, too."""
    try:
        content = parse_yaml(value) if "{" in value else None
    except WavedilError:  # a text, or an error of the parser
        content = None
    mappings = [(key, content)]
    while mappings:
        place, content = mappings.pop()
        if not isinstance(content, dict):
            yield place
            continue
        content = (
            {"class_path": content.get("class_path"), **(content.get("init_args") or {})}
            if ("class_path" in content and isinstance(content.get("init_args") or {}, dict))
            else content
        )
        mappings += [(place if name == "class_path" else f"{place}.{name}", item) for name, item in content.items()]


@contextmanager
def safe_classes_only(imports: Sequence[str]) -> Iterator[None]:
    """While it is active, jsonargparse refuses to import anything but :data:`SAFE_PACKAGES` and ``imports``.

    It checks each text where a class or function is expected, also in nested files and strings, and the module that
    defines the object, so ``wavedil.writing.os.system`` is refused as ``os.system`` is.
    """
    with patch.dict(jsonargparse_settings.parsing_settings):  # the settings are of the process
        set_parsing_settings(
            import_path_denylist=["*", *_UNSAFE_PARTS], import_path_allowlist=[*SAFE_PACKAGES, *imports]
        )
        yield


def check_strategy(strategy: Any) -> None:
    """Checks ``trainer.strategy``, a name or a dictionary with ``class_path``, before it is built.

    Raises:
        WavedilError: its checkpoints are not complete files, or its processes are not started as commands.
    """
    name = strategy if isinstance(strategy, str) else getattr(strategy, "class_path", None)
    if name is None or name in STRATEGIES:
        return
    found = None
    with suppress(ImportError, AttributeError, ValueError):
        found = getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
    if not isinstance(found, type) or not issubclass(found, DDPStrategy | SingleDeviceStrategy):
        raise wrong_strategy(name)
    if issubclass(found, DeepSpeedStrategy):
        raise wrong_strategy(name)


def wrong_strategy(name: str) -> WavedilError:
    return WavedilError(
        f"trainer.strategy is {name}: expected auto, ddp or fsdp, whose checkpoints are complete and whose processes "
        "run the same command"
    )


def unsafe_class(path: Path, name: str) -> WavedilError:
    """The error for a class that a resumed run may not name."""
    return WavedilError(
        f"{path} names {name}: a resumed run may use only wavedil, torch.nn, torch.optim and parts of Lightning; if "
        f"you trust this run, add --import {name.rpartition('.')[0] or name}"
    )


def module_class(paths: Path | Sequence[Path], allowed: Sequence[str] | None = None) -> type[TrainingModule]:
    """The training module that a recipe names. Its class decides the other keys of the recipe.

    Args:
        paths: the recipe, or several that are merged.
        allowed: packages that the class may be in; None for all.
    """
    recipe, path = read_recipes(paths)[0], paths if isinstance(paths, Path) else paths[-1]
    try:
        name = recipe["model"]["class_path"]
        if allowed is not None and not any(name.startswith(f"{package}.") for package in allowed):
            raise unsafe_class(path, name)
        found = getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
    except WavedilError:
        raise
    except (ImportError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise WavedilError(f"{path}: model.class_path names no training module: {first_line(error)}") from None
    if not (isinstance(found, type) and issubclass(found, TrainingModule)):
        raise WavedilError(f"{path}: model.class_path is {name}: expected a subclass of {TrainingModule.__name__}")
    return found
