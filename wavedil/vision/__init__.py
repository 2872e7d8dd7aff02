"""Dense prediction: the 2-D use of the core. Front end, context module, heads, and the way back to pixels."""

from wavedil.vision.context import ContextModule
from wavedil.vision.crf import CRFRNN, DenseCRF
from wavedil.vision.frontend import VGGFrontEnd
from wavedil.vision.heads import (
    ASPP,
    Degridding,
    FCN8s,
    LargeFOV,
    NonLocal,
    ParallelDilations,
    PyramidPooling,
    Score,
    SummedASPP,
    UNet,
)
from wavedil.vision.upsample import LearnedUpsample, upsample

__all__ = [
    "ASPP",
    "CRFRNN",
    "ContextModule",
    "Degridding",
    "DenseCRF",
    "FCN8s",
    "LargeFOV",
    "LearnedUpsample",
    "NonLocal",
    "ParallelDilations",
    "PyramidPooling",
    "Score",
    "SummedASPP",
    "UNet",
    "VGGFrontEnd",
    "upsample",
]
