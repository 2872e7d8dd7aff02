"""The dilation core: N-dimensional, torch only. Read this first: schedule, conv, block, stack, stream.

Modules are imported on first use, so that schedules are inspected without importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wavedil.core.gridding import audit_gridding
from wavedil.core.receptive_field import receptive_field
from wavedil.core.schedule import (
    Schedule,
    doubling,
    format_schedule,
    hybrid,
    parse_schedule,
    register_schedule,
    sawtooth,
)

if TYPE_CHECKING:
    from wavedil.core.block import ConvBlock, GatedBlock
    from wavedil.core.conv import (
        DilatedConv,
        DilatedConv1d,
        DilatedConv2d,
        DilatedConv3d,
        add_weight_norm,
        fold_weight_norm,
    )
    from wavedil.core.learned import LearnedDilation
    from wavedil.core.measured_field import measure_receptive_field
    from wavedil.core.mergeable import MergeableDilations, fold_dilations
    from wavedil.core.stack import DilatedStack

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
    "Schedule",
    "add_weight_norm",
    "audit_gridding",
    "doubling",
    "fold_dilations",
    "fold_weight_norm",
    "format_schedule",
    "hybrid",
    "measure_receptive_field",
    "parse_schedule",
    "receptive_field",
    "register_schedule",
    "sawtooth",
]

#: Modules of the names that need torch, except those in ``wavedil.core.conv``.
_MODULES = {
    "ConvBlock": "block",
    "GatedBlock": "block",
    "DilatedStack": "stack",
    "LearnedDilation": "learned",
    "MergeableDilations": "mergeable",
    "fold_dilations": "mergeable",
    "measure_receptive_field": "measured_field",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'wavedil.core' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"wavedil.core.{_MODULES.get(name, 'conv')}"), name)
    return value
