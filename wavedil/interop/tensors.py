"""Reads tensors of other programs: without running code, with weight norm folded, each tensor used exactly once."""

import warnings
import zipfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError, shown, with_article
from wavedil.files import check_regular_file

#: Name endings of weight norm's direction and magnitude, in torch's old and new form.
WEIGHT_NORMS = (
    (".weight_v", ".weight_g"),
    (".parametrizations.weight.original1", ".parametrizations.weight.original0"),
)
#: Keys under which training scripts store the state_dict in a checkpoint, averaged weights first.
STATE_DICT_KEYS = (
    "ema_state_dict", "ema", "params_ema", "state_dict", "model_state_dict", "model", "generator", "net", "params",
)  # fmt: skip
#: Prefixes that data-parallel training and torch.compile add to all names.
WRAPPERS = ("module.", "_orig_mod.")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a ``.safetensors`` file or of a ``torch.save`` checkpoint (with ``weights_only``).

    Looks for the state_dict at ``STATE_DICT_KEYS`` and removes the prefixes ``WRAPPERS``, in any order.

    Raises:
        WavedilError: the file cannot be read, or holds no named tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    check_regular_file(path, "weights")
    try:
        content: Any = load_file(path) if path.suffix.lower() == ".safetensors" else _unpickled(path)
    except OSError as error:
        raise WavedilError(f"{path} cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise WavedilError(f"{path} is not a complete safetensors file: {error}") from None
    for _ in range(8):  # a dictionary may hold itself
        if isinstance(content, Mapping):
            content = next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        raise WavedilError(f"{path} holds {with_article(content)}: expected a dictionary of tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WavedilError(f"{path} holds no named tensors: expected a state_dict")
    while wrapper := next((one for one in WRAPPERS if all(name.startswith(one) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    for name, value in tensors.items():
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise WavedilError(
                f"{path}: {shown(name)} has shape {tuple(value.shape)}, but fewer numbers: it is damaged"
            )
    return tensors


def _unpickled(path: Path) -> Any:
    _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of unknown pickle protocols; failures are reported below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of many kinds for damaged files
        # Without torch's message, which suggests that the user lets the file run code.
        raise WavedilError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}): save its state_dict with torch.save or "
            "safetensors in the program that wrote it"
        ) from None


def _check_archive(path: Path) -> None:
    """Raises WavedilError for a zip archive that expands; torch.save does not compress."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError:
        raise
    except Exception as error:
        raise WavedilError(f"{path} is a damaged archive ({type(error).__name__}): make or copy it again") from None
    expands = sum(entry.file_size for entry in entries) > path.stat().st_size
    if expands or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WavedilError(f"{path} is a compressed archive: expected a file as torch.save writes it")


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replaces each pair of weight norm by its weight v * g / norm(v), in torch's old and new form."""
    folded = dict(tensors)
    for direction, magnitude in WEIGHT_NORMS:
        for name in [name for name in tensors if name.endswith(direction)]:
            stem = name.removesuffix(direction)
            if stem + magnitude not in tensors:
                raise WavedilError(f"{name} has no {stem + magnitude}: expected both tensors of weight norm")
            v, g = folded.pop(name), folded.pop(stem + magnitude)
            axes = [axis for axis in range(v.ndim) if g.ndim != v.ndim or g.shape[axis] == 1]
            folded[stem + ".weight"] = v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
    return folded


class ForeignTensors:
    """State dict of another program; each tensor is popped once, and :meth:`load_into` checks that none remains.

    Args:
        tensors: by name; weight norm is folded.
        origin: name of the program or network, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], origin: str):
        self.remaining, self.origin = fold_weight_norm(tensors), origin

    def __contains__(self, name: str) -> bool:
        return name in self.remaining

    def pop(self, name: str) -> Tensor:
        self.shape(name)  # checks that it exists
        value = self.remaining.pop(name)
        if not bool(value.float().isfinite().all()):  # also float64 beyond float32
            raise WavedilError(f"{name} holds NaN or infinity: expected the weights of a converged model")
        return value

    def shape(self, name: str) -> torch.Size:
        """The shape of a tensor, without popping it."""
        if name not in self.remaining:
            raise WavedilError(f"{name} is missing: expected the tensors of {self.origin}")
        return self.remaining[name].shape

    def pop_conv(self, name: str) -> dict[str, Tensor]:
        """Pops ``weight`` and, if present, ``bias`` of a convolution or linear layer."""
        bias = {"bias": self.pop(f"{name}.bias")} if f"{name}.bias" in self else {}
        return {"weight": self.pop(f"{name}.weight"), **bias}

    def count_layers(self, name: str) -> int:
        """The number of layers, by names such as ``in_layers.{}.bias``; at least one is required."""
        self.shape(name.format(0))
        return next(number for number in count(1) if name.format(number) not in self)

    def load_into(self, model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
        """Loads ``values``, by the names of ``model``; checks that all of them fit and that no tensor remains."""
        wanted = model.state_dict()
        for name in wanted.keys() | values.keys():
            have, want = values.get(name), wanted.get(name)
            if have is None or want is None or have.shape != want.shape:
                raise WavedilError(
                    f"{name} is {None if have is None else tuple(have.shape)} in the tensors, "
                    f"{None if want is None else tuple(want.shape)} in the model: expected the tensors of {self.origin}"
                )
        if self.remaining:
            first = sorted(self.remaining)[0]
            raise WavedilError(
                f"{len(self.remaining)} tensors are unknown, e.g. {first}: expected the tensors of {self.origin}"
            )
        model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in values.items()}, strict=True)
        return model.eval()


def split_conv(conv: Mapping[str, Tensor], channels: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The convolutions of the first ``channels`` outputs and of the others."""
    return ({key: x[:channels] for key, x in conv.items()}, {key: x[channels:] for key, x in conv.items()})


def doubling_dilations(layers: int, stacks: int) -> list[int]:
    """Dilations 1, 2, 4 … of ``layers`` layers, starting again at 1 in each of ``stacks`` stacks."""
    if not isinstance(stacks, int) or stacks < 1 or layers % stacks:
        raise WavedilError(f"stacks is {stacks!r}: expected a divisor of the {layers} layers")
    return [2 ** (layer % (layers // stacks)) for layer in range(layers)]
