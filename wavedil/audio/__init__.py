"""Sound: the 1-D use of the core. WaveNet, generation, companding, files, data."""

from wavedil.audio.companding import mu_law_decode, mu_law_encode
from wavedil.audio.features import Features, LogMel
from wavedil.audio.generate import generate, stream
from wavedil.audio.io import read, write
from wavedil.audio.upsampling import NearestUpsampling, TransposedUpsampling
from wavedil.audio.wavenet import WaveNet
from wavedil.weights import load, save

__all__ = [
    "Features",
    "LogMel",
    "NearestUpsampling",
    "TransposedUpsampling",
    "WaveNet",
    "generate",
    "load",
    "mu_law_decode",
    "mu_law_encode",
    "read",
    "save",
    "stream",
    "write",
]
