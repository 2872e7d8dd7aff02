"""The dilation core: N-dimensional, torch only. Read this first: schedule, conv, block, stack, stream."""

from wavedil.core.block import ConvBlock, GatedBlock
from wavedil.core.conv import (
    DilatedConv,
    DilatedConv1d,
    DilatedConv2d,
    DilatedConv3d,
    add_weight_norm,
    fold_weight_norm,
)
from wavedil.core.gridding import audit_gridding
from wavedil.core.measured_field import measure_receptive_field
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
from wavedil.core.stack import DilatedStack

__all__ = [
    "ConvBlock",
    "DilatedConv",
    "DilatedConv1d",
    "DilatedConv2d",
    "DilatedConv3d",
    "DilatedStack",
    "GatedBlock",
    "Schedule",
    "add_weight_norm",
    "audit_gridding",
    "doubling",
    "fold_weight_norm",
    "format_schedule",
    "hybrid",
    "measure_receptive_field",
    "parse_schedule",
    "receptive_field",
    "register_schedule",
    "sawtooth",
]
