"""wavedil: dilated convolutions for sound and for dense prediction, on one N-dimensional core.

The names below come from ``wavedil.core`` when they are first used, so that the shell answers before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wavedil.core import (
        ConvBlock,
        DilatedConv,
        DilatedConv1d,
        DilatedConv2d,
        DilatedConv3d,
        DilatedStack,
        GatedBlock,
        audit_gridding,
        doubling,
        measure_receptive_field,
        receptive_field,
    )
    from wavedil.errors import WavedilError

__version__ = "0.1.0"

__all__ = [
    "ConvBlock",
    "DilatedConv",
    "DilatedConv1d",
    "DilatedConv2d",
    "DilatedConv3d",
    "DilatedStack",
    "GatedBlock",
    "WavedilError",
    "__version__",
    "audit_gridding",
    "doubling",
    "measure_receptive_field",
    "receptive_field",
]


def __getattr__(name: str) -> Any:
    if name in ("audio", "core", "vision"):
        return import_module(f"wavedil.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'wavedil' has no attribute {name!r}")
    home = "wavedil.errors" if name == "WavedilError" else "wavedil.core"
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
