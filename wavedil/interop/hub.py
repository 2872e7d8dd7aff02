"""Model folders on the Hugging Face hub. Needs the ``hub`` extra; upload needs ``hf auth login``."""

import tempfile
from pathlib import Path

from torch import nn

from wavedil.errors import WavedilError, first_line
from wavedil.weights import load, save

#: Prefix of a repository ``OWNER/NAME``, which distinguishes it from a file name.
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
        except Exception as error:  # of the client, of Python, or of the client's HTTP library
            raise WavedilError(f"cannot upload to {repository}: {first_line(error)}") from None


def download(repository: str) -> nn.Module:
    """Loads a model from the repository ``OWNER/NAME``: downloads only config and weights, and runs no code from it."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, allow_patterns=FILES)
    except Exception as error:
        raise WavedilError(f"cannot download {repository}: {first_line(error)}") from None
    return load(folder)
