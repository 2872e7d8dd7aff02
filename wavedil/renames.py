"""Names of earlier versions and their names today. No other module has the old ones.

Model folders of format 1 and recipes of version 0.1 are upgraded while they are read. Old command-line options are
refused with the new name.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wavedil.errors import WavedilError

if TYPE_CHECKING:
    from torch import Tensor, nn

_AUDIO, _VISION = "wavedil.audio.models", "wavedil.vision.models"

#: Class names in ``config.json`` of format 1, and the import paths of format 2.
CLASSES = {
    "WaveNet": f"{_AUDIO}.wavenet.WaveNet",
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

_TRAINING = {"average": "ema_decay", "decay": "lr_decay", "power": "lr_power", "backbone_rate": "backbone_lr_scale"}

#: Arguments by the class's name today, in model folders and recipes.
ARGUMENTS = {
    **dict.fromkeys(
        ("AudioModule", "EffectModule", "MusicModule", "SegmentationModule", "RegressionModule"), _TRAINING
    ),
    **dict.fromkeys(("AudioData", "EffectData", "SegmentationData", "RegressionData"), {"workers": "num_workers"}),
    "WaveNet": {"codes": "num_codes", "quantiser": "quantizer", "front_kernel_size": "input_kernel_size"},
    "Features": {"hop": "hop_length"},
    "LogMel": {"hop": "hop_length"},
    "Regressor": {"centre": "target_mean", "spread": "target_std"},
    "ASPP": {"rates": "dilations"},
    "SummedASPP": {"rates": "dilations"},
    "WeightedSum": {"factors": "weights"},
}

#: Public classes by the module that has them.
NAMES = {
    "wavedil.train": {"PairedModule": "EffectModule", "PairedData": "EffectData"},
    "wavedil.vision": {"Score": "Conv1x1Head", "Patches": "PixelUnshuffle"},
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

#: Classes in recipes, by name or by import path.
RECIPE_CLASSES = {
    "wavedil.audio.losses.Sum": "wavedil.audio.effects.losses.WeightedSum",
    "PairedModule": "EffectModule",
    "PairedData": "EffectData",
    "Score": "Conv1x1Head",
    "Patches": "PixelUnshuffle",
}

#: Modules in the class paths of recipes.
RECIPE_MODULES = {
    "wavedil.audio.effect": f"{_AUDIO}.effect",
    "wavedil.audio.features": "wavedil.audio.conditioning.features",
    "wavedil.audio.losses": "wavedil.audio.effects.losses",
    "wavedil.audio.relatives": _AUDIO,
    "wavedil.audio.upsampling": "wavedil.audio.conditioning.upsampling",
    "wavedil.audio.wavenet": f"{_AUDIO}.wavenet",
    "wavedil.vision.backbone": f"{_VISION}.backbone",
    "wavedil.vision.classifier": f"{_VISION}.timm_backbone",
    "wavedil.vision.context": f"{_VISION}.context",
    "wavedil.vision.frontend": f"{_VISION}.front_end",
    "wavedil.vision.heads": f"{_VISION}.heads",
    **{
        f"wavedil.train.{name}": "wavedil.train"
        for name in "data module music music_data paired paired_data regression_data segmentation_data".split()
    },
}

#: Command-line options.
OPTIONS = {"--resynthesise": "--resynthesize"}


def renamed_attribute(module: str, name: str) -> Any:
    """The public class that ``name`` of version 0.1 is now, with a FutureWarning: a module's ``__getattr__``."""
    new = NAMES[module].get(name)
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is now {module}.{new}", FutureWarning, stacklevel=3)
    return getattr(sys.modules[module], new)


def check_arguments(cls: type, names: Iterable[str]) -> None:
    """Raises WavedilError if a class of this package gets an argument by its name of version 0.1."""
    renamed = ARGUMENTS.get(cls.__name__, {}) if cls.__module__.startswith("wavedil.") else {}
    for name in renamed.keys() & set(names):
        raise WavedilError(f"{cls.__name__} has no argument {name}: it is now {renamed[name]}")


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` of format 1 as format 2. Unknown names stay as they are; the caller refuses them."""
    return {"format": 2} | _upgrade_part(config)


def upgrade_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model folder of format 1 under their names in ``model``."""
    renamed = dict(tensors)
    for place, module in model.named_modules():  # an outer module comes before its parts
        prefix = f"{place}." if place else ""
        for old, new in TENSORS.get(type(module).__name__, {}).items():
            for key in [key for key in renamed if key.startswith(prefix + old)]:
                renamed[prefix + new + key.removeprefix(prefix + old)] = renamed.pop(key)
    return renamed


def upgrade_recipe(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Renames the classes, arguments and values of a recipe or ``config.yaml`` of version 0.1.

    Returns:
        The recipe with the names of today, and one text ``"old -> new"`` for each renamed one.
    """
    notes: dict[str, None] = {}
    return _upgrade_node(config, None, None, notes), list(notes)


def upgrade_option(option: str, value: str, config: Mapping[str, Any]) -> tuple[str, str]:
    """Renames a command-line option ``--a.b.c`` of version 0.1 and its value.

    Args:
        option: with or without dashes.
        value: text of its value.
        config: the recipe with the names of today, which has the class of each part of the option.
    """
    node, names = config, []
    for name in option.lstrip("-").split("."):
        if name != "init_args":
            name = _arguments_of(_class_path(node)).get(name, name)
            arguments = node.get("init_args", node) if isinstance(node, Mapping) else {}
            node = arguments.get(name) if isinstance(arguments, Mapping) else None
        names.append(name)
    return option[: len(option) - len(option.lstrip("-"))] + ".".join(names), _upgrade_text(value, names[-1])


def _upgrade_node(node: Any, key: Any, class_path: str | None, notes: dict[str, None]) -> Any:
    """Upgrades a part of a recipe; ``class_path`` is the class whose arguments it holds."""
    if isinstance(node, Mapping):
        own_class, renames, upgraded = _class_path(node), _arguments_of(class_path), {}
        for name, value in node.items():
            new = renames.get(name, name)
            if new != name:
                notes[f"{name} -> {new}"] = None
            upgraded[new] = _upgrade_node(value, new, own_class if name == "init_args" else None, notes)
        return upgraded
    if isinstance(node, list):
        return [_upgrade_node(item, key, None, notes) for item in node]
    if isinstance(node, str):
        new = _upgrade_text(node, key)
        if new != node:
            notes[f"{node} -> {new}"] = None
        return new
    return node


def _class_path(node: Any) -> str | None:
    """The class that a part of a recipe names, as a text or in ``class_path``."""
    path = node.get("class_path") if isinstance(node, Mapping) else node
    return _upgrade_class(path) if isinstance(path, str) else None


def _arguments_of(class_path: str | None) -> dict[str, str]:
    return ARGUMENTS.get(class_path.rpartition(".")[2], {}) if class_path else {}


def _upgrade_text(text: str, key: Any) -> str:
    return VALUES.get(key, {}).get(text) or _upgrade_class(text)


def _upgrade_class(path: str) -> str:
    """The present import path of a class of this package. Other texts are returned unchanged."""
    if path in RECIPE_CLASSES:
        return RECIPE_CLASSES[path]
    module, _, name = path.rpartition(".")
    if not module.startswith("wavedil."):
        return path
    for old, new in RECIPE_MODULES.items():
        if module == old or module.startswith(f"{old}."):
            module = new + module.removeprefix(old) if new != "wavedil.train" else new
            break
    return f"{module}.{RECIPE_CLASSES.get(name, name)}"


def _upgrade_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A model or part of ``config.json``, ``{"model": ..., "arguments": ...}``, as in format 2."""
    name = part["model"]
    path = CLASSES.get(name, name) if isinstance(name, str) else name
    renames = _arguments_of(path if isinstance(path, str) else None)
    arguments = {renames.get(key, key): _upgrade_value(value, key) for key, value in part["arguments"].items()}
    return {"class": path, "arguments": arguments}


def _upgrade_value(value: Any, key: str | None = None) -> Any:
    if isinstance(value, str):
        return VALUES.get(key, {}).get(value, value)
    if isinstance(value, list):
        return [_upgrade_value(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"model", "arguments"} and isinstance(value["arguments"], Mapping):
        return _upgrade_part(value)
    return {name: _upgrade_value(item) for name, item in value.items()}
