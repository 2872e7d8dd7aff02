"""Errors of the parser of recipes in one line: the key, its value, and what is expected."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from wavedil.errors import WavedilError, shortened, shown, similar
from wavedil.train.recipe_help import classes_of, key_groups

_KINDS = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a dictionary",
    "Sequence": "a list",
    "Mapping": "a dictionary",
    "NoneType": "null",
}
#: Modules with the classes that options may name without a path.
CLASSES = ("wavedil.train", "wavedil.train.loggers", "wavedil.audio", "wavedil.vision", "torch.optim")
CLASSES += ("wavedil.audio.models.nam", "wavedil.audio.models.tcn", "wavedil.audio.effects.losses")
CLASSES += ("wavedil.vision.losses", "wavedil.vision.crf")
_LOSSES, _HEADS = ("wavedil.vision.losses", "wavedil.audio.effects.losses"), ("wavedil.vision.models.heads",)
#: Of some options, by the end of their key: only these are suggested for them.
_CLASSES_OF = {
    "loss": _LOSSES,
    "losses": _LOSSES,
    "head": _HEADS,
    "auxiliary": _HEADS,
    "optimizer": ("torch.optim",),
    "callbacks": ("wavedil.train", "lightning.pytorch.callbacks"),
    "logger": ("wavedil.train.loggers", "lightning.pytorch.loggers"),
}
_PATHS = ("root", "init", "speakers")  # options that are paths
CLASSES += tuple(f"lightning.pytorch.{name}" for name in ("callbacks", "loggers", "strategies", "plugins", "profilers"))


def reason(error: BaseException, parser: ArgumentParser | None = None, recipe: Any = None) -> str:
    """One line from the parser's error, which lists all types that it tried."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, WavedilError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    text = _without_alternatives(" ".join(str(error).split()) or type(error).__name__)
    unknown = re.match(r"unrecognized arguments: (\S+)", text)
    if unknown:
        option = unknown[1].partition("=")[0]
        if not option.startswith("-"):
            return f"{option} is not an option: expected --key value; see wavedil train --help"
        return f"{option} is unknown{_suggestion(option.lstrip('-'), parser, recipe)}"
    unknown = re.search(r"Group '([^']+)' does not accept option '([^']+)'", text)
    if unknown:
        place = f"{unknown[1]}.{unknown[2]}"
        return f"--{place} is unknown{_suggestion(place, parser, recipe)}"
    # The keys of the parsers of nested parts, and the option, which also names the part of the outermost one.
    chain = [key for key in re.findall(r'[Pp]arser key "([^"]+)"', text) if key != "config"]
    nested = max(re.findall(r"NestedArg\(key='([^']+)'", text), key=len, default="")
    keys = [*chain[:1], nested] if nested.count(".") + 2 >= len(chain) and nested else chain
    place = ".".join(keys)
    explained = _explained(text, place)
    if not keys:
        return explained
    option = re.fullmatch(r"Option '(.*)' is not accepted", explained)
    if option:
        name = option[1].rpartition(".")[2]
        place = place if place.endswith(name) else f"{place}.{option[1]}"
        return f"--{place} is unknown{_suggestion(place, parser, recipe)}"
    return f"--{place} {explained}" if explained.startswith("is ") else f"--{place}: {explained}"


def with_option(text: str, settings: Namespace) -> str:
    """An error of a constructor, e.g. ``"lr is -1: …"`` or ``"SGD cannot be built: …"``, with the option it is about.

    Args:
        settings: the parsed recipe. Without exactly one option of this name and value, the text is returned unchanged.
    """
    options = list(_options(settings))
    if found := re.match(r"(\w+) is ", text):
        rest = text[found.end() :]
        places = [place for place, value in options if _name(place) == found[1] and _begins_with(rest, value)]
        text_of_option = f"{text[found.end(1) :]}"
    elif found := re.match(r"(\w+) cannot be built: ", text):
        places = [place for place, value in options if getattr(value, "class_path", "").endswith(f".{found[1]}")]
        text_of_option = f": {text}"
    elif found := re.match(r"(\w+) of layer \d+ is ", text):  # an entry of a list
        places = [place for place, _ in options if _name(place) == f"{found[1]}s"]
        text_of_option = f": {text}"
    elif found := re.match(r"`?(\w+)(: |` | has )", text):
        places = [place for place, _ in options if _name(place) == found[1]]
        text_of_option = f": {text[found.end() :] if found[2] == ': ' else text}"
    elif found := re.match(r"\w+ (?=')", text):  # schedule '1..5x': …
        rest = text[found.end() :]
        places = [place for place, value in options if isinstance(value, str) and _begins_with(rest, value)]
        text_of_option = f": {text}"
    else:
        places = []
    if not places:
        places = [place for place, value in options if _name(place) in _PATHS and _is_about(text, value)]
        text_of_option = f": {text}"
    return f"--{places[0]}{text_of_option}" if len(places) == 1 else text


@contextmanager
def errors_name_options(settings: Namespace) -> Iterator[None]:
    """Errors of the block begin with the option that they are about, see :func:`with_option`."""
    try:
        yield
    except WavedilError as error:
        if type(error) is not WavedilError:  # its subclasses are no mistakes
            raise
        raise WavedilError(with_option(str(error), settings)) from error


def _is_about(text: str, value: Any) -> bool:
    """Whether an error is about a path, or about a folder that is missing below it."""
    if not isinstance(value, str) or not value:
        return False
    path = re.escape(str(Path(value)))
    return re.match(rf"{path}( |: |/\S+ is not a folder)", text) is not None


def _name(place: str) -> str:
    return place.rpartition(".")[2]


def _begins_with(text: str, value: Any) -> bool:
    """Whether a text begins with a value, as messages write it; a constructor may have made a float of an integer."""
    value = list(value) if isinstance(value, tuple) else value
    texts = {str(value), shown(value)} if value != "" else {"empty"}
    if type(value) in (int, float):
        texts |= {str(float(value)), f"{value:g}"}
    return any(re.match(rf"{re.escape(each)}(?!\w)", text) for each in texts)


def _options(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All options of a parsed recipe and their values; entries of a list as ``callbacks[0]``."""
    if isinstance(value, Namespace) and "class_path" in value:
        yield place, value
        value = value.get("init_args")
    if isinstance(value, Namespace):
        for key, item in vars(value).items():
            yield from _options(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list) and any(isinstance(item, Namespace) for item in value):
        for index, item in enumerate(value):
            yield from _options(item, f"{place}[{index}]")
    else:
        yield place, value


def _without_alternatives(text: str) -> str:
    """Each problem once, and none of a class that does not know an option whose value another class refuses.

    An option that may be a class or a list of them is tried as either, and an option of a class also as its base's.
    """
    head, *problems = text.split(" - Problem with given class_path ")
    refused = {name for each in problems for name in re.findall(r"Parser key \"([^\"]+)\": Expected", each)}
    kept: list[str] = []
    for each in problems:
        problem, _, end = each.partition(" - ")
        unknown = re.search(r"': Option '(\w+)' is not accepted$", problem)
        if problem in kept or (unknown and unknown[1] in refused):
            kept[-1:] = [f"{kept[-1]} - {end}"] if kept and end else kept[-1:]
        else:
            kept.append(each)
    return " - Problem with given class_path ".join([head, *kept])


def _explained(text: str, place: str) -> str:
    """The problem with the option ``place``, without the list of types that the parser has tried."""
    missing = re.search(
        r"Problem with given class_path '[\w.]*?(\w+)': the following arguments are required: (\w+)", text
    )
    if missing:
        return f"{missing[1]} needs {missing[2]}: add --{place}.{missing[2]}"
    if re.search(r"value:( -|$)|import path string: - ", text):
        return "is empty: expected a value"
    if "is abstract" in text and "NestedArg(" in text:
        option = f"--{place.rpartition('.')[0]}"
        return f"is unknown, since {option} names no class: give {option} CLASS before it"
    text = re.sub(r"<class '([^']+)'>", r"\1", text.replace("typing.", "").replace("collections.abc.", ""))
    found = re.search(r"Option '[^']*' is not accepted", text)
    if found:
        return found[0]
    made = re.search(r"Given value: \[?Namespace\(class_path='([^']+)'", text)
    if made:  # the arguments are right, but the constructor raised an error
        problems = re.findall(r" - ((?:(?! - | Given value type:).)+)", text)
        other = [each for each in problems if not each.startswith(("Expected", "Problem", "Not a valid", "Does not"))]
        if other:
            return shortened(f"{made[1].rpartition('.')[2]} cannot be built: {other[0]}", 400)
    of_class = r"(?:\S+NestedArg |(?:dict|list) Given value: \[?\{'class_path')"
    text = re.sub(rf" - Expected a NoneType Given value type: {of_class}.*", "", text)  # about null
    innermost = re.split(r'Parser key "[^"]+": ', text)[-1]
    cut = re.search(r"(?:Given|Got) value: (.*?)(?: - |\. Got value: | Given value type: |$)", innermost)
    value = cut[1].rstrip(".") if cut else ""
    missing = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", innermost)
    if missing:
        name = ".".join(missing.groups())
        return f"{name} is not a known class{_similar_class(name, place)}"
    callables = re.search(r"expects a function or a callable class: (.+?)(?:\. Got value: | - |$)", innermost)
    if callables and "is not accepted" not in callables[1] and "a dot import path" not in callables[1]:
        return f"is {value}: expected a class, or a function that returns a part ({callables[1]})"
    kinds = list(dict.fromkeys(_kinds(innermost)))
    problems = re.findall(r"Problem with given class_path '[^']+': (?:(?! - |Problem with | Given value).)+", innermost)
    if problems:
        return problems[-1].removeprefix("Problem with given class_path ").replace("HINT: ", "")
    unknown = re.search(r"Expected a dot import path string: (.+?)(?: - | Given |$)", innermost)
    if unknown:
        similar_class = _similar_class(unknown[1], place)
        if "did you mean" in similar_class or not (set(kinds) - {"null", "a list"}):
            return f"{unknown[1]} is not a known class{similar_class}"
    if kinds and cut:
        meant = similar(value, kinds)
        expected = " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)
        if value.startswith("NestedArg("):
            return f"is unknown: --{place.rpartition('.')[0]} is {expected}"
        return f"is {value}: expected {expected}" + (f"; did you mean {meant}?" if meant else "")
    return innermost if len(innermost) <= 300 else f"{innermost[:300]}..."


def _kinds(text: str) -> Iterator[str]:
    """The values that are expected, in words."""
    for one in re.findall(r"Expected (?:an? )?(Literal\[[^\]]*\]|tuple with \d+ elements|\w+)", text):
        if one.startswith("Literal"):
            yield from (item.strip().strip("'\"") for item in one[8:-1].split(","))
        elif one.startswith("tuple with"):
            yield one.replace("tuple", "a list")
        elif one in _KINDS:
            yield _KINDS[one]


def _similar_class(name: str, place: str) -> str:
    """The end of an error about an unknown class: a class with a similar name, of a kind that the option can have."""
    modules = _CLASSES_OF.get(place.rpartition(".")[2], CLASSES)
    modules += tuple(each for each in [name.rpartition(".")[0]] if each in sys.modules)
    names = {
        name
        for module in map(import_module, modules)
        for name in dir(module)
        if isinstance(getattr(module, name), type)
    }
    found = similar(name.rpartition(".")[2], names)
    if found == name.rpartition(".")[2]:
        return " of this option"
    return f": did you mean {found}?" if found else ": expected an import path, e.g. my_package.MyClass"


def _suggestion(key: str, parser: ArgumentParser | None, recipe: Any) -> str:
    """The end of an error about an unknown key: a key with a similar name."""
    actions = [] if parser is None else parser._actions
    known = {each.dest: None for each in actions if each.dest and not each.dest.endswith(".help")}
    known |= {place: None for place, _ in classes_of(recipe)}
    known |= {each.name: None for group in key_groups(recipe) for each in group.keys}
    plain = key.replace(".init_args", "")
    found = similar(plain, known)
    found = found or next((each for each in known if each.rpartition(".")[2] == plain.rpartition(".")[2]), None)
    found = None if found and f"{plain}.".startswith(f"{found}.") else found  # the part itself
    return f": did you mean --{found}?" if found else ": wavedil train --print_config shows all keys"
