"""Weight formats of other programs: detection and conversion."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from wavedil.core.schema import SampleRate, check
from wavedil.errors import WavedilError, count_text, one_of
from wavedil.interop.diffwave import from_diffwave
from wavedil.interop.kan_bayashi import from_kan_bayashi
from wavedil.interop.nam import read_nam
from wavedil.interop.parallel_wavegan import from_parallel_wavegan
from wavedil.interop.pytorch_tcn import from_pytorch_tcn
from wavedil.interop.rtneural import read_rtneural
from wavedil.interop.tensors import read_tensors
from wavedil.interop.vits import from_vits_wn
from wavedil.interop.wavenet_vocoder import from_wavenet_vocoder

#: By name, as in the option ``--format``: the function that converts the tensors, and prefixes of names in all models.
#: A file has the first format whose prefixes all occur.
FORMATS: dict[str, tuple[Callable[..., nn.Module], tuple[str, ...]]] = {
    "parallel-wavegan": (from_parallel_wavegan, ("upsample_net.conv_in", "conv_layers.0.conv1x1_out")),
    "wavenet-vocoder": (from_wavenet_vocoder, ("conv_layers.0.conv1x1_skip", "last_conv_layers.1")),
    "kan-bayashi": (from_kan_bayashi, ("dil_tanh.0", "skip_1x1.0")),
    "vits-wn": (from_vits_wn, ("in_layers.0", "res_skip_layers.0")),
    "diffwave": (from_diffwave, ("residual_layers.0.diffusion_projection",)),
    "pytorch-tcn": (from_pytorch_tcn, ("network.0.conv1",)),
}
NAMES = ("nam", "rtneural", *FORMATS)


def convert(
    path: str | Path, name: str | None = None, options: Mapping[str, Any] | None = None, prefix: str = ""
) -> tuple[nn.Module, str]:
    """Converts another program's file; returns the model and the name of its format.

    Args:
        path: a ``.nam`` file, a JSON file of RTNeural, AIDA-X or Proteus, or a checkpoint.
        name: of the format, one of ``NAMES``; None detects it.
        options: keyword arguments of the format's function, e.g. ``{"stacks": 2}``. A .nam file with several networks
            has ``quality``, from 0 to 1, which converts one of them; without it all are, used at quality 1. A JSON file
            has ``sample_rate``.
        prefix: converts only the tensors of this submodule of a larger model, e.g. ``"enc_q.enc"``.

    Raises:
        WavedilError: the file cannot be read or has no known format, or an option is missing or unknown.
    """
    path, options = Path(path), dict(options or {})
    if name not in (None, *NAMES):
        raise WavedilError(f"format is {name!r}: expected {one_of(name, NAMES)}")
    if name == "nam" or (name is None and path.suffix.lower() == ".nam"):
        if unknown := [*(key for key in options if key != "quality"), *([prefix] if prefix else [])]:
            raise WavedilError(f"{unknown[0]!r} is not an option of .nam files: omit it")
        model = read_nam(path)
        return model.at_quality(options["quality"]) if "quality" in options else model, "nam"
    if name == "rtneural" or (name is None and path.suffix.lower() in (".json", ".aidax")):
        if unknown := [*(key for key in options if key != "sample_rate"), *([prefix] if prefix else [])]:
            raise WavedilError(f"{unknown[0]!r} is not an option of RTNeural files: expected sample_rate")
        rate = options.get("sample_rate")
        return read_rtneural(path, None if rate is None else check("sample_rate", rate, SampleRate)), "rtneural"
    tensors = read_tensors(path)
    if prefix:
        start = prefix.rstrip(".") + "."
        tensors = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        if not tensors:
            raise WavedilError(
                f"prefix is {prefix!r}: no tensor of {path} starts with it; give the name of a part of the model"
            )
    name = name or _detect(tensors, path)
    read = FORMATS[name][0]
    _check_options(name, read, options)
    try:
        return read(tensors, **options), name
    except WavedilError as error:
        raise WavedilError(f"{path}: {error}") from None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # An option of another type, or tensors that are missing or have other shapes.
        reason = " ".join(str(error).split())[:200]
        raise WavedilError(f"{path} cannot be read as {name} ({type(error).__name__}: {reason})") from None


def parse_options(settings: Sequence[str]) -> dict[str, Any]:
    """Parses ``["stacks=2", "legacy=false"]`` to a dictionary; a value that is not JSON is a string."""
    options: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign:
            raise WavedilError(f"--set is {setting!r}: expected NAME=VALUE, e.g. stacks=2")
        key = key.replace("-", "_")
        if key in options:
            raise WavedilError(f"--set {key} is given twice: expected each name once")
        try:
            options[key] = json.loads(text)
        except (ValueError, RecursionError):
            options[key] = text
    return options


def _detect(tensors: Mapping[str, Any], path: Path) -> str:
    for name, (_, prefixes) in FORMATS.items():
        if all(any(key.startswith(f"{prefix}.") for key in tensors) for prefix in prefixes):
            return name
    names = sorted(tensors)
    raise WavedilError(
        f"{path} has {count_text(len(names), 'tensor')}, e.g. {names[0]}, of an unknown format: expected one of "
        f"{', '.join(NAMES)}; "
        "give --prefix if the network is part of a larger model"
    )


def _check_options(name: str, read: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    known = {key: p for key, p in inspect.signature(read).parameters.items() if p.kind == p.KEYWORD_ONLY}
    unknown = [key for key in options if key not in known]
    missing = [key for key, value in known.items() if value.default is value.empty and key not in options]
    if unknown:
        raise WavedilError(f"{unknown[0]} is not an option of {name}: expected {one_of(unknown[0], known, some=True)}")
    if missing:
        raise WavedilError(
            f"{name} needs {missing[0]}, which cannot be inferred from the tensors: add --set {missing[0]}=VALUE"
        )
