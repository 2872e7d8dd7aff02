"""Training with Lightning: the parts that recipes name. Nothing else in the package imports Lightning."""

from wavedil.train.data import AudioData
from wavedil.train.module import AudioModule

__all__ = ["AudioData", "AudioModule"]
