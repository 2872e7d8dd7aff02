"""Model folders on the Hugging Face hub. Needs the ``hub`` extra; upload needs ``hf auth login``."""

import tempfile
from pathlib import Path

from torch import nn

from wavedil.errors import WavedilError
from wavedil.weights import load, save

#: Prefix of ``OWNER/NAME``, where a file name is possible too.
SCHEME = "hf://"
FILES = ["config.json", "model.safetensors"]


def upload(model: nn.Module, repository: str, private: bool = False) -> str:
    """Uploads a model to the repository ``OWNER/NAME``, creating it if needed; returns its address."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        saved = save(model, Path(folder) / "model")
        try:
            HfApi().create_repo(repository, private=private, exist_ok=True)
            return str(HfApi().upload_folder(repo_id=repository, folder_path=saved, allow_patterns=FILES))
        except Exception as error:
            raise WavedilError(f"cannot upload to {repository}: {_reason(error)}") from None


def download(repository: str) -> nn.Module:
    """Loads a model from the repository ``OWNER/NAME``. Fetches config and weights only, and runs no code of it."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, allow_patterns=FILES)
    except Exception as error:
        raise WavedilError(f"cannot download {repository}: {_reason(error)}") from None
    return load(folder)


def _reason(error: Exception) -> str:
    """The first line of the message. (The client raises its own errors, Python's, and those of its HTTP library.)"""
    return (str(error).splitlines() or [type(error).__name__])[0]
