"""Options that several commands share, and options made from a Python function's signature."""

import argparse
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wavedil.docstrings import argument_texts
from wavedil.errors import WavedilError


def add_model_argument(
    parser: argparse.ArgumentParser, example: str = "runs/pluck", nargs: str | None = None, *, nam: bool = False
) -> None:
    """The argument MODEL. ``nam``: whether the command has a use for the models of .nam files."""
    file = ", .nam file" if nam else ""
    text = f"model folder or run folder (e.g. {example}){file}, or the name of a packaged model (see wavedil models)"
    parser.add_argument("model", metavar="MODEL", nargs=nargs, type=find_model, help=text)


def find_model(name: str) -> str:
    """The model that an argument names: a folder or file itself, the model of a run folder, or a packaged model.

    Raises:
        argparse.ArgumentTypeError: a run folder without a model.
    """
    from wavedil.packaged import find_model

    folder = Path(name)
    if not folder.is_dir():
        found = find_model(name)
        return name if found == folder else str(found)
    if (folder / "config.json").exists() or not (folder / "config.yaml").is_file():
        return name
    if not (folder / "model").is_dir():
        raise argparse.ArgumentTypeError(f"{name} is a run without a model: the first validation saves one")
    return str(folder / "model")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", type=_local_device, default="cpu", help="cpu, cuda, ... (default cpu)")


def _local_device(name: str) -> str:
    """``"cuda"`` is the GPU of this process if ``torchrun`` or SLURM started one process per GPU."""
    number = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
    return f"{name}:{number}" if name == "cuda" and number.isdigit() else name


def add_effect_options(parser: argparse.ArgumentParser) -> None:
    """The settings of an effect."""
    parser.add_argument(
        "--knob", metavar="NAME=VALUE", action="append", default=[], help="set a knob, e.g. gain=0.5; can be repeated"
    )
    parser.add_argument(
        "--quality",
        type=float,
        metavar="Q",
        help="for models with several networks: from 0 (fastest) to 1 (best, default)",
    )


def keep_recipe_keys(arguments: argparse.Namespace, words: list[str]) -> list[str]:
    """``take_unknown`` of commands with ``-c``: the words are keys of the recipe."""
    if arguments.config is None:
        return words
    arguments.overrides = words
    return []


def add_rate_option(parser: argparse.ArgumentParser, use: str) -> None:
    """The sample rate of a schedule."""
    parser.add_argument("--rate", type=_rate, metavar="HZ", help=f"sample rate, {use}")


def _rate(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 11 and 0 < int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a sample rate in Hz, from 1 to {2**31 - 1}")
    return int(text)


def print_result(text: str) -> None:
    """Prints the result of a command; of the processes that ``torchrun`` or SLURM started, only the first does."""
    from wavedil.batches import rank

    if rank() == 0:
        print(text)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options of all commands."""
    add_import_option(parser)
    parser.add_argument(
        "-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="print results and errors only"
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print details, e.g. why an engine was selected",
    )


def add_import_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        metavar="MODULE",
        help="import your own module first, e.g. one that registers classes; can be repeated",
    )


def import_named_modules(words: Sequence[str]) -> list[str]:
    """Imports the modules of ``--import`` in a command line that is not parsed yet, and returns their names.

    The current folder is searched, too.

    Raises:
        WavedilError: a module cannot be imported.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_import_option(parser)
    try:
        names = parser.parse_known_args(list(words))[0].imports or []
    except argparse.ArgumentError:
        return []  # --import without a module: the command's parser reports it
    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if names or "wavedil.trusted" in sys.modules:  # else it need not be imported
        from wavedil import trusted

        trusted.forget()  # those of an earlier command in this process
        trusted.trust(names, "--import")
    return names


def add_function_options(parser: argparse.ArgumentParser, function: Callable[..., Any], title: str) -> None:
    """Adds an option for each keyword-only argument of ``function`` except ``progress``.

    Types are str, int, float, bool (a flag) and sequences of them. The help is the argument's text in the ``Args``
    section of the docstring. Unused options are absent from the namespace, so the defaults of ``function`` apply.
    """
    group = parser.add_argument_group(title)
    texts = argument_texts(function)
    for parameter in _parameters(function):
        text = texts.get(parameter.name, "").replace("%", "%%")
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        kind, several = _kind(parameter)
        if kind is bool:
            settings["action"] = "store_true"
        else:
            settings |= {"type": kind, "metavar": {int: "N", float: "X"}.get(kind, "TEXT")}
            settings |= {"nargs": "+"} if several else {}
        group.add_argument(option(parameter.name), **settings)


def function_options(function: Callable[..., Any]) -> list[str]:
    """The options that :func:`add_function_options` adds."""
    return [option(parameter.name) for parameter in _parameters(function)]


def function_arguments(function: Callable[..., Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The parsed options of :func:`add_function_options` as keyword arguments of the function."""
    names = [parameter.name for parameter in _parameters(function)]
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def option(name: str) -> str:
    """``"top_k"`` as ``"--top-k"``."""
    return f"--{name.replace('_', '-')}"


def check_writable(folder: str, option: str, model: str) -> None:
    """Raises WavedilError unless files can be written to ``folder``, which need not exist, and is not the model's."""
    place = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise WavedilError(f"{option} {folder}: {place} is not a writable directory")
    if os.path.realpath(folder) == os.path.realpath(model):
        raise WavedilError(f"{option} {folder} is the model folder: choose another folder")


def _parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "progress":
            yield parameter


def _kind(parameter: inspect.Parameter) -> tuple[type, bool]:
    """The type of an option's values, and whether it takes several."""
    hint = parameter.annotation
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    several = typing.get_origin(hint) is not None
    kind = typing.get_args(hint)[0] if several else hint
    if kind not in (str, int, float, bool):
        raise TypeError(f"{parameter}: an option needs str, int, float, bool or a sequence of them")
    return kind, several
