"""Neural Amp Modeler: the networks of its ``.nam`` files, from an instrument's dry sound to the sound of an amplifier.

They are those of Steven Atkinson's neural-amp-modeler 0.13. :class:`NAM` is its ``WaveNet``, which follows Wright et
al. 2020, "Real-time guitar amplifier emulation with deep learning", Applied Sciences 10(3). ``wavedil.interop.nam``
reads and writes the files.
"""

from wavedil.audio.models.nam.array import LayerArray
from wavedil.audio.models.nam.container import NAMContainer
from wavedil.audio.models.nam.model import NAM, PostHead
from wavedil.audio.models.nam.others import NAMLSTM, NAMConvNet, NAMLinear

__all__ = ["NAM", "LayerArray", "NAMConvNet", "NAMContainer", "NAMLSTM", "NAMLinear", "PostHead"]
