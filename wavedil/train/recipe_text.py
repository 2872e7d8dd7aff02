"""Strict YAML: the text of recipes, of ``config.yaml``, and of files and texts that options name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonargparse
import yaml
from jsonargparse import _loaders_dumpers as jsonargparse_loaders
from jsonargparse import _typehints as jsonargparse_types

from wavedil.errors import WavedilError
from wavedil.files import check_regular_file

_MAX_BYTES, _MAX_VALUES, _MAX_DEPTH = 1_000_000, 50_000, 50  # recipes of the package: about 100 values, 8 deep


class RecipeTextError(WavedilError, yaml.YAMLError):
    """Raised for text that is not YAML, or uses YAML that recipes do not need."""


class _Loader(jsonargparse_loaders.get_yaml_default_loader()):
    """The YAML of jsonargparse, without duplicate keys, cycles, and aliases that expand without end."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, (), {})
        return node

    def get_single_data(self) -> Any:
        try:
            return super().get_single_data()
        except (RecursionError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            # PyYAML raises more than YAMLError, e.g. for "!!int x" or an integer of 5000 digits
            raise error if isinstance(error, yaml.YAMLError) else RecipeTextError(f"not YAML: {error}") from None


# 10:00:00:00 is a text, as 01:00:00:00 is: YAML 1.1 reads the first as an integer of base 60.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_INTEGER = r"^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", jsonargparse_loaders.re.compile(_INTEGER), list("-+0123456789"))


def _count(node: yaml.Node, parents: tuple[int, ...], sizes: dict[int, int]) -> int:
    """The values in a node with its aliases expanded, each of which is counted once."""
    if id(node) in parents:
        raise RecipeTextError(f"line {node.start_mark.line + 1}: an alias names a value that it is part of")
    if id(node) not in sizes:
        if len(parents) > _MAX_DEPTH:
            raise RecipeTextError(f"line {node.start_mark.line + 1}: nested more than {_MAX_DEPTH} deep")
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            inner = [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(_count(part, (*parents, id(node)), sizes) for part in inner)
        if sizes[id(node)] > _MAX_VALUES:
            raise RecipeTextError(f"its aliases expand to more than {_MAX_VALUES} values")
    return sizes[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                raise RecipeTextError(
                    f"line {line}: the key {key.value!r} is also in line {lines[key.tag, key.value]}; keep one of them"
                )
            lines[key.tag, key.value] = line


def read_text(path: Path, expected: str = "a recipe in YAML") -> str:
    """The text of a file.

    Raises:
        WavedilError: it is not a regular file, cannot be read, is too large for a recipe, or not UTF-8.
    """
    check_regular_file(path, expected)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeTextError(f"{path} has {path.stat().st_size} bytes: expected {expected}, at most {_MAX_BYTES}")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RecipeTextError(f"{path} is not UTF-8: expected {expected}; save it with the encoding UTF-8") from None
    except OSError as error:
        raise RecipeTextError(f"{path} cannot be read ({error.strerror}): expected {expected}") from None


def load_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        WavedilError: see :func:`read_text`; it is not YAML, has a key twice, or expands without end.
    """
    text = read_text(path)
    try:
        return parse_yaml(text)
    except WavedilError as error:
        raise RecipeTextError(f"{path}: {error}") from None


def parse_yaml(text: str) -> Any:
    """The content of a text; raises WavedilError as :func:`load_yaml` does."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecipeTextError:
        raise
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeTextError(f"not YAML: {' '.join(str(error).split())}") from None


@contextmanager
def strict_yaml() -> Iterator[list[WavedilError]]:
    """While it is active, jsonargparse reads files and texts as :func:`load_yaml` does, and prefers classes of wavedil.

    Yields a list of the files' errors: jsonargparse tries other types after them, and reports the last.
    """
    read, refused = jsonargparse.Path.read_text, []

    def read_file(self: jsonargparse.Path) -> str:
        if self.is_url or self.is_fsspec:
            return read(self)
        path = Path(self.absolute)
        try:
            load_yaml(path)
            return read_text(path)
        except WavedilError as error:
            refused.append(error)
            raise

    adapt = jsonargparse_types.adapt_class_type

    def adapt_class(value: Any, *args: Any, **kwargs: Any) -> Any:
        # jsonargparse writes the value of --model.backbone.weights null as "None", and of a list in Python's notation
        nested = value.get("init_args")
        if isinstance(nested, jsonargparse_types.NestedArg) and not isinstance(nested.val, str):
            value["init_args"] = nested._replace(val=json.dumps(nested.val))
        return adapt(value, *args, **kwargs)

    resolve = jsonargparse_types.resolve_class_path_by_name

    def resolve_class(cls: Any, name: str) -> str:
        # jsonargparse refuses a name that other packages have, too: torchvision has an ASPP, once it is imported.
        try:
            return resolve(cls, name)
        except ValueError:
            paths = jsonargparse_types.get_all_subclass_paths(cls)
            ours = [path for path in paths if path.startswith("wavedil.") and path.rpartition(".")[2] == name]
            if len(ours) != 1:
                raise
            return ours[0]

    with (
        patch.object(jsonargparse_types, "resolve_class_path_by_name", resolve_class),
        patch.object(jsonargparse_loaders, "yaml_default_loader", _Loader),  # no public setting reaches all its calls
        patch.object(jsonargparse.Path, "read_text", read_file),
        patch.object(jsonargparse_types, "adapt_class_type", adapt_class),
    ):
        yield refused
