"""Audio models, generation, effects, quantizers, features and audio files."""

from wavedil.audio.conditioning.features import Features, LogMel
from wavedil.audio.conditioning.upsampling import NearestUpsampling, TransposedUpsampling
from wavedil.audio.data.audio_files import read, write
from wavedil.audio.distributions.quantizers import mu_law_decode, mu_law_encode
from wavedil.audio.effects.live import LiveEffect
from wavedil.audio.effects.process import process_file
from wavedil.audio.generation.generate import generate, stream
from wavedil.audio.models.effect import Effect
from wavedil.audio.models.spectral import SpectralGenerator
from wavedil.audio.models.vocoder import Vocoder
from wavedil.audio.models.wavenet import WaveNet
from wavedil.weights import load, save

__all__ = [
    "Effect",
    "Features",
    "LiveEffect",
    "LogMel",
    "NearestUpsampling",
    "SpectralGenerator",
    "TransposedUpsampling",
    "Vocoder",
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
