"""wavedil: dilated convolutions in 1 to 3 dimensions, with models for audio and for dense prediction.

Public names are imported on first use, so that commands start without importing torch.
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
        LearnedDilation,
        MergeableDilations,
        audit_gridding,
        doubling,
        measure_receptive_field,
        receptive_field,
    )
    from wavedil.errors import WavedilError
    from wavedil.weights import register

__version__ = "0.2.0"

__all__ = [
    "ConvBlock",
    "DilatedConv",
    "DilatedConv1d",
    "DilatedConv2d",
    "DilatedConv3d",
    "DilatedStack",
    "GatedBlock",
    "LearnedDilation",
    "MergeableDilations",
    "WavedilError",
    "__version__",
    "audit_gridding",
    "doubling",
    "measure_receptive_field",
    "receptive_field",
    "register",
]

#: Modules of public names that are not in ``wavedil.core``.
_MODULES = {"WavedilError": "wavedil.errors", "register": "wavedil.weights"}


def __getattr__(name: str) -> Any:
    if name in ("audio", "core", "vision"):
        return import_module(f"wavedil.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'wavedil' has no attribute {name!r}")
    value = getattr(import_module(_MODULES.get(name, "wavedil.core")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
