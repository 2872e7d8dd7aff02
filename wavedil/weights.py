"""Model folders: ``config.json`` (the class's import path and arguments) and ``model.safetensors`` (the weights).

Loading never runs code from a folder: it builds only classes that are marked with :func:`register`, either in this
package or in a module that the program has already imported. A model may be made of parts: an argument that is an
instance of a registered class is stored as ``{"class": ..., "arguments": ...}``.
"""

import importlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from wavedil.allocation import AllocationLimit, AllocationLimitError
from wavedil.core.schema import AnyPath, checked
from wavedil.device import check_device
from wavedil.errors import WavedilError, shortened, shown, with_article
from wavedil.files import check_regular_file
from wavedil.outputs import check_folder_name
from wavedil.packaged import READERS, check_not_an_address, find_model, is_file_of_another_program, missing_model
from wavedil.registry import (
    build,
    check_nesting,
    check_registered,
    class_of,
    find_class,
    import_path,
    is_registered,
    register,
)
from wavedil.renames import upgrade_config, upgrade_tensors
from wavedil.trusted import trust
from wavedil.writing import (
    errors_name,
    flush_to_disk,
    folder_leftovers,
    is_being_replaced,
    make_folder,
    replace_folder,
    temporary_beside,
)

__all__ = ["check_savable", "load", "model_class", "register", "save", "with_article"]

T = TypeVar("T")

FORMAT = 2
CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_CONFIG = 2**22  # characters
MAX_READ = 2**28  # bytes of a file of weights that is read; a larger one is mapped


@checked
def save(model: nn.Module, folder: AnyPath, *, half: bool = False) -> Path:
    """Saves a model folder: ``config.json`` and ``model.safetensors``.

    The folder is written under a temporary name and then renamed, so no reader sees an incomplete folder.

    An existing folder is replaced only if it is empty or has nothing but the two files of a model folder. On Linux it
    is replaced atomically.

    Args:
        half: store the weights as float16. They are loaded as float32.

    Raises:
        WavedilError: the class or a part is not registered, the folder holds something else or is new and named like a
            file (``model.pt``), or a weight exceeds the range of float16.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    example = os.path.splitext(folder)[0]
    check_folder_name("folder", folder, f", e.g. {example}, or a file of `wavedil export`, e.g. {example}.onnx")
    path = check_savable(model)
    place = Path(os.path.realpath(folder))  # a link stays, and its target is replaced
    _check_replaceable(place, folder)
    make_folder(place.parent)
    with errors_name(place), temporary_beside(place, is_folder=True) as beside:
        try:
            # Cloned, because safetensors refuses tensors that share memory, as tied weights do.
            tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
            if half:
                tensors = {key: _half(key, value) for key, value in tensors.items()}
            try:
                save_file(tensors, beside / WEIGHTS)
            except SafetensorError as error:  # e.g. a full disk
                raise WavedilError(f"{folder} cannot be written: {error}") from None
            text = json.dumps({"format": FORMAT, "class": path, "arguments": model.config}, indent=2)
            if len(text) > MAX_CONFIG:
                raise WavedilError(
                    f"cannot save {with_article(model)}: its arguments have {len(text)} characters, "
                    f"expected at most {MAX_CONFIG}"
                )
            (beside / CONFIG).write_text(text + "\n", encoding="utf-8")
            os.chmod(beside / WEIGHTS, 0o644)  # safetensors makes it private
            for written in (beside / WEIGHTS, beside / CONFIG, beside):
                flush_to_disk(written)
            replace_folder(place, beside)
            if beside.is_dir() and not _has_only_a_model(beside):  # a file was added since the check above
                replace_folder(place, beside)
                _check_replaceable(place, folder)
            flush_to_disk(place.parent)
        finally:
            _remove(beside)
    for leftover in folder_leftovers(place):
        _remove(leftover)
    return Path(folder)


def check_savable(model: nn.Module) -> str:
    """Returns the import path of the model's class if :func:`load` could rebuild this model.

    Raises:
        WavedilError: the class or a part is not registered, or the recorded arguments build other modules or weights
            than the model has (because a part was replaced after construction).
    """
    path = import_path(class_of(model))
    if not is_registered(class_of(model)):
        raise WavedilError(
            f"cannot save a {path}: its class is not registered; decorate it with wavedil.weights.register"
        )
    _check_plain(model.config, type(model).__name__)
    structure = _structure(model)
    if getattr(model, "_savable_structure", None) != structure:  # building it again takes time
        with AllocationLimit(model.state_dict()):
            built = _structure(build(path, model.config))
        if built != structure:
            key = next(key for key in sorted(built.keys() | structure.keys()) if built.get(key) != structure.get(key))
            built, found = (each.get(key, "missing") for each in (built, structure))
            raise WavedilError(
                f"cannot save this {type(model).__name__}: {key} is {found} in the model and {built} in one that is "
                "built from its arguments; pass your own parts as arguments of a registered class"
            )
        model._savable_structure = structure
    return path


@checked
def load(
    folder: AnyPath,
    device: str | torch.device = "cpu",
    expect: type | None = None,
    *,
    imports: Sequence[str] = (),
) -> nn.Module:
    """Loads a model in evaluation mode. The weights must match the model exactly.

    Args:
        folder: as written by :func:`save`, e.g. RUN/model of a training run; a ``.nam`` file of Neural Amp Modeler; or
            the name of a model of this package (``wavedil models`` lists them), unless there is a folder of that name.
        device: where to put the model.
        expect: a class that the model must be an instance of; its ``title`` describes it in the error.
        imports: modules of yours that are imported first; the folder may then name any ``nn.Module`` that they define.

    Raises:
        WavedilError: a file is missing or malformed, or does not fit the other; the message names it.
    """
    from safetensors import SafetensorError

    device = check_device(device)
    trust(imports)
    check_not_an_address(folder)
    folder = find_model(folder)
    if is_file_of_another_program(folder):
        model = _read_file(folder)
        _check_class(type(model), folder, expect)
        return model.to(device)
    path, weights = folder / CONFIG, folder / WEIGHTS

    def read() -> tuple[Any, dict[str, Any], bool, dict[str, Tensor]]:
        config = _read_config(path)
        check_regular_file(weights, "the weights of a model")
        try:
            return *config, _read_tensors(weights)
        except (OSError, SafetensorError) as error:
            raise WavedilError(f"{weights} cannot be read: {error}") from None

    name, arguments, old, tensors = _read_one_version(folder, read)
    cls = find_class(name, path)
    _check_class(cls, folder, expect)
    check_registered({"class": name, "arguments": arguments}, path)
    if old:
        logging.getLogger("wavedil").warning(
            "%s has format 1: old names were replaced while loading; save the model to update the file", path
        )
    try:
        with AllocationLimit(tensors):
            model = build(name, arguments)
    except AllocationLimitError:
        raise WavedilError(f"{weights} does not fit {path}: the arguments ask for far more weights") from None
    except WavedilError as error:
        raise WavedilError(f"{path}: cannot build {with_article(cls)}: {shortened(str(error))}") from None
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        reason = shortened(" ".join(str(error).split()))
        raise WavedilError(f"{path}: cannot build {with_article(cls)} ({type(error).__name__}: {reason})") from None
    if old:
        tensors = upgrade_tensors(model, tensors)
    mismatch = _mismatch(model.state_dict(), tensors)
    if mismatch is not None:
        key, built, found = mismatch
        raise WavedilError(f"{weights} does not fit {path}: {key} is {found} in the file and {built} in the model")
    model.load_state_dict(tensors, strict=True)
    model._savable_structure = _structure(model)
    return model.to(device).eval()


def model_class(folder: str | Path) -> type[nn.Module]:
    """The class of a folder's model, without building the model. A ``.nam`` file is read completely.

    Raises:
        WavedilError: the folder has no readable ``config.json``, or the class is not registered.
    """
    check_not_an_address(folder)
    if is_file_of_another_program(folder):
        return type(_read_file(Path(folder)))
    path = find_model(folder) / CONFIG
    return find_class(_read_one_version(path.parent, lambda: _read_config(path))[0], path)


def _read_file(path: Path) -> nn.Module:
    check_regular_file(path, f"a {path.suffix} file")
    module, _, name = READERS[path.suffix.lower()].rpartition(".")
    return getattr(importlib.import_module(module), name)(path)


def _check_class(cls: type, folder: Path, expect: type | None) -> None:
    if expect is not None and not issubclass(cls, expect):
        raise WavedilError(f"{folder} holds {with_article(cls)}: expected {getattr(expect, 'title', expect.__name__)}")
    if not issubclass(cls, nn.Module):
        raise WavedilError(f"{folder} holds {with_article(cls)}: expected a torch.nn.Module")


def _read_one_version(folder: Path, read: Callable[[], T]) -> T:
    """Returns what ``read`` returns, called again while another process replaces the folder."""
    place = Path(os.path.realpath(folder))
    for attempt in range(200):
        before = _version(folder)
        try:
            result, error = read(), None
        except WavedilError as raised:
            result, error = None, raised
        # Where folders cannot be exchanged in one step, there is a moment without one.
        is_moving = None in before and attempt < 20 and is_being_replaced(place)
        if _version(folder) == before and not is_moving:
            break
        time.sleep(0.005)
    else:
        error = WavedilError(f"{folder} changes all the time: wait for the process that writes it")
    if error is not None:
        raise error
    return result


def _version(folder: Path) -> list[tuple[int, ...] | None]:
    """Identity of a folder's two files: it changes when the folder is replaced or a file is written."""
    found: list[tuple[int, ...] | None] = []
    for name in (CONFIG, WEIGHTS):
        try:
            stat = os.stat(folder / name)
            found.append((stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        except (OSError, ValueError):
            found.append(None)
    return found


def _read_config(path: Path) -> tuple[Any, dict[str, Any], bool]:
    """The import path and arguments in a ``config.json``, and whether it has format 1."""
    check_regular_file(path, "the config of a model")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CONFIG + 1)
        if len(text) > MAX_CONFIG:
            raise WavedilError(f"{path} is longer than {MAX_CONFIG} characters: expected the config of a model")
        config = json.loads(text)
        if not isinstance(config, dict) or "format" not in config:
            raise WavedilError(f"{path} is not a wavedil config: expected a dictionary with the key format")
        version = config["format"]
        if version == 1:
            config = upgrade_config(config)
        elif version != FORMAT:
            raise WavedilError(
                f"{path} has format {shown(version)}, this version reads up to {FORMAT}: use the version that wrote it"
            )
        if config.keys() != {"format", "class", "arguments"}:
            keys = ", ".join(map(shown, config))
            raise WavedilError(f"{path} is not a wavedil config: it has {keys}, expected format, class and arguments")
        return config["class"], config["arguments"], version == 1
    except OSError as error:
        if not path.parent.exists():
            raise WavedilError(missing_model(path.parent)) from None
        inner = path.parent / "model"
        model = inner if (inner / CONFIG).is_file() else "RUN/model of a run"
        if path.parent.is_file():
            model = (
                f"the folder that `wavedil convert {path.parent} FOLDER` makes of it, if it is another program's model"
            )
        raise WavedilError(
            f"{path.parent} is not a model folder: cannot read {CONFIG} ({error.strerror}); give {model}"
        ) from None
    except WavedilError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WavedilError(f"{path} is not a wavedil config ({type(error).__name__}: {error})") from None


def _half(key: str, value: Tensor) -> Tensor:
    """Floating-point numbers as float16; integers unchanged."""
    if not value.is_floating_point():
        return value
    found = value.half()
    if not torch.equal(torch.isfinite(found), torch.isfinite(value)):
        raise WavedilError(f"half: {key} has numbers above 65504, the largest of float16; save it without half")
    return found


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load, load_file

    # load_file maps the file, and leaks 3 to 6 KB a call (safetensors 0.8): too much for a program that loads often.
    return load(path.read_bytes()) if path.stat().st_size <= MAX_READ else load_file(path)


def _check_replaceable(place: Path, folder: str | Path) -> None:
    """Raises WavedilError unless ``place`` is free, an empty folder, or a model folder without other files."""

    def check() -> None:
        try:
            names = set(os.listdir(place))
            if names:
                _read_config(place / CONFIG)
            if names <= {CONFIG, WEIGHTS}:
                return
        except FileNotFoundError:
            return
        except (OSError, WavedilError):
            pass
        raise WavedilError(
            f"{folder} exists and is not a model folder with {CONFIG} and {WEIGHTS} only: choose another name; nothing "
            "was written"
        )

    _read_one_version(place, check)


def _has_only_a_model(folder: Path) -> bool:
    try:
        return set(os.listdir(folder)) <= {CONFIG, WEIGHTS}
    except FileNotFoundError:  # another saver has removed it
        return True


def _remove(folder: Path) -> None:
    """Removes a folder if it holds nothing but a model folder's two files."""
    with suppress(FileNotFoundError):  # after the exchange, another saver may remove it as well
        names = os.listdir(folder)
        # safetensors writes to .tmpXXXXXX first
        if all(name in (CONFIG, WEIGHTS) or re.fullmatch(r"\.tmp\w{6}", name) for name in names):
            for name in names:
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    check_nesting(depth, f"cannot save {where.partition('.')[0]}")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, where, depth + 1)
    elif not (value is None or isinstance(value, str | int | float)):
        reason = getattr(value, "save_error", None) or (
            f"{import_path(type(value))} is neither a plain value nor of a registered class; decorate its class with "
            "wavedil.weights.register"
        )
        raise WavedilError(f"cannot save {where}: {reason}")


def _structure(model: nn.Module) -> dict[str, str | tuple[int, ...]]:
    """The class of each module and the shape of each tensor, by name."""
    modules = {f"module {name}": type(module).__qualname__ for name, module in model.named_modules()}
    return modules | {key: tuple(value.shape) for key, value in model.state_dict().items()}


def _mismatch(built: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[str, Any, Any] | None:
    """The first tensor whose shapes differ, as (name, shape built, shape found); None if all agree."""
    shapes = [{key: tuple(value.shape) for key, value in tensors.items()} for tensors in (built, found)]
    for key in sorted(shapes[0].keys() | shapes[1].keys()):
        one, other = (each.get(key, "missing") for each in shapes)
        if one != other:
            return key, one, other
    return None
