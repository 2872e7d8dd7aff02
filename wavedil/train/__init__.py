"""Training with Lightning: the modules and data modules of the recipes. Only this package imports Lightning."""

from typing import Any

from wavedil.renames import renamed_attribute
from wavedil.train.data import TrainingData
from wavedil.train.divergence import RestartOnDivergence
from wavedil.train.effect import EffectData, EffectModule
from wavedil.train.module import MetricNames, TrainingModule
from wavedil.train.multilabel import MultilabelData, MultilabelModule
from wavedil.train.piano_roll import MusicData, MusicModule
from wavedil.train.regression import RegressionData, RegressionModule
from wavedil.train.segmentation import SegmentationModule
from wavedil.train.segmentation_data import SegmentationData
from wavedil.train.sharding import FSDP
from wavedil.train.sound import AudioData, AudioModule
from wavedil.train.sparsity import BlockSparsity
from wavedil.train.vocoder import VocoderData, VocoderModule
from wavedil.train.volumes import VolumeData, VolumeModule

__all__ = [
    "AudioData",
    "AudioModule",
    "BlockSparsity",
    "EffectData",
    "EffectModule",
    "FSDP",
    "MetricNames",
    "MultilabelData",
    "MultilabelModule",
    "MusicData",
    "MusicModule",
    "RegressionData",
    "RegressionModule",
    "RestartOnDivergence",
    "SegmentationData",
    "SegmentationModule",
    "TrainingData",
    "TrainingModule",
    "VocoderData",
    "VocoderModule",
    "VolumeData",
    "VolumeModule",
]


def __getattr__(name: str) -> Any:
    return renamed_attribute(__name__, name)
