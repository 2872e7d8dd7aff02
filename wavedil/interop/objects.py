"""Keys of the objects in JSON files, and the types of their values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wavedil.core.schema import check, describe
from wavedil.errors import WavedilError, one_of, shown


@dataclass(frozen=True)
class Object:
    """An object of a file: the types of its keys, which are annotations of :mod:`wavedil.core.schema` or Objects.

    An optional Object may also be null. Where ``active`` is false, other keys may have any value.
    """

    required: Mapping[str, Any]
    optional: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> Mapping[str, Any]:
        return {**self.required, **self.optional}


class Switch(Object):
    """An object that may also be false."""


ANY = Object({})  # an object with any keys


def check_object(value: Any, kind: Object, place: str = "") -> Mapping[str, Any]:
    """Returns ``value``.

    Raises:
        WavedilError: it is not an object of this kind, or a key is missing, unknown or of another type. The message
            begins with ``place``, the keys that lead to it.
    """
    if not isinstance(value, Mapping):
        keys = f" with {', '.join(sorted(kind.keys))}" if kind.keys else ""
        raise WavedilError(f"{place or 'the content'} is {_text(value)}: expected an object{keys}")
    if kind is ANY:
        return value
    prefix = f"{place}." if place else ""
    for key in value:
        if key not in kind.keys:
            raise WavedilError(f"{prefix}{key} is not supported: expected {one_of(key, sorted(kind.keys), some=True)}")
    for key, hint in kind.required.items():
        if key not in value:
            raise WavedilError(f"{prefix}{key} is missing: expected {_describe(hint)}")
    is_off = value.get("active") is False
    for key, hint in kind.keys.items():
        if key not in value or (is_off and key != "active"):
            continue
        if isinstance(hint, Object):
            is_none = value[key] is None or (isinstance(hint, Switch) and value[key] is False)
            if key in kind.required or not is_none:
                check_object(value[key], hint, f"{prefix}{key}")
        else:
            check_value(value[key], hint, f"{prefix}{key}")
    return value


def check_value(value: Any, hint: Any, place: str) -> None:
    """Raises WavedilError unless the annotation allows the value."""
    try:
        check(place, value, hint)
    except WavedilError:
        raise WavedilError(f"{place} is {_text(value)}: expected {_describe(hint)}") from None


def _describe(hint: Any) -> str:
    if isinstance(hint, Object):
        return "an object" + f" with {', '.join(sorted(hint.keys))}" * bool(hint.keys)
    text = "a value" if hint is Any else describe(hint)
    return text.removesuffix(" or None").replace("a dictionary", "an object")


def _text(value: Any) -> str:
    """The value as in JSON."""
    return json.dumps(value) if value is None or isinstance(value, bool) else shown(value)
