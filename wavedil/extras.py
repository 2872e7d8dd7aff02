"""The extras of this package, and commands that install them: the package is not on an index."""

import json
from contextlib import suppress
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wavedil.errors import WavedilError

#: What each extra brings, and the packages by which it is recognized.
EXTRAS = {
    "train": (
        "training by recipes, log-mels, reports with pictures",
        (
            "lightning",
            "jsonargparse",
            "librosa",
            "torchaudio",
            "torchmetrics",
            "tensorboard",
            "matplotlib",
            "scipy",
            "yaml",
        ),
    ),
    "vision": ("image files, and backbones for to_dense", ("PIL", "timm")),
    "export": ("wavedil export to .onnx", ("onnx", "onnxscript", "onnxruntime")),
    "hub": ("models of the Hugging Face hub", ("huggingface_hub",)),
    "metrics": ("PESQ and STOI of vocoders", ("pesq", "pystoi")),
    "shards": ("packed data at URLs", ("fsspec", "s3fs")),
    "completion": ("wavedil completion", ("shtab",)),
    "live": ("wavedil live: audio devices", ("sounddevice",)),
    "compiler": ("a C compiler for effects, if the system has none", ("ziglang",)),
    "midi": ("piano rolls as MIDI files", ("mido",)),
    "medical": ("volumes in NIfTI files", ("nibabel",)),
}


def extra_of(package: str) -> str | None:
    """The extra that installs a package."""
    return next((extra for extra, (_, packages) in EXTRAS.items() if package in packages), None)


def import_extra(module: str, extra: str) -> Any:
    """Imports a module of an extra.

    Raises:
        WavedilError: it is not installed; the message has the command that installs the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise WavedilError(f"{error.name} is not installed: {install_extra(extra)}") from None


def install_extra(extra: str) -> str:
    """The command that adds an extra to this installation, e.g. ``pip install -e '/home/me/wavedil[vision]'``."""
    root = Path(__file__).parents[1]
    if (root / "pyproject.toml").is_file():
        return install(f"-e '{root}[{extra}]'")
    origin = {}
    with suppress(metadata.PackageNotFoundError, ValueError):
        origin = json.loads(metadata.distribution("wavedil").read_text("direct_url.json") or "{}")
    url, vcs = origin.get("url"), origin.get("vcs_info", {}).get("vcs")
    return install(f"'wavedil[{extra}]{f' @ {vcs}+' if vcs else ' @ ' if url else ''}{url or ''}'")


def install(what: str) -> str:
    """The command that installs a package into this environment; those of uv have no pip."""
    return f"{'pip' if find_spec('pip') else 'uv pip'} install {what}"
