"""Checks that the parts of a recipe are of the kinds that their keys expect, e.g. that a head is not a loss."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import lightning as L
import torch

from wavedil.errors import WavedilError, one_of
from wavedil.train.module import TrainingModule
from wavedil.train.parser_errors import CLASSES
from wavedil.train.recipe_text import parse_yaml

_PREDICTORS = tuple(
    f"wavedil.vision.models.{name}" for name in ("segmenter", "regressor", "multilabel", "volume_segmenter")
)
#: Base classes, or modules with all classes, of each kind. A class of none of them may be anything.
_KINDS: dict[str, type | tuple[str, ...]] = {
    "a training module": TrainingModule,
    "a data module": L.LightningDataModule,
    "an optimizer": torch.optim.Optimizer,
    "a loss": ("wavedil.losses", "wavedil.vision.losses", "wavedil.audio.effects.losses"),
    "a head": ("wavedil.vision.models.heads",),
    "a context module": ("wavedil.vision.models.context",),
    "a backbone": tuple(f"wavedil.vision.models.{name}" for name in ("backbone", "front_end", "timm_backbone")),
    "an audio network": ("wavedil.audio.models",),
    "a network of images": _PREDICTORS,
}
#: The kind of a key, by the end of its name.
_EXPECTED = {
    "model": "a training module",
    "data": "a data module",
    "optimizer": "an optimizer",
    "loss": "a loss",
    "losses": "a loss",
    "head": "a head",
    "auxiliary": "a head",
    "context": "a context module",
    "backbone": "a backbone",
    "network": "an audio network",
}


def check_parts(recipe: dict[str, Any], options: Sequence[str]) -> None:
    """Checks the classes that a recipe and its options name, before they are built.

    Raises:
        WavedilError: a class is of another kind than its key expects, or the data module is that of another task.
    """
    named = [*_named_in(recipe), *_named_in_options(options)]
    for place, name in named:
        expected, found = _EXPECTED.get(place.rpartition(".")[2]), _find(name)
        kind = None if found is None or expected is None else _kind(found)
        if kind is not None and kind != expected:
            raise WavedilError(
                f"--{place} is {found.__name__}, which is {kind}: expected {expected}, "
                f"{one_of(found.__name__, _names(expected))}"
            )
    classes = {place: found for place, name in named if place in ("model", "data") and (found := _find(name))}
    if len(classes) == 2 and all(each.__module__.startswith("wavedil.") for each in classes.values()):
        module, data = (classes[place].__name__ for place in ("model", "data"))
        suitable = f"{module.removesuffix('Module')}Data"
        if data != suitable:
            raise WavedilError(f"--data is {data}, whose batches {module} cannot use: expected {suitable}")


def _named_in(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The keys of parts, and the names of their classes."""
    if isinstance(value, str) and place:
        yield place, value
    elif isinstance(value, list):
        for item in value:
            yield from _named_in(item, place)
    elif isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield place, value["class_path"]
        for key, item in value.items():
            if key != "class_path":
                yield from _named_in(item, place if key == "init_args" else f"{place}.{key}" if place else str(key))


def _named_in_options(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    for index, word in enumerate(options):
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            continue
        value = value if equals else options[index + 1] if index + 1 < len(options) else ""
        place = option[2:].replace(".init_args", "").removesuffix(".class_path").removesuffix("+")
        if place.rpartition(".")[2] in _EXPECTED or "{" in value:
            with suppress(WavedilError):  # the parser reports it
                yield from _named_in(parse_yaml(value), place)


def _find(name: str) -> type | None:
    """A class of wavedil or an optimizer, by its path or by its name alone; None if there is none.

    No other module is imported: a resumed run may be somebody else's.
    """
    module, _, name = name.rpartition(".")
    if module and not f"{module}.".startswith(("wavedil.", "torch.optim.")):
        return None
    for place in [module] if module else CLASSES:
        with suppress(ImportError, AttributeError, ValueError):
            found = getattr(import_module(place), name)
            return found if isinstance(found, type) else None
    return None


def _kind(cls: type) -> str | None:
    for kind, members in _KINDS.items():
        if isinstance(members, type):
            if issubclass(cls, members):
                return kind
        elif any(f"{cls.__module__}.".startswith(f"{each}.") for each in members):
            return kind
    return None


def _names(kind: str) -> list[str]:
    """The names of the classes of a kind; without the layers of audio networks, which cannot be evaluated."""
    members = _KINDS[kind]
    found = {
        name
        for module in map(import_module, CLASSES)
        for name in getattr(module, "__all__", None) or dir(module)
        if isinstance(each := getattr(module, name), type) and each is not members and _kind(each) == kind
        if kind != "an audio network" or hasattr(each, "evaluation")
    }
    return sorted(found)
