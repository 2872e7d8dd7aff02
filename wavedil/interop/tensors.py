"""Named tensors of other programs: read without running code, weight norm folded, every one accounted for."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError

#: How the two spellings of weight norm name direction and length, and which is which.
NORMS = ((".weight_v", ".weight_g"), (".parametrizations.weight.original1", ".parametrizations.weight.original0"))
#: Under which names training scripts keep the tensors of the model within a checkpoint.
NESTS = ("state_dict", "model_state_dict", "model", "generator")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: ``.safetensors``, or what ``torch.save`` wrote, read with ``weights_only``.

    A dictionary inside that is called state_dict, model or generator is taken; a ``module.`` in front of all names
    (of data-parallel training) is left out.

    Raises:
        WavedilError: a file that cannot be read so.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except OSError as error:
        raise WavedilError(f"{path} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise WavedilError(f"{path} is no whole safetensors file: {error}") from None
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        nested = next((name for name in NESTS if isinstance(content.get(name), Mapping)), None)
        if nested is None:
            break
        content = content[nested]
    if not isinstance(content, Mapping):
        raise WavedilError(f"{path} holds a {type(content).__name__}: expected a dictionary of tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WavedilError(f"{path} holds no tensors by name: expected a state_dict")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _unpickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols it may not know: where it fails, that is told below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        # Not in torch's words, which advise to let the file run code.
        raise WavedilError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}): save its state_dict with torch.save or "
            "safetensors in the program that wrote it"
        ) from None


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with each pair of weight norm replaced by its weight: v * g / norm of v, both spellings."""
    folded = dict(tensors)
    for direction, length in NORMS:
        for name in [name for name in tensors if name.endswith(direction)]:
            stem = name.removesuffix(direction)
            if stem + length not in tensors:
                raise WavedilError(f"there is {name} without {stem + length}: expected both of weight norm")
            v, g = folded.pop(name), folded.pop(stem + length)
            axes = [axis for axis in range(v.ndim) if g.ndim != v.ndim or g.shape[axis] == 1]
            folded[stem + ".weight"] = v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
    return folded


class Source:
    """Tensors that are taken one by one; in the end none may be left.

    Args:
        tensors: by name; weight norm is folded.
        what: whose tensors they should be, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], what: str):
        self.left, self.what = fold_weight_norm(tensors), what

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str) -> Tensor:
        if name not in self.left:
            raise WavedilError(f"there is no {name}: expected the tensors of {self.what}")
        value = self.left.pop(name)
        if not bool(torch.isfinite(value).all()):
            raise WavedilError(f"{name} holds NaN or infinity: expected the weights of a training that went well")
        return value

    def shape(self, name: str) -> torch.Size:
        """That of a tensor that is there, without taking it."""
        if name not in self.left:
            raise WavedilError(f"there is no {name}: expected the tensors of {self.what}")
        return self.left[name].shape

    def conv(self, name: str) -> dict[str, Tensor]:
        """``weight`` and, where there is one, ``bias`` of a convolution or linear layer."""
        bias = {"bias": self.take(f"{name}.bias")} if f"{name}.bias" in self else {}
        return {"weight": self.take(f"{name}.weight"), **bias}

    def count(self, name: str) -> int:
        """How many layers there are, by names like ``in_layers.{}.bias``."""
        number = 0
        while name.format(number) in self:
            number += 1
        if not number:
            raise WavedilError(f"there is no {name.format(0)}: expected the tensors of {self.what}")
        return number

    def fill(self, model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
        """Puts the values into ``model``'s tensors of the same names, all of them, and checks that nothing is left."""
        wanted = model.state_dict()
        for name in wanted.keys() | values.keys():
            have, want = values.get(name), wanted.get(name)
            if have is None or want is None or have.shape != want.shape:
                raise WavedilError(
                    f"{name} is {None if have is None else tuple(have.shape)} in the tensors, "
                    f"{None if want is None else tuple(want.shape)} in the model: these are not those of {self.what}"
                )
        if self.left:
            first = sorted(self.left)[0]
            raise WavedilError(
                f"{len(self.left)} tensors have no place, {first} is one: these are not those of {self.what}"
            )
        model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in values.items()}, strict=True)
        return model.eval()


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by names that begin with ``prefix`` and a dot."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}
