"""Dense prediction on images: backbones, heads, context module, upsampling, and CRF."""

from typing import Any

from wavedil.renames import renamed_attribute
from wavedil.vision.boundary_f1 import BoundaryF1
from wavedil.vision.crf import CRFRNN, DenseCRF
from wavedil.vision.crf_inputs import Pairwise, position_features, unary_from_labels, unary_from_softmax
from wavedil.vision.data.augmentation import ClassBalance
from wavedil.vision.data.formats import (
    COCO,
    SBD,
    Cityscapes,
    ImageFormat,
    MapillaryVistas,
    OxfordPets,
    PascalVOC,
    TorchvisionDataset,
)
from wavedil.vision.data.images import read_image
from wavedil.vision.data.labels import LabelScheme
from wavedil.vision.data.palette import overlay
from wavedil.vision.data.patch_augmentation import PatchAugmentation
from wavedil.vision.data.volumes import Volume, read_label_volume, read_volume, write_label_volume
from wavedil.vision.dense import check_dense, to_dense
from wavedil.vision.exact_tiles import tile_exactly
from wavedil.vision.hausdorff import hausdorff_distance
from wavedil.vision.losses import (
    BinaryCrossEntropy,
    BoundaryLoss,
    CrossEntropy,
    Dice,
    FocalLoss,
    Lovasz,
    OHEMCrossEntropy,
    SmoothL1,
    Tversky,
    WeightedSum,
)
from wavedil.vision.metrics import ConfusionMatrix
from wavedil.vision.models.backbone import PixelUnshuffle, SmallBackbone
from wavedil.vision.models.context import ContextModule
from wavedil.vision.models.front_end import VGGFrontEnd, vgg16_front_end
from wavedil.vision.models.heads import (
    ASPP,
    Conv1x1Head,
    Degridding,
    FCN8s,
    FCNHead,
    LargeFOV,
    NonLocal,
    ParallelDilations,
    PyramidPooling,
    SummedASPP,
    SummedDilations,
    UNet,
)
from wavedil.vision.models.intensity import NormalizeIntensity, ScaleIntensityRange
from wavedil.vision.models.multilabel import MultilabelSegmenter
from wavedil.vision.models.regressor import Regressor
from wavedil.vision.models.segmenter import Segmenter
from wavedil.vision.models.timm_backbone import TimmBackbone
from wavedil.vision.models.upsample import LearnedUpsample, upsample
from wavedil.vision.models.volume_segmenter import VolumeSegmenter
from wavedil.vision.networks import dense_classifier
from wavedil.vision.prediction import estimate, predict
from wavedil.vision.rand import rand_score
from wavedil.vision.volume_prediction import label_volume
from wavedil.weights import load, save

__all__ = [
    "ASPP",
    "BinaryCrossEntropy",
    "BoundaryF1",
    "BoundaryLoss",
    "COCO",
    "CRFRNN",
    "Cityscapes",
    "ClassBalance",
    "ConfusionMatrix",
    "ContextModule",
    "Conv1x1Head",
    "CrossEntropy",
    "Degridding",
    "DenseCRF",
    "Dice",
    "FCN8s",
    "FCNHead",
    "FocalLoss",
    "OHEMCrossEntropy",
    "ImageFormat",
    "LabelScheme",
    "LargeFOV",
    "LearnedUpsample",
    "Lovasz",
    "MapillaryVistas",
    "MultilabelSegmenter",
    "NonLocal",
    "NormalizeIntensity",
    "OxfordPets",
    "Pairwise",
    "PascalVOC",
    "ParallelDilations",
    "PatchAugmentation",
    "PixelUnshuffle",
    "PyramidPooling",
    "Regressor",
    "SBD",
    "ScaleIntensityRange",
    "Segmenter",
    "SmallBackbone",
    "SmoothL1",
    "SummedASPP",
    "SummedDilations",
    "TimmBackbone",
    "TorchvisionDataset",
    "Tversky",
    "UNet",
    "VGGFrontEnd",
    "Volume",
    "VolumeSegmenter",
    "WeightedSum",
    "check_dense",
    "dense_classifier",
    "estimate",
    "hausdorff_distance",
    "label_volume",
    "load",
    "overlay",
    "position_features",
    "predict",
    "rand_score",
    "read_image",
    "read_label_volume",
    "read_volume",
    "save",
    "tile_exactly",
    "to_dense",
    "unary_from_labels",
    "unary_from_softmax",
    "upsample",
    "vgg16_front_end",
    "write_label_volume",
]


def __getattr__(name: str) -> Any:
    return renamed_attribute(__name__, name)
