"""Classes that model folders may name: how they are registered, and how they are built from a config."""

import functools
import inspect
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from wavedil.allocation import model_limit
from wavedil.core.schema import Arguments
from wavedil.errors import WavedilError, one_of, shown
from wavedil.renames import check_arguments
from wavedil.trusted import is_trusted

Class = TypeVar("Class", bound=type)

#: Registered classes by import path.
_REGISTERED: dict[str, type] = {}
#: Import paths whose modules :func:`find_class` may import.
_PACKAGE_PATH = re.compile(r"wavedil\.(audio|vision)(\.[a-z]\w*)+\.[A-Z]\w*", re.ASCII)

MAX_NESTING = 64  # a part of a part of a part takes 6


def register(cls: Class) -> Class:
    """Class decorator for saving and loading: instances of the class record their arguments in ``config``.

    Use it for your own network, backbone, head or other part of a model. The constructor takes
    named arguments: plain values (numbers, strings, lists, dictionaries) or instances of registered classes. Annotate
    an argument that takes a part with the part's class or ``nn.Module``, or not at all. Annotated arguments are checked
    in each call, see :mod:`wavedil.core.schema`. Subclasses need the decorator too. Import the module that defines your
    class before :func:`wavedil.weights.load` reads a folder that names it: loading imports no modules but those of this
    package.

    Raises:
        WavedilError: the constructor has positional-only arguments or ``*args``.
    """
    init = cls.__init__
    no_arguments = init in (object.__init__, nn.Module.__init__)  # whose signatures are (*args, **kwargs)
    arguments = Arguments((lambda self: None) if no_arguments else init)
    for parameter in list(arguments.signature.parameters.values())[1:]:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise WavedilError(
                f"cannot register {import_path(cls)}: {parameter} has no name; give its constructor named ones"
            )

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        check_arguments(cls, kwargs)
        bound = arguments.bind((self, *args), kwargs)
        if bound is None:
            return init(self, *args, **kwargs)  # raises its own error
        config = _config(bound) if type(self) is cls else None
        with model_limit(cls.__name__):
            init(*bound.args, **bound.kwargs)
        if type(self) is cls and "config" not in vars(self):  # a constructor may set its own config
            self.config = config

    if no_arguments:
        __init__.__signature__ = arguments.signature
    cls.__init__ = __init__
    _REGISTERED[import_path(cls)] = cls
    return cls


def import_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def is_registered(cls: type) -> bool:
    return _REGISTERED.get(import_path(cls)) is cls


def class_of(value: Any) -> type:
    """The class to write into a config for an object: its ``registered_class`` if it has one, else its own class."""
    return getattr(value, "registered_class", type(value)) if isinstance(value, nn.Module) else type(value)


def _register_trusted(name: str) -> None:
    """Registers the class of an import path if a trusted module defines it."""
    module, _, cls = name.rpartition(".")
    if not is_trusted(module):
        return
    try:
        found = getattr(import_module(module), cls, None)
    except Exception:  # refused below
        return
    if isinstance(found, type) and issubclass(found, nn.Module) and import_path(found) == name:
        register(found)


def find_class(name: Any, path: Path) -> type:
    """The registered class of an import path; imports its module if that is in ``wavedil.audio`` or ``.vision``.

    Classes of modules that the user trusts are registered here.
    """
    if isinstance(name, str) and name not in _REGISTERED:
        _register_trusted(name)
    if isinstance(name, str) and name not in _REGISTERED and _PACKAGE_PATH.fullmatch(name):
        try:
            import_module(name.rpartition(".")[0])
        except Exception:  # also libraries that fail while they are imported
            pass  # refused below
    if not isinstance(name, str) or name not in _REGISTERED:
        raise WavedilError(
            f"{path} names the class {shown(name)}, which is not registered: import the module that defines it first "
            "(--import MODULE on the command line), or load(..., imports=[MODULE]) if you trust it"
        )
    return _REGISTERED[name]


def check_nesting(depth: int, where: object) -> None:
    """Raises WavedilError for lists and dictionaries in each other deeper than ``MAX_NESTING``."""
    if depth > MAX_NESTING:
        raise WavedilError(f"{where}: the arguments are nested deeper than {MAX_NESTING} lists and dictionaries")


def check_registered(value: Any, path: Path, depth: int = 0) -> None:
    """Raises WavedilError if a part anywhere in ``value`` names a class or an argument that is not registered."""
    check_nesting(depth, path)
    if _is_part(value):
        _check_names(find_class(value["class"], path), value["arguments"], path)
    for item in _items(value):
        check_registered(item, path, depth + 1)


def _check_names(cls: type, arguments: Any, path: Path) -> None:
    """Raises WavedilError unless the names of the arguments are those of the constructor.

    None may be in ``cls.never_stored``, e.g. one that makes the constructor download.
    """
    if not isinstance(arguments, Mapping):
        raise WavedilError(f"{path}: the arguments of {cls.__name__} are {shown(arguments)}: expected a dictionary")
    for name in getattr(cls, "never_stored", ()):
        if arguments.get(name) is not None:
            raise WavedilError(f"{path} sets {name} of {cls.__name__}: a model folder must not, remove it")
    known = dict(inspect.signature(cls).parameters)
    takes_others = [known.pop(name) for name, one in list(known.items()) if one.kind is one.VAR_KEYWORD]
    for name in arguments:
        if name not in known and not takes_others:
            raise WavedilError(
                f"{path}: {cls.__name__} has no argument {shown(name)}: expected {one_of(name, known, some=True)}"
            )
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise WavedilError(f"{path}: {cls.__name__} needs the argument {name}, which is missing")


def _config(bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments of a constructor call by name, defaults included."""
    bound.apply_defaults()
    values: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        further = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        values |= value if further else {name: value}
    return _plain(values)


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy of ``value`` as JSON values; :func:`wavedil.weights.check_savable` refuses objects that are not."""
    check_nesting(depth, "config")
    if is_registered(cls := class_of(value)) and hasattr(value, "config"):
        return {"class": import_path(cls), "arguments": value.config}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    return value


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"class", "arguments"}


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """An instance of a registered class, its parts built first. The constructor may raise other errors.

    Raises:
        WavedilError: an argument is not what its annotation says.
    """
    values = {}
    for key, value in arguments.items():
        try:
            values[key] = _restored(value)
        except WavedilError as error:
            raise type(error)(f"{key}: {error}") from None
    return _REGISTERED[name](**values)


def _restored(value: Any) -> Any:
    if _is_part(value):
        return build(value["class"], dict(**value["arguments"]))
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _restored(item) for key, item in value.items()}
    return value


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
