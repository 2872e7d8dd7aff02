"""``.nam`` files of Neural Amp Modeler: JSON with a config and one flat list of weights.

Reads file versions 0.5.x to 0.7.0: WaveNet, LSTM, ConvNet, Linear, and SlimmableContainer with several of them. Writes
0.7.0, or 0.5.4 for older programs. NAM starts from zero *input* rather than zero history, so the models have
``start="zero_input"``. Where neural-amp-modeler 0.13 and its C++ core differ, the Python package decides.
"""

from wavedil.interop.nam.reader import read_nam
from wavedil.interop.nam.writer import VERSIONS, write_nam

__all__ = ["VERSIONS", "read_nam", "write_nam"]
