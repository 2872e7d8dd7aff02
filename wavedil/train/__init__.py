"""Training with Lightning: the parts that recipes name. Nothing else in the package imports Lightning."""

from wavedil.train.effect import EffectModule
from wavedil.train.effect_data import EffectData
from wavedil.train.piano_roll import MusicModule
from wavedil.train.piano_roll_data import MusicData
from wavedil.train.regression import RegressionModule
from wavedil.train.regression_data import RegressionData
from wavedil.train.segmentation import SegmentationModule
from wavedil.train.segmentation_data import SegmentationData
from wavedil.train.sound import AudioModule
from wavedil.train.sound_data import AudioData

__all__ = [
    "AudioData",
    "AudioModule",
    "MusicData",
    "MusicModule",
    "EffectData",
    "EffectModule",
    "RegressionData",
    "RegressionModule",
    "SegmentationData",
    "SegmentationModule",
]
