"""Heads: features in, scores of the classes out, one idea per file.

All are built as ``Head(in_channels, num_classes, …)`` and called with the features of a backbone: one map
``(batch, in_channels, height, width)``, or a list of maps from fine to coarse (in_channels then being a list too). A
head of one map reads the last; :class:`UNet` and :class:`FCN8s` read several. So a recipe changes the head by its name
alone. (In Python :class:`wavedil.vision.ContextModule`, with its arguments by name, may stand there too.) Scores are
``(batch, num_classes, height, width)`` at the resolution of map ``head.level`` (-1: the last), and
:func:`wavedil.vision.upsample` takes them to pixels.

``head.receptive_field`` is what one score sees of the last map, in its cells along an axis; None where that is the
whole map (image pooling, attention), which then cannot be cut into tiles without a difference.
"""

from wavedil.vision.models.heads.aspp import ASPP, SummedASPP
from wavedil.vision.models.heads.degridding import Degridding
from wavedil.vision.models.heads.fcn8s import FCN8s
from wavedil.vision.models.heads.large_fov import LargeFOV
from wavedil.vision.models.heads.non_local import NonLocal
from wavedil.vision.models.heads.parallel_dilations import ParallelDilations
from wavedil.vision.models.heads.pyramid_pooling import PyramidPooling
from wavedil.vision.models.heads.score import Conv1x1Head
from wavedil.vision.models.heads.unet import UNet

__all__ = [
    "ASPP",
    "Degridding",
    "FCN8s",
    "LargeFOV",
    "NonLocal",
    "ParallelDilations",
    "PyramidPooling",
    "Conv1x1Head",
    "SummedASPP",
    "UNet",
]
