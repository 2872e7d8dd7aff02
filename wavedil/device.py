"""The check of a device's name."""

import torch

from wavedil.errors import WavedilError, first_line, shown


def check_device(name: str | torch.device) -> torch.device:
    """The device of this name, e.g. ``"cuda:1"``. Raises WavedilError if tensors cannot be computed on it here."""
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise ValueError("it holds no values")
        torch.zeros(1, device=device).item()
    except Exception as error:  # each backend has its own, e.g. AssertionError without CUDA, ImportError without XLA
        reason = first_line(error)[:120]
        raise WavedilError(f"device {shown(name)} is not available here ({reason}): use cpu, or cuda") from None
    return device
