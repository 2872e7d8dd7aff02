"""Segmentation heads: backbone features to class scores. One head per file.

Every head is built as ``Head(in_channels, num_classes, ...)``, so a recipe can swap heads by class name. The input is
one feature map ``(batch, in_channels, height, width)``, or a list of feature maps from fine to coarse; ``in_channels``
is then a list too. :class:`UNet` and :class:`FCN8s` need several maps and return scores at the resolution of a finer
one; the other heads read the last map and return scores at its resolution. The output is
``(batch, num_classes, height, width)``; :class:`wavedil.vision.Segmenter` upsamples it to pixels.
:class:`wavedil.vision.ContextModule` can also be used as a head, with its arguments by name.

``head.receptive_field`` is the receptive field of one score on the last map, in cells along each axis. It is None for
heads that see the full map (image pooling, attention): images cannot be split into tiles for these.
"""

from wavedil.vision.models.heads.aspp import ASPP, SummedASPP
from wavedil.vision.models.heads.conv1x1 import Conv1x1Head
from wavedil.vision.models.heads.degridding import Degridding
from wavedil.vision.models.heads.fcn import FCNHead
from wavedil.vision.models.heads.fcn8s import FCN8s
from wavedil.vision.models.heads.large_fov import LargeFOV
from wavedil.vision.models.heads.non_local import NonLocal
from wavedil.vision.models.heads.parallel_dilations import ParallelDilations, SummedDilations
from wavedil.vision.models.heads.pyramid_pooling import PyramidPooling
from wavedil.vision.models.heads.unet import UNet

__all__ = [
    "ASPP",
    "Conv1x1Head",
    "Degridding",
    "FCN8s",
    "FCNHead",
    "LargeFOV",
    "NonLocal",
    "ParallelDilations",
    "PyramidPooling",
    "SummedASPP",
    "SummedDilations",
    "UNet",
]
