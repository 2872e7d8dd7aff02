"""Documentation of a recipe's keys: for the help of ``wavedil train -c NAME``, and as comments in a printed recipe."""

import argparse
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import lightning as L
import yaml
from jsonargparse import ArgumentParser

from wavedil.core.schema import describe
from wavedil.docstrings import argument_texts, plain_text
from wavedil.train.module import TrainingModule

#: The keys of the trainer that the help of a recipe lists.
TRAINER_KEYS = {
    "max_steps": "maximum number of training steps; -1 for no limit",
    "max_time": "maximum training time, e.g. 90s, 3min, 1h 30min or 00:01:30:00",
    "max_epochs": "maximum number of epochs, for data modules with a finite length",
    "val_check_interval": "batches, or a time such as 10min, between validations",
    "precision": "e.g. 32-true or bf16-mixed; null for bf16-mixed if the hardware supports bf16, else 32-true",
    "accelerator": "cpu, cuda, or auto for a GPU if available",
    "devices": "number of GPUs or processes, or a list of GPUs",
    "strategy": "auto, ddp or fsdp",
    "accumulate_grad_batches": "batches per optimizer step",
    "gradient_clip_val": "maximum norm of the gradients",
    "log_every_n_steps": "steps between log entries",
    "logger": "e.g. CSVLogger; null for TensorBoard, false for none",
    "callbacks": "additional Lightning callbacks",
    "limit_train_batches": "batches per epoch, or a fraction of the data",
}


@dataclass(frozen=True)
class Key:
    """A key of a recipe: its values in words, its default and what it means."""

    name: str
    values: str
    default: Any
    text: str


@dataclass(frozen=True)
class Group:
    """The keys of a class that a recipe names."""

    place: str
    cls: type
    keys: list[Key]

    @property
    def is_ours(self) -> bool:
        return self.cls.__module__.startswith("wavedil.")


def classes_of(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The classes that a recipe names, with their keys."""
    if not isinstance(value, dict):
        return
    if isinstance(value.get("class_path"), str):
        yield place, value["class_path"]
        value = value.get("init_args")
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from classes_of(item, f"{place}.{key}" if place else str(key))


def key_actions(cls: type, place: str) -> dict[str, argparse.Action]:
    """The parser's actions for the arguments of a class at a key of a recipe."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, place, fail_untyped=False)
    return {
        action.dest: action
        for action in parser._actions
        if action.dest.startswith(f"{place}.") and not action.dest.endswith(".help")
    }


def key_groups(recipe: dict[str, Any], module: type[TrainingModule] | None = None) -> Iterator[Group]:
    """The documented keys of each class of a recipe, followed by the keys of previews, samples and trainer.

    Classes that cannot be imported are left out.
    """
    found = list(classes_of(recipe))
    for place, name in found:
        try:
            cls = getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2])
            actions = key_actions(cls, place)
        except Exception:  # a class of the recipe may be wrong
            continue
        yield Group(place, cls, list(_keys(cls, place, actions, {each for each, _ in found})))
    others = {} if module is None else {"previews": module.previews_class, "samples": module.samples_class}
    for place, cls in {**others, "trainer": L.Trainer}.items():
        if cls is not None:
            yield Group(place, cls, list(_keys(cls, place, key_actions(cls, place), set())))


def _keys(cls: type, place: str, actions: dict[str, argparse.Action], parts: set[str]) -> Iterator[Key]:
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        texts |= argument_texts(each)
    for name, action in actions.items():
        if name in parts:  # documented by its class
            continue
        own = name.removeprefix(f"{place}.")
        text = (TRAINER_KEYS if cls is L.Trainer else texts).get(own) or plain_text(action.help or "")
        yield Key(name, _values(getattr(action, "_typehint", action.type)), action.default, text)


def _values(hint: Any) -> str:
    """A type in a few words, without limits that nobody meets."""
    try:
        text = describe(hint)
    except Exception:  # an annotation of another library
        return "a value"
    text = re.sub(r" (up|from -?\d+) to \d{4,}", "", text.replace(" from 1e-09 to 1000000", " above 0"))
    text = re.sub(r" or (an? [A-Z]\w+|objects of \w+)", "", text.replace("None", "null"))
    return re.sub(r"^an? ", "", text).split("; write for example")[0]


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[^.\s]{2}[.;])\s", text, maxsplit=1)[0].rstrip(".;")


def add_help(parser: argparse.ArgumentParser, recipe: dict[str, Any], module: type[TrainingModule]) -> None:
    """Adds the keys of a recipe to the help of a command; they are not parsed."""
    for group in key_groups(recipe, module):
        title = f"{group.place} ({group.cls.__name__})"
        keys = group.keys
        if group.place == "trainer":
            title = "trainer (all keys: --trainer.help)"
            keys = [key for key in keys if key.name.removeprefix("trainer.") in TRAINER_KEYS]
        elif not group.is_ours:
            keys = [key for key in keys if isinstance(key.default, int | float | tuple) and key.default is not False]
        section = parser.add_argument_group(title)
        for key in keys:
            value = _value_of(recipe, key)
            text = key.text if group.is_ours or group.cls is L.Trainer else first_sentence(key.text)
            text += f" ({'' if group.cls is L.Trainer else f'{key.values}; '}{_shown(value)})"
            section.add_argument(f"--{key.name}", metavar="", help=text.replace("%", "%%"), default=argparse.SUPPRESS)


def _value_of(recipe: Any, key: Key) -> Any:
    """The value of a key in a recipe, or its default."""
    for name in key.name.split("."):
        recipe = recipe.get("init_args", recipe) if isinstance(recipe, dict) else {}
        if not isinstance(recipe, dict) or name not in recipe:
            return key.default
        recipe = recipe[name]
    return recipe


def _shown(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10000).removesuffix("...\n").strip()


def commented(config: dict[str, Any], defaults: dict[str, Any], recipe: dict[str, Any], groups: list[Group]) -> str:
    """A recipe in YAML with a comment for each key.

    Args:
        config: all values.
        defaults: those of the trainer; equal ones are left out unless ``recipe`` has them.
        recipe: the recipe as it is written.
        groups: of :func:`key_groups`.
    """
    given = recipe.get("trainer") or {}
    config["trainer"] = {
        name: value
        for name, value in config["trainer"].items()
        if name != "default_root_dir" and (name in given or value != defaults.get(name))
    }
    _leave_out_defaults(config, {group.place: group for group in groups if not group.is_ours})
    texts = {key.name: first_sentence(key.text) for group in groups for key in group.keys}
    lines, places = [], []
    for line in yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=10000).splitlines():
        found = re.match(r"( *)(\w+):", line)
        if found:
            depth = len(found[1])
            places = [each for each in places if each[0] < depth] + [(depth, found[2])]
            text = texts.get(".".join(name for _, name in places if name != "init_args"))
            if text and not line.endswith(":"):
                if len(line) + len(text) + 4 > 120:
                    lines += textwrap.wrap(text, 120, initial_indent=f"{found[1]}# ", subsequent_indent=f"{found[1]}# ")
                else:
                    line += f"  # {text}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _leave_out_defaults(value: Any, groups: dict[str, Group], place: str = "") -> None:
    """Removes arguments with their default values from classes of other libraries."""
    if not isinstance(value, dict):
        return
    arguments = value.get("init_args", value)
    if place in groups and isinstance(arguments, dict):
        for key in groups[place].keys:
            name = key.name.removeprefix(f"{place}.")
            if name in arguments and arguments[name] == key.default:
                del arguments[name]
    for name, item in arguments.items() if isinstance(arguments, dict) else ():
        _leave_out_defaults(item, groups, f"{place}.{name}" if place else name)


class _Dumper(yaml.SafeDumper):
    """YAML with lists of numbers and texts in one line."""


def _list(dumper: yaml.SafeDumper, value: Any) -> yaml.Node:
    plain = all(item is None or isinstance(item, str | int | float) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=plain or None)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, _list)
_Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))
