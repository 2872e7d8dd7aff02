"""Training with Lightning: the parts that recipes name. Nothing else in the package imports Lightning."""

from wavedil.train.data import AudioData
from wavedil.train.module import AudioModule
from wavedil.train.music import MusicModule
from wavedil.train.music_data import MusicData
from wavedil.train.paired import PairedModule
from wavedil.train.paired_data import PairedData
from wavedil.train.regression import RegressionModule
from wavedil.train.regression_data import RegressionData
from wavedil.train.segmentation import SegmentationModule
from wavedil.train.segmentation_data import SegmentationData

__all__ = [
    "AudioData",
    "AudioModule",
    "MusicData",
    "MusicModule",
    "PairedData",
    "PairedModule",
    "RegressionData",
    "RegressionModule",
    "SegmentationData",
    "SegmentationModule",
]
