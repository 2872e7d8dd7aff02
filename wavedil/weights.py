"""Model folders: ``config.json`` (the class's import path and arguments) and ``model.safetensors`` (the weights).

Loading never runs code from a folder: it builds only classes that are marked with :func:`register`, either in this
package or in a module that the program has already imported. A model may be made of parts: an argument that is an
instance of a registered class is stored as ``{"class": ..., "arguments": ...}``.
"""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wavedil.allocation import AllocationLimit, AllocationLimitError
from wavedil.errors import WavedilError
from wavedil.registry import build, check_registered, find_class, import_path, is_registered, register
from wavedil.renames import upgrade_config, upgrade_tensors

__all__ = ["check_savable", "load", "model_class", "register", "save", "with_article"]

FORMAT = 2
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save(model: nn.Module, folder: str | Path) -> Path:
    """Saves a model folder. The files are written next to it and moved into place, so no reader sees half a folder.

    An existing folder is replaced only if it is empty or holds a model folder's two files and nothing else.

    Raises:
        WavedilError: the class or a part is not registered, or the folder holds something else.
    """
    from safetensors.torch import save_file

    path = check_savable(model)
    place = Path(os.path.realpath(folder))  # a link stays, and its target is replaced
    _check_replaceable(place, folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
        save_file(tensors, beside / WEIGHTS)
        text = json.dumps({"format": FORMAT, "class": path, "arguments": model.config}, indent=2)
        (beside / CONFIG).write_text(text + "\n", encoding="utf-8")
        os.chmod(beside, 0o755)  # mkdtemp makes the folder private, and safetensors the file
        os.chmod(beside / WEIGHTS, 0o644)
        _replace(place, beside)
    finally:
        if beside.exists():
            _remove(beside)
    return Path(folder)


def check_savable(model: nn.Module) -> str:
    """Returns the import path of the model's class if :func:`load` could rebuild this model.

    Raises:
        WavedilError: the class or a part is not registered, or the recorded arguments build other weights than the
            model has (because a part was replaced after construction).
    """
    path = import_path(type(model))
    if not is_registered(type(model)):
        raise WavedilError(
            f"cannot save a {path}: its class is not registered; decorate it with wavedil.weights.register"
        )
    _check_plain(model.config, type(model).__name__)
    if not getattr(model, "_rebuilds", False):
        tensors = model.state_dict()
        with AllocationLimit(tensors):
            mismatch = _mismatch(build(path, model.config).state_dict(), tensors)
        if mismatch is not None:
            key, built, found = mismatch
            raise WavedilError(
                f"cannot save this {type(model).__name__}: {key} is {found} in the model and {built} in one that is "
                "built from its arguments; pass your own parts as arguments of a registered class"
            )
        model._rebuilds = True
    return path


def load(folder: str | Path, device: str = "cpu", expect: type | None = None) -> nn.Module:
    """Loads the model of a folder, in evaluation mode. The file's tensors must be exactly those of the model.

    Args:
        folder: as written by :func:`save`, e.g. RUN/model of a training run.
        device: where to put the model.
        expect: a class that the model must be an instance of; its ``title`` describes it in the error.

    Raises:
        WavedilError: a file is missing or malformed, or does not fit the other; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    path, weights = folder / CONFIG, folder / WEIGHTS
    name, arguments, old = _read_config(path)
    cls = find_class(name, path)
    if expect is not None and not issubclass(cls, expect):
        raise WavedilError(f"{folder} holds {with_article(cls)}: expected {getattr(expect, 'title', expect.__name__)}")
    if not issubclass(cls, nn.Module):
        raise WavedilError(f"{folder} holds {with_article(cls)}: expected a torch.nn.Module")
    check_registered(arguments, path)
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise WavedilError(f"{weights} cannot be read: {error}") from None
    try:
        with AllocationLimit(tensors):
            model = build(name, arguments)
    except AllocationLimitError:
        raise WavedilError(f"{weights} does not fit {path}: the arguments ask for far more weights") from None
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise WavedilError(f"{path}: cannot build {with_article(cls)} ({type(error).__name__}: {reason})") from None
    if old:
        tensors = upgrade_tensors(model, tensors)
    mismatch = _mismatch(model.state_dict(), tensors)
    if mismatch is not None:
        key, built, found = mismatch
        raise WavedilError(f"{weights} does not fit {path}: {key} is {found} in the file and {built} in the model")
    model.load_state_dict(tensors, strict=True)
    model._rebuilds = True
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise WavedilError(f"device {device!r} is not available here: {str(error).splitlines()[0]}") from None


def model_class(folder: str | Path) -> type[nn.Module]:
    """The class of a folder's model, without building the model.

    Raises:
        WavedilError: the folder has no readable ``config.json``, or the class is not registered.
    """
    path = Path(folder) / CONFIG
    return find_class(_read_config(path, warn=False)[0], path)


def with_article(cls: type) -> str:
    """A class's name in a sentence: "an Effect", "a WaveNet"."""
    return f"{'an' if cls.__name__[0] in 'AEIO' else 'a'} {cls.__name__}"


def _read_config(path: Path, warn: bool = True) -> tuple[Any, dict[str, Any], bool]:
    """The import path and arguments in a ``config.json``, and whether it has format 1."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format"]
        if version == 1:
            config = upgrade_config(config)
            if warn:
                logging.getLogger("wavedil").warning(
                    "%s has format 1: old names were replaced while loading; save the model to update the file", path
                )
        elif version != FORMAT:
            raise WavedilError(
                f"{path} has format {version!r}, this version reads up to {FORMAT}: use the version that wrote it"
            )
        return config["class"], dict(**config["arguments"]), version == 1
    except OSError as error:
        raise WavedilError(
            f"{path.parent} is not a model folder: cannot read {CONFIG} ({error.strerror}); give RUN/model of a run"
        ) from None
    except WavedilError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WavedilError(f"{path} is not a wavedil config ({type(error).__name__}: {error})") from None


def _check_replaceable(place: Path, folder: str | Path) -> None:
    """Raises WavedilError unless ``place`` is free, an empty folder, or a model folder without other files."""
    if not place.exists():
        return
    names = {path.name for path in place.iterdir()} if place.is_dir() else None
    if names == set():
        return
    try:
        if names is None or not names <= {CONFIG, WEIGHTS}:
            raise WavedilError("other files")
        _read_config(place / CONFIG, warn=False)
    except WavedilError:
        raise WavedilError(
            f"{folder} exists and is not a model folder with {CONFIG} and {WEIGHTS} only: choose another name; nothing "
            "was written"
        ) from None


def _replace(place: Path, beside: Path) -> None:
    """Moves the folder ``beside`` to ``place``, whose old files are removed."""
    if not place.exists():
        beside.rename(place)
        return
    # A folder cannot be replaced in one step: move the old one away, then the new one in.
    old = beside.with_name(beside.name + ".old")
    place.rename(old)
    try:
        beside.rename(place)
    except BaseException:
        old.rename(place)
        raise
    _remove(old)


def _remove(folder: Path) -> None:
    """Removes a model folder: its two files and the folder, never anything else."""
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, where)
    elif not (value is None or isinstance(value, str | int | float)):
        reason = getattr(value, "save_error", None) or (
            f"a {import_path(type(value))} is neither a plain value nor of a registered class; decorate its class with "
            "wavedil.weights.register"
        )
        raise WavedilError(f"cannot save {where}: {reason}")


def _mismatch(built: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[str, Any, Any] | None:
    """The first tensor whose shapes differ, as (name, shape built, shape found); None if all agree."""
    shapes = [{key: tuple(value.shape) for key, value in tensors.items()} for tensors in (built, found)]
    for key in sorted(shapes[0].keys() | shapes[1].keys()):
        one, other = (each.get(key, "missing") for each in shapes)
        if one != other:
            return key, one, other
    return None
