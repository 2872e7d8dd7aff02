"""Which program a file of weights is from, and what reads it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from wavedil.errors import WavedilError
from wavedil.interop.tensors import read_tensors


@dataclass(frozen=True)
class Format:
    """A program's tensors: the function that makes a model of them, and beginnings of names that it always has."""

    module: str
    function: str
    marks: tuple[str, ...]

    def reader(self) -> Any:
        return getattr(import_module(f"wavedil.interop.{self.module}"), self.function)


#: By the name that the shell takes. The first whose marks are all there is the one that a file is of.
FORMATS = {
    "parallel-wavegan": Format(
        "parallel_wavegan", "from_parallel_wavegan", ("upsample_net.conv_in", "conv_layers.0.conv1x1_out")
    ),
    "wavenet-vocoder": Format(
        "wavenet_vocoder", "from_wavenet_vocoder", ("conv_layers.0.conv1x1_skip", "last_conv_layers.1")
    ),
    "kan-bayashi": Format("kan_bayashi", "from_kan_bayashi", ("dil_tanh.0", "skip_1x1.0")),
    "vits-wn": Format("vits", "from_vits_wn", ("in_layers.0", "res_skip_layers.0")),
    "diffwave": Format("diffwave", "from_diffwave", ("residual_layers.0.diffusion_projection",)),
    "pytorch-tcn": Format("pytorch_tcn", "from_pytorch_tcn", ("network.0.conv1",)),
}
NAMES = ("nam", *FORMATS)


def convert(
    path: str | Path, name: str | None = None, options: Mapping[str, Any] | None = None, prefix: str = ""
) -> tuple[nn.Module, str]:
    """The model of another program's file, and the name of the format it was read as.

    Args:
        name: of the format, one of ``NAMES``; None finds it out.
        options: arguments of the format's reader that tensors do not tell, e.g. ``{"stacks": 2}``.
        prefix: where in a larger model the tensors are, e.g. ``"enc_q.enc"``; the others are left alone.

    Raises:
        WavedilError: for what cannot be read, or fits no format, or options that are missing or too many.
    """
    path, options = Path(path), dict(options or {})
    if name not in (None, *NAMES):
        raise WavedilError(f"format is {name!r}: expected one of {', '.join(NAMES)}")
    if name == "nam" or (name is None and path.suffix == ".nam"):
        from wavedil.interop.nam import read_nam

        if options or prefix:
            raise WavedilError(f"{[*options, prefix][0]!r} is given, but a .nam file tells everything: leave it out")
        return read_nam(path), "nam"
    tensors = read_tensors(path)
    if prefix:
        start = prefix.rstrip(".") + "."
        tensors = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        if not tensors:
            raise WavedilError(f"{path} has no tensors below {prefix!r}: expected the name of a part of the model")
    name = name or _found(tensors, path)
    read = FORMATS[name].reader()
    _check_options(name, read, options)
    try:
        return read(tensors, **options), name
    except WavedilError as error:
        raise WavedilError(f"{path}: {error}") from None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # An option of another kind, or tensors that are missing or of other shapes.
        reason = " ".join(str(error).split())[:200]
        raise WavedilError(f"{path} cannot be read as {name} ({type(error).__name__}: {reason})") from None


def parse_options(settings: Sequence[str]) -> dict[str, Any]:
    """``["stacks=2", "legacy=false"]`` as a dictionary; values are JSON, or else text."""
    options: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign:
            raise WavedilError(f"{setting!r} is no setting: expected NAME=VALUE, e.g. stacks=2")
        try:
            options[key.replace("-", "_")] = json.loads(text)
        except ValueError:
            options[key.replace("-", "_")] = text
    return options


def _found(tensors: Mapping[str, Any], path: Path) -> str:
    for name, found in FORMATS.items():
        if all(any(key.startswith(f"{mark}.") for key in tensors) for mark in found.marks):
            return name
    names = sorted(tensors)
    raise WavedilError(
        f"{path} has {len(names)} tensors, {names[0]} first, which are of no format that is known "
        f"({', '.join(NAMES)}): if it is a part of a larger model, say which with --prefix"
    )


def _check_options(name: str, read: Any, options: Mapping[str, Any]) -> None:
    known = {
        key: value for key, value in inspect.signature(read).parameters.items() if value.kind == value.KEYWORD_ONLY
    }
    unknown = [key for key in options if key not in known]
    missing = [key for key, value in known.items() if value.default is value.empty and key not in options]
    if unknown:
        raise WavedilError(f"{unknown[0]} is no setting of {name}: expected some of {', '.join(known)}")
    if missing:
        raise WavedilError(f"{name} needs {missing[0]}, which its tensors do not tell: add --set {missing[0]}=VALUE")
