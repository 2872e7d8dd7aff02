"""Modules that the user names by ``--import`` or ``imports=``: model folders may name the networks in them."""

from collections.abc import Iterable
from importlib import import_module

from wavedil.errors import WavedilError

_NAMES: set[str] = set()


def trust(modules: Iterable[str], option: str = "imports") -> None:
    """Imports modules or packages of the user, and lets model folders name any ``nn.Module`` that they define.

    Raises:
        WavedilError: a module cannot be imported.
    """
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # a module of a user may raise any
            reason = " ".join(str(error).split())
            raise WavedilError(f"{option} {name}: cannot import it ({type(error).__name__}: {reason})") from error
        _NAMES.add(name)


def forget() -> None:
    """Trusts no module any more."""
    _NAMES.clear()


def is_trusted(module: str) -> bool:
    """Whether the module, or a package that it is in, was named."""
    return any(f"{module}.".startswith(f"{name}.") for name in _NAMES)
