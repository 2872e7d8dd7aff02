"""wavedil: dilated convolutions for sound and for dense prediction, on one N-dimensional core."""

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
    "receptive_field",
]
