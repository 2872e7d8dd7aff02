"""Model folders: ``config.json`` (which class, which arguments) and ``model.safetensors``.

Loading never runs code from them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError

#: The classes that a folder may name, and the module each lives in. A name outside this table is refused.
MODELS = {"WaveNet": "wavedil.audio.wavenet"}
FORMAT = 1


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
        os.chmod(beside, 0o755)  # mkdtemp makes it private
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
    """The name that a model folder gives to this model's class; WavedilError where it has none."""
    name = type(model).__name__
    if MODELS.get(name) != type(model).__module__:
        raise WavedilError(f"cannot save a {type(model).__module__}.{name}: expected one of {', '.join(MODELS)}")
    return name


def load(folder: str | Path, device: str = "cpu") -> nn.Module:
    """Builds the model of a folder, in evaluation mode. Every tensor must be there and fit; nothing else may be.

    Raises:
        WavedilError: naming the file, for whatever is missing, malformed or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        name, arguments, version = config["model"], config["arguments"], config["format"]
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
    if not isinstance(name, str) or name not in MODELS:
        raise WavedilError(f"{path} names the model {name!r}: expected one of {', '.join(MODELS)}")
    weights = folder / "model.safetensors"
    build = getattr(import_module(MODELS[name]), name)
    try:
        tensors = load_file(weights)
        with torch.device("meta"):  # shapes only: absurd sizes are found before memory is asked for
            shapes = build(**arguments).state_dict()
    except (TypeError, ValueError, RuntimeError) as error:
        raise WavedilError(f"{path}: these arguments build no {name}: {error}") from None
    except (OSError, SafetensorError) as error:
        raise WavedilError(f"{weights} cannot be read: {error}") from None
    wrong = sorted(key for key in shapes.keys() | tensors.keys() if _shape(shapes, key) != _shape(tensors, key))
    if wrong:
        raise WavedilError(
            f"{weights} does not fit {path}: {wrong[0]} is {_shape(tensors, wrong[0])} in the file, "
            f"{_shape(shapes, wrong[0])} by the config ({len(wrong)} such)"
        )
    model = build(**arguments)
    model.load_state_dict(tensors, strict=True)
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise WavedilError(f"device is {device!r}, which is not to be had here: {str(error).splitlines()[0]}") from None


def _shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...] | str:
    return tuple(tensors[key].shape) if key in tensors else "not there"
