"""Classes that model folders may name: how they are registered, and how they are built from a config."""

import functools
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

from wavedil.errors import WavedilError
from wavedil.renames import check_arguments

Class = TypeVar("Class", bound=type)

#: Registered classes by import path.
_REGISTERED: dict[str, type] = {}
#: Import paths whose modules :func:`find_class` may import.
_PACKAGE_PATH = re.compile(r"wavedil\.(audio|vision)(\.[a-z]\w*)+\.[A-Z]\w*", re.ASCII)


def register(cls: Class) -> Class:
    """Class decorator: model folders may name this class, and its instances record their arguments in ``config``.

    Use it for your own network, backbone, head or other part that is to be saved and loaded. The constructor takes
    named arguments: plain values (numbers, strings, lists, dictionaries) or instances of registered classes. Annotate
    an argument that takes a part with the part's class or ``nn.Module``, or not at all. Subclasses need the decorator
    too. Import the module that defines your class before :func:`wavedil.weights.load` reads a folder that
    names it: loading imports no modules but those of this package.

    Raises:
        WavedilError: the constructor has positional-only arguments or ``*args``.
    """
    init = cls.__init__
    no_arguments = init in (object.__init__, nn.Module.__init__)  # whose signatures are (*args, **kwargs)
    signature = inspect.signature((lambda self: None) if no_arguments else init)
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise WavedilError(
                f"cannot register {import_path(cls)}: {parameter} has no name; give its constructor named ones"
            )

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        check_arguments(cls, kwargs)
        config = _arguments(signature, self, args, kwargs) if type(self) is cls else None
        init(self, *args, **kwargs)
        if type(self) is cls and "config" not in vars(self):  # a constructor may set its own config
            self.config = config

    cls.__init__ = __init__
    _REGISTERED[import_path(cls)] = cls
    return cls


def import_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def is_registered(cls: type) -> bool:
    return _REGISTERED.get(import_path(cls)) is cls


def find_class(name: Any, path: Path) -> type:
    """The registered class of an import path; imports its module if that is in ``wavedil.audio`` or ``.vision``."""
    if isinstance(name, str) and name not in _REGISTERED and _PACKAGE_PATH.fullmatch(name):
        try:
            import_module(name.rpartition(".")[0])
        except Exception:  # also libraries that fail while they are imported
            pass  # refused below
    if not isinstance(name, str) or name not in _REGISTERED:
        raise WavedilError(
            f"{path} names the class {name!r}, which is not registered: import the module that defines it first "
            "(option --import of the shell)"
        )
    return _REGISTERED[name]


def check_registered(value: Any, path: Path) -> None:
    """Raises WavedilError if a part anywhere in ``value`` names a class that is not registered."""
    if _is_part(value):
        check_stored(find_class(value["class"], path), value["arguments"], path)
    for item in _items(value):
        check_registered(item, path)


def check_stored(cls: type, arguments: Any, path: Path) -> None:
    """Raises WavedilError for an argument in ``cls.never_stored``, e.g. one that makes the constructor download."""
    for name in getattr(cls, "never_stored", ()):
        if isinstance(arguments, Mapping) and arguments.get(name) is not None:
            raise WavedilError(f"{path} sets {name} of {cls.__name__}: a model folder must not, remove it")


def _arguments(signature: inspect.Signature, self: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments of a constructor call by name, defaults included; None if they do not fit the signature."""
    try:
        bound = signature.bind(self, *args, **kwargs)
    except TypeError:
        return None  # the constructor raises its own error
    bound.apply_defaults()
    values: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        values |= value if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return _plain(values)


def _plain(value: Any) -> Any:
    """A copy of ``value`` as JSON values. Other objects stay: :func:`wavedil.weights.check_savable` refuses them."""
    if is_registered(type(value)):
        return {"class": import_path(type(value)), "arguments": value.config}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"class", "arguments"}


def build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """An instance of a registered class, its parts built first.

    Raises:
        TypeError: an argument is a part that its annotation does not allow. The constructor may raise other errors.
    """
    cls = _REGISTERED[name]
    hints = _annotations(cls)
    for key, value in arguments.items():
        hint = hints.get(key, hints.get("**", Any))
        if not _allows(hint, value):
            raise TypeError(f"{key} cannot be this part: the constructor takes {getattr(hint, '__name__', hint)}")
    return cls(**{key: _restored(value) for key, value in arguments.items()})


def _restored(value: Any) -> Any:
    if _is_part(value):
        return build(value["class"], dict(**value["arguments"]))
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _restored(item) for key, item in value.items()}
    return value


def _annotations(cls: type) -> dict[str, Any]:
    """The constructor's annotations by argument, Any where there is none; ``"**"`` for further keyword arguments."""
    try:
        hints = typing.get_type_hints(cls.__init__)
    except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
        hints = {}
    return {
        "**" if parameter.kind is parameter.VAR_KEYWORD else name: hints.get(name, Any)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
    }


def _allows(hint: Any, value: Any) -> bool:
    """Whether an annotation allows the parts in ``value``. The constructor itself checks plain values."""
    if not _holds_part(value):
        return True
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_allows(option, value) for option in options)
    kind = origin or hint
    if kind is Literal:
        return False
    if kind in (Any, object) or not isinstance(kind, type):
        return True
    if _is_part(value):
        return _is_subclass(_REGISTERED[value["class"]], kind)
    if kind is str or not _is_subclass(kind, Iterable):
        return False
    options = [option for option in options if option is not Ellipsis] or [Any]
    if isinstance(value, Mapping):
        return all(_allows(options[-1], item) for item in value.values())
    return all(any(_allows(option, item) for option in options) for item in value)


def _holds_part(value: Any) -> bool:
    return _is_part(value) or any(map(_holds_part, _items(value)))


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()


def _is_subclass(cls: type, kind: type) -> bool:
    try:
        return issubclass(cls, kind)
    except TypeError:  # a protocol that is not for run time
        return True
