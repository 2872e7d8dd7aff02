"""Model folders on the Hugging Face hub. Needs the ``hub`` extra; a token is that of ``hf auth login``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from wavedil.errors import WavedilError
from wavedil.weights import load, save

#: In front of OWNER/NAME, in the shell, where a file could stand as well.
SCHEME = "hf://"
FILES = ["config.json", "model.safetensors"]


def upload(model: nn.Module, repository: str, private: bool = False) -> str:
    """Puts a model into a repository of the hub, ``OWNER/NAME``, which is made where it is not there; its address."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        saved = save(model, Path(folder) / "model")
        try:
            HfApi().create_repo(repository, private=private, exist_ok=True)
            return str(HfApi().upload_folder(repo_id=repository, folder_path=saved, allow_patterns=FILES))
        except Exception as error:
            raise WavedilError(f"cannot upload to {repository}: {_reason(error)}") from None


def download(repository: str) -> nn.Module:
    """The model of a repository of the hub. Only config and weights are fetched, and nothing in them is run."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, allow_patterns=FILES)
    except Exception as error:
        raise WavedilError(f"cannot download {repository}: {_reason(error)}") from None
    return load(folder)


def _reason(error: Exception) -> str:
    """In a line. (The client fails by its own errors, by Python's, and by those of its library for HTTP.)"""
    return (str(error).splitlines() or [type(error).__name__])[0]
