"""Names that earlier versions used, and their names today. No other module knows the old ones.

Model folders of format 1 are upgraded while they are read. Old options of the shell are refused with the new name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_AUDIO, _VISION = "wavedil.audio.models", "wavedil.vision.models"

#: Class names in ``config.json`` of format 1, and the import paths of format 2.
CLASSES = {
    **{name: f"{_AUDIO}.wavenet.{name}" for name in ("WaveNet",)},
    "TCN": f"{_AUDIO}.tcn.TCN",
    "DiffWave": f"{_AUDIO}.diffwave.DiffWave",
    "LayerArray": f"{_AUDIO}.nam.LayerArray",
    "NAM": f"{_AUDIO}.nam.NAM",
    "ParallelWaveGANGenerator": f"{_AUDIO}.parallel_wavegan.ParallelWaveGANGenerator",
    "Separator": f"{_AUDIO}.conv_tasnet.Separator",
    "WN": f"{_AUDIO}.vits.WN",
    "Effect": f"{_AUDIO}.effect.Effect",
    **{name: f"wavedil.audio.conditioning.features.{name}" for name in ("Features", "LogMel")},
    **{
        name: f"wavedil.audio.conditioning.upsampling.{name}"
        for name in ("ImageUpsampling", "NearestUpsampling", "TransposedUpsampling")
    },
    "Segmenter": f"{_VISION}.segmenter.Segmenter",
    "Regressor": f"{_VISION}.regressor.Regressor",
    "CRFRNN": "wavedil.vision.crf.CRFRNN",
    "ContextModule": f"{_VISION}.context.ContextModule",
    "VGGFrontEnd": f"{_VISION}.front_end.VGGFrontEnd",
    "SmallBackbone": f"{_VISION}.backbone.SmallBackbone",
    "Patches": f"{_VISION}.backbone.PixelUnshuffle",
    "TimmBackbone": f"{_VISION}.timm_backbone.TimmBackbone",
    "ASPP": f"{_VISION}.heads.aspp.ASPP",
    "SummedASPP": f"{_VISION}.heads.aspp.SummedASPP",
    "Degridding": f"{_VISION}.heads.degridding.Degridding",
    "FCN8s": f"{_VISION}.heads.fcn8s.FCN8s",
    "LargeFOV": f"{_VISION}.heads.large_fov.LargeFOV",
    "NonLocal": f"{_VISION}.heads.non_local.NonLocal",
    "ParallelDilations": f"{_VISION}.heads.parallel_dilations.ParallelDilations",
    "PyramidPooling": f"{_VISION}.heads.pyramid_pooling.PyramidPooling",
    "Score": f"{_VISION}.heads.conv1x1.Conv1x1Head",
    "UNet": f"{_VISION}.heads.unet.UNet",
}

#: Arguments by the class's name today.
ARGUMENTS = {
    "WaveNet": {"codes": "num_codes", "quantiser": "quantizer", "front_kernel_size": "input_kernel_size"},
    "Features": {"hop": "hop_length"},
    "LogMel": {"hop": "hop_length"},
    "Regressor": {"centre": "target_mean", "spread": "target_std"},
    "ASPP": {"rates": "dilations"},
    "SummedASPP": {"rates": "dilations"},
    "WeightedSum": {"factors": "weights"},
}

#: Values of arguments.
VALUES = {"align": {"centre": "center"}}

#: Prefixes of tensor names by the name of the class that holds them today: a model, a part or an inner module.
TENSORS = {
    "WaveNet": {
        "front.": "input_embedding.",
        "conditioner.local.": "conditioner.upsampling.",
        "conditioner.voices.": "conditioner.speaker_embedding.",
    },
    "Effect": {"front.": "input_conv."},
    "DiffWave": {"front.": "input_conv.", "upsampler.layers.": "upsampling.convs."},
    "ParallelWaveGANGenerator": {"front.": "input_conv.", "upsampler.": "upsampling."},
    "Separator": {"front.": "input_conv."},
}


#: Options of the shell.
OPTIONS = {"--resynthesise": "--resynthesize"}


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` of format 1 as format 2. Unknown names stay as they are; the caller refuses them."""
    name = config["model"]
    path = CLASSES.get(name, name) if isinstance(name, str) else name
    arguments = {key: _upgrade_value(value) for key, value in config["arguments"].items()}
    return {"format": 2, "class": path, "arguments": _renamed_arguments(path, arguments)}


def upgrade_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model folder of format 1 under their names in ``model``."""
    renamed = dict(tensors)
    for place, module in model.named_modules():  # an outer module comes before its parts
        prefix = f"{place}." if place else ""
        for old, new in TENSORS.get(type(module).__name__, {}).items():
            for key in [key for key in renamed if key.startswith(prefix + old)]:
                renamed[prefix + new + key.removeprefix(prefix + old)] = renamed.pop(key)
    return renamed


def _upgrade_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_upgrade_value(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"model", "arguments"} and isinstance(value["arguments"], Mapping):
        upgraded = upgrade_config(value)
        return {key: upgraded[key] for key in ("class", "arguments")}
    return {key: _upgrade_value(item) for key, item in value.items()}


def _renamed_arguments(path: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    names = ARGUMENTS.get(path.rpartition(".")[2], {}) if isinstance(path, str) else {}
    renamed = {}
    for key, value in arguments.items():
        if isinstance(value, str):
            value = VALUES.get(key, {}).get(value, value)
        renamed[names.get(key, key)] = value
    return renamed
