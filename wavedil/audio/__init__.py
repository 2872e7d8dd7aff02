"""Sound: the 1-D use of the core. WaveNet, generation, effects, companding, files, data."""

from wavedil.audio.companding import mu_law_decode, mu_law_encode
from wavedil.audio.effect import Effect
from wavedil.audio.features import Features, LogMel
from wavedil.audio.generate import generate, stream
from wavedil.audio.io import read, write
from wavedil.audio.live import LiveEffect
from wavedil.audio.process import process_file
from wavedil.audio.upsampling import NearestUpsampling, TransposedUpsampling
from wavedil.audio.wavenet import WaveNet
from wavedil.weights import load, save

__all__ = [
    "Effect",
    "Features",
    "LiveEffect",
    "LogMel",
    "NearestUpsampling",
    "TransposedUpsampling",
    "WaveNet",
    "generate",
    "load",
    "mu_law_decode",
    "mu_law_encode",
    "process_file",
    "read",
    "save",
    "stream",
    "write",
]
