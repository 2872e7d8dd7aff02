"""Model folders: ``config.json`` (the class's import path and arguments) and ``model.safetensors`` (the weights).

Loading never runs code from a folder: it builds classes that are marked with :func:`register`, either in this package
or in a module that the program has imported already, and nothing else. A model may be made of parts: an argument that
is itself an instance of a registered class is stored as ``{"class": ..., "arguments": ...}``.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wavedil.errors import WavedilError
from wavedil.renames import upgrade_config, upgrade_tensors

FORMAT = 2
Class = TypeVar("Class", bound=type)

#: Registered classes by import path.
_REGISTERED: dict[str, type] = {}


def register(cls: Class) -> Class:
    """Class decorator: model folders may name this class, and its instances record their arguments in ``config``.

    Use it for a network, backbone, head or other part of your own that is to be saved and loaded. The arguments of the
    constructor must be plain values (numbers, texts, lists, dictionaries) or instances of registered classes. A
    subclass that is to be saved is decorated as well. Before :func:`load` reads a folder that names your class, import
    the module that defines it; loading imports no modules but those of this package.
    """
    init, signature = cls.__init__, inspect.signature(cls.__init__)

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if type(self) is cls and "config" not in vars(self):  # a class may record what builds it by itself
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.config = {name: _plain(value) for name, value in list(bound.arguments.items())[1:]}

    cls.__init__ = __init__
    _REGISTERED[_path(cls)] = cls
    return cls


def save(model: nn.Module, folder: str | Path) -> Path:
    """Writes a model folder: written beside its place and renamed, so that a reader never sees half of one.

    Raises:
        WavedilError: a class that is not registered, or a folder that holds something else.
    """
    from safetensors.torch import save_file

    path = check_savable(model)
    folder = Path(folder)
    if folder.exists() and not (folder / "config.json").exists():
        raise WavedilError(f"{folder} exists and is not a model folder: choose another name; nothing was written")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
        save_file(tensors, beside / "model.safetensors")
        text = json.dumps({"format": FORMAT, "class": path, "arguments": model.config}, indent=2)
        (beside / "config.json").write_text(text + "\n", encoding="utf-8")
        os.chmod(beside, 0o755)  # mkdtemp makes the folder private, and safetensors the file
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


def check_savable(model: nn.Module) -> str:
    """The class's import path, if :func:`load` could build this model again.

    Raises:
        WavedilError: the class or a part is not registered, or the arguments build other weights than the model has
            (because a part was replaced after construction).
    """
    path = _path(type(model))
    if _REGISTERED.get(path) is not type(model):
        raise WavedilError(
            f"cannot save a {path}: its class is not registered; decorate it with wavedil.weights.register"
        )
    _check_plain(model.config, type(model).__name__)
    if not getattr(model, "_rebuilds", False):
        tensors = model.state_dict()
        with _AllocationLimit(tensors):
            wrong = _difference(_build(path, model.config).state_dict(), tensors)
        if wrong is not None:
            key, built, found = wrong
            raise WavedilError(
                f"cannot save this {type(model).__name__}: {key} is {found} in the model and {built} in one that is "
                "built from its arguments; a part of your own must be an argument of a registered class"
            )
        model._rebuilds = True
    return path


def load(folder: str | Path, device: str = "cpu", expect: type | None = None) -> nn.Module:
    """Builds the model of a folder, in evaluation mode. Every tensor must be there and fit; no other may be there.

    Args:
        folder: as :func:`save` wrote it; RUN/model of a run.
        device: where the model goes.
        expect: a class that the model must be an instance of; its ``title`` describes it in the error.

    Raises:
        WavedilError: naming the file, for whatever is missing, malformed or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    path = folder / "config.json"
    name, arguments, old = _read_config(path)
    cls = _registered(name, path)
    if expect is not None and not issubclass(cls, expect):
        raise WavedilError(f"{folder} holds a {cls.__name__}: expected {getattr(expect, 'title', expect.__name__)}")
    _check_parts(arguments, path)
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise WavedilError(f"{weights} cannot be read: {error}") from None
    if old:
        tensors = upgrade_tensors(name, tensors)
    try:
        with _AllocationLimit(tensors):
            model = _build(name, arguments)
    except _TooLarge:
        raise WavedilError(f"{weights} does not fit {path}: the arguments ask for far more weights") from None
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise WavedilError(
            f"{path}: these arguments build no {cls.__name__} ({type(error).__name__}: {error})"
        ) from None
    wrong = _difference(model.state_dict(), tensors)
    if wrong is not None:
        key, built, found = wrong
        raise WavedilError(f"{weights} does not fit {path}: {key} is {found} in the file, {built} by the config")
    model.load_state_dict(tensors, strict=True)
    model._rebuilds = True
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise WavedilError(f"device {device!r} is not available here: {str(error).splitlines()[0]}") from None


def _read_config(path: Path) -> tuple[Any, dict[str, Any], bool]:
    """Import path and arguments of a ``config.json``, and whether it is of format 1."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format"]
        if version == 1:
            config = upgrade_config(config)
            logging.getLogger("wavedil").warning(
                "%s has format 1: names are brought up to date while it is read; save the model again to keep them",
                path,
            )
        elif version != FORMAT:
            raise WavedilError(
                f"{path} has format {version!r}, this version reads up to {FORMAT}: use the version that wrote it"
            )
        return config["class"], dict(**config["arguments"]), version == 1
    except OSError as error:
        raise WavedilError(
            f"{path.parent} is not a model folder: cannot read config.json ({error.strerror}); give RUN/model of a run"
        ) from None
    except WavedilError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WavedilError(f"{path} is not a wavedil config ({type(error).__name__}: {error})") from None


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _registered(name: Any, path: Path) -> type:
    """The registered class of an import path; modules of this package are imported for it, and no others."""
    if isinstance(name, str) and name.startswith(("wavedil.audio.", "wavedil.vision.")) and name not in _REGISTERED:
        try:
            import_module(name.rpartition(".")[0])
        except ImportError:
            pass  # refused below
    if not isinstance(name, str) or name not in _REGISTERED:
        raise WavedilError(
            f"{path} names the class {name!r}, which is not registered: for a class of your own, import its module "
            "first (option --import of the shell)"
        )
    return _REGISTERED[name]


def _plain(value: Any) -> Any:
    """``value`` as JSON has it, copied; what JSON does not have stays as it is: :func:`check_savable` refuses it."""
    if type(value) is _REGISTERED.get(_path(type(value))):
        return {"class": _path(type(value)), "arguments": value.config}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, where)
    elif not (value is None or isinstance(value, str | int | float)):
        reason = getattr(value, "save_error", None) or (
            f"a {_path(type(value))} is neither a plain value nor of a registered class; decorate its class with "
            "wavedil.weights.register"
        )
        raise WavedilError(f"cannot save {where}: {reason}")


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"class", "arguments"}


def _check_parts(value: Any, path: Path) -> None:
    if _is_part(value):
        _registered(value["class"], path)
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_parts(item, path)


def _build(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """An instance of a registered class, its parts built first."""
    return _REGISTERED[name](**{key: _restored(value) for key, value in arguments.items()})


def _restored(value: Any) -> Any:
    if _is_part(value):
        return _build(value["class"], dict(**value["arguments"]))
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return value


def _difference(built: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[str, Any, Any] | None:
    """The first tensor whose shape differs: name, shape built, shape found; None where all are alike."""
    shapes = [{key: tuple(value.shape) for key, value in tensors.items()} for tensors in (built, found)]
    for key in sorted(shapes[0].keys() | shapes[1].keys()):
        one, other = (each.get(key, "not there") for each in shapes)
        if one != other:
            return key, one, other
    return None


class _TooLarge(WavedilError):
    pass


class _AllocationLimit(TorchFunctionMode):
    """Refuses to allocate far more numbers than ``tensors`` hold, before memory is asked for.

    (Building on the meta device would tell the shapes, too, but imports sympy and torch._dynamo, which takes seconds.)
    """

    SLACK = 2**25  # numbers, for buffers that are not stored

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        self.left = self.SLACK + 8 * sum(value.numel() for value in tensors.values())

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", None) in _FACTORIES:
            size = next((arg for arg in (*args, kwargs.get("size")) if isinstance(arg, list | tuple)), args)
            self.left -= math.prod(length for length in size if isinstance(length, int))
            if self.left < 0:
                raise _TooLarge(f"{tuple(size)} numbers are far more than the weights have")
        return func(*args, **kwargs)


_FACTORIES = {"empty", "empty_strided", "zeros", "ones", "full", "rand", "randn", "randint"}
_FACTORIES |= {"new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full"}
