"""Model folders: ``config.json`` (which class, which arguments) and ``model.safetensors``.

Loading never runs code from them. A model may be made of parts: an argument that is itself one of the classes below is
written as its own ``{"model": …, "arguments": …}``.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError

#: The classes that a folder may name, and the module each lives in. A name outside this table is refused.
MODELS = {
    "WaveNet": "wavedil.audio.models.wavenet",
    "TCN": "wavedil.audio.models.tcn",
    "DiffWave": "wavedil.audio.models.diffwave",
    "LayerArray": "wavedil.audio.models.nam",
    "NAM": "wavedil.audio.models.nam",
    "ParallelWaveGANGenerator": "wavedil.audio.models.parallel_wavegan",
    "Separator": "wavedil.audio.models.conv_tasnet",
    "WN": "wavedil.audio.models.vits",
    "Features": "wavedil.audio.conditioning.features",
    "LogMel": "wavedil.audio.conditioning.features",
    "ImageUpsampling": "wavedil.audio.conditioning.upsampling",
    "NearestUpsampling": "wavedil.audio.conditioning.upsampling",
    "TransposedUpsampling": "wavedil.audio.conditioning.upsampling",
    "Effect": "wavedil.audio.models.effect",
    "Segmenter": "wavedil.vision.models.segmenter",
    "CRFRNN": "wavedil.vision.crf",
    "ASPP": "wavedil.vision.models.heads.aspp",
    "ContextModule": "wavedil.vision.models.context",
    "Degridding": "wavedil.vision.models.heads.degridding",
    "FCN8s": "wavedil.vision.models.heads.fcn8s",
    "LargeFOV": "wavedil.vision.models.heads.large_fov",
    "NonLocal": "wavedil.vision.models.heads.non_local",
    "ParallelDilations": "wavedil.vision.models.heads.parallel_dilations",
    "Patches": "wavedil.vision.models.backbone",
    "Regressor": "wavedil.vision.models.regressor",
    "PyramidPooling": "wavedil.vision.models.heads.pyramid_pooling",
    "Score": "wavedil.vision.models.heads.score",
    "SmallBackbone": "wavedil.vision.models.backbone",
    "SummedASPP": "wavedil.vision.models.heads.aspp",
    "TimmBackbone": "wavedil.vision.models.timm_backbone",
    "UNet": "wavedil.vision.models.heads.unet",
    "VGGFrontEnd": "wavedil.vision.models.front_end",
}
FORMAT = 1


def recorded(build: type) -> type:
    """Class decorator: an instance keeps the arguments that build it again, as plain values, in ``config``.

    The signature is the constructor's own. A subclass that is to be saved is decorated as well.
    """
    init, signature = build.__init__, inspect.signature(build.__init__)

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if type(self) is build:
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.config = {name: _plain(value) for name, value in list(bound.arguments.items())[1:]}

    build.__init__ = __init__
    return build


def _plain(value: Any) -> Any:
    """``value`` as JSON has it, copied; what JSON does not have stays as it is: :func:`check_saveable` refuses it."""
    if isinstance(value, nn.Module) and MODELS.get(type(value).__name__) == type(value).__module__:
        return {"model": type(value).__name__, "arguments": value.config}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def save(model: nn.Module, folder: str | Path) -> Path:
    """Writes a model folder; written beside and renamed, so that a reader never sees half of one.

    ``model`` is one of this package's models; its ``config`` holds the arguments that build it again.
    """
    from safetensors.torch import save_file

    name = check_saveable(model)
    folder = Path(folder)
    if folder.exists() and not (folder / "config.json").exists():
        raise WavedilError(f"{folder} exists and is no model folder: choose another name, nothing was written")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        save_file(tensors, beside / "model.safetensors")
        text = json.dumps({"format": FORMAT, "model": name, "arguments": model.config}, indent=2)
        (beside / "config.json").write_text(text + "\n", encoding="utf-8")
        os.chmod(beside, 0o755)  # mkdtemp makes it private, and safetensors the file
        os.chmod(beside / "model.safetensors", 0o644)
        if folder.exists():
            # A folder cannot be replaced in one step: move the old one away, then the new one in.
            old = beside.with_name(beside.name + ".old")
            folder.rename(old)
            try:
                beside.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
            shutil.rmtree(old)
        else:
            beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return folder


def check_saveable(model: nn.Module) -> str:
    """The name that a model folder gives to this model's class; WavedilError where it or a part of it has none."""
    name = type(model).__name__
    if MODELS.get(name) != type(model).__module__:
        raise WavedilError(f"cannot save a {type(model).__module__}.{name}: expected one of {', '.join(MODELS)}")
    _check_plain(model.config, name)
    return name


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, where)
    elif not (value is None or isinstance(value, str | int | float)):
        raise WavedilError(
            f"cannot save {where}: it is a {type(value).__module__}.{type(value).__name__}, expected a plain value or "
            f"one of {', '.join(MODELS)}"
        )


def domain(name: str) -> str:
    """The part of the package that a model's class is of: ``audio`` or ``vision``."""
    return MODELS[name].split(".")[1]


def load(folder: str | Path, device: str = "cpu", expect: str | None = None) -> nn.Module:
    """Builds the model of a folder, in evaluation mode. Every tensor must be there and fit; nothing else may be.

    ``expect``: ``audio`` or ``vision``, where a model of the other domain is of no use.

    Raises:
        WavedilError: naming the file, for whatever is missing, malformed or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        name, arguments, version = config["model"], dict(**config["arguments"]), config["format"]
    except OSError as error:
        raise WavedilError(
            f"{folder} is no model folder: cannot read config.json ({error.strerror}); give RUN/model of a run"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise WavedilError(f"{path} is not a wavedil config ({type(error).__name__}: {error})") from None
    if version != FORMAT:
        raise WavedilError(
            f"{path} has format {version!r}, this version reads {FORMAT}: use the version of wavedil that wrote it"
        )
    _check_names({"model": name, "arguments": arguments}, path)
    if expect not in (None, domain(name)):
        raise WavedilError(f"{folder} holds a {name}, a model of {domain(name)}: expected one of {expect}")
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
        with torch.device("meta"):  # shapes only: absurd sizes are found before memory is asked for
            shapes = _build(name, arguments).state_dict()
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise WavedilError(f"{path}: these arguments build no {name} ({type(error).__name__}: {error})") from None
    except (OSError, SafetensorError) as error:
        raise WavedilError(f"{weights} cannot be read: {error}") from None
    wrong = sorted(key for key in shapes.keys() | tensors.keys() if _shape(shapes, key) != _shape(tensors, key))
    if wrong:
        raise WavedilError(
            f"{weights} does not fit {path}: {wrong[0]} is {_shape(tensors, wrong[0])} in the file, "
            f"{_shape(shapes, wrong[0])} by the config ({len(wrong)} such)"
        )
    model = _build(name, arguments)
    model.load_state_dict(tensors, strict=True)
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise WavedilError(f"device is {device!r}, which is not to be had here: {str(error).splitlines()[0]}") from None


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"model", "arguments"}


def _check_names(value: Any, path: Path) -> None:
    if _is_part(value) and not (isinstance(value["model"], str) and value["model"] in MODELS):
        raise WavedilError(f"{path} names the model {value['model']!r}: expected one of {', '.join(MODELS)}")
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_names(item, path)


def _build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The model of a class of the table, its parts first."""
    return getattr(import_module(MODELS[name]), name)(**{key: _restored(value) for key, value in arguments.items()})


def _restored(value: Any) -> Any:
    if _is_part(value):
        return _build(value["model"], dict(**value["arguments"]))
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return value


def _shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...] | str:
    return tuple(tensors[key].shape) if key in tensors else "not there"
