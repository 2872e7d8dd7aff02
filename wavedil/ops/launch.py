"""Triton kernels of the fused operations: when they are used, and how they are launched.

They are used in eager mode only: under ``torch.compile``, inductor fuses the plain operations with their neighbors too.
"""

import os
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from wavedil.errors import WavedilError
from wavedil.ops.fallback import is_eager

#: Environment variable that turns the kernels off (0) or on (1, the default).
TRITON_VARIABLE = "WAVEDIL_TRITON"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Set to "cpu" to test the kernels in Triton's interpreter.
device_type = "cuda"
_MIN_ELEMENTS = 2**16  # not measured; with few, launching takes longest, and longer in Triton than in PyTorch


def can_launch(x: Tensor, *others: Tensor | None) -> bool:
    """Whether Triton kernels are turned on, the tensors are plain CUDA tensors in eager mode, and x is large enough.

    Raises:
        WavedilError: the environment variable is neither 0 nor 1.
    """
    return (
        x.device.type == device_type
        and x.numel() >= _MIN_ELEMENTS
        and is_eager(device_type, x, *others)
        and all(t is None or t.dtype in DTYPES or not t.is_floating_point() for t in (x, *others))
        and _is_enabled()
    )


def launch(
    kernel: Any, programs: int, device: torch.device, *arguments: Any, num_warps: int = 4, **constants: Any
) -> None:
    """Runs ``programs`` programs of a Triton kernel on a device."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](*arguments, num_warps=num_warps, **constants)


def power_of_2(number: int) -> int:
    """The smallest power of 2 that is at least ``number``: block sizes of kernels are powers of 2."""
    return 1 << max(number - 1, 0).bit_length()


def memory_order(x: Tensor) -> tuple[Tensor, bool]:
    """x as ``(batch, channels, *space)`` or ``(batch, *space, channels)``, and whether it is the latter.

    The one that is contiguous; a copy if neither is.
    """
    rows = x.movedim(1, -1)
    return (rows, True) if rows.is_contiguous() and not x.is_contiguous() else (x.contiguous(), False)


def _is_enabled() -> bool:
    value = os.environ.get(TRITON_VARIABLE, "1")
    if value not in ("0", "1"):
        raise WavedilError(f"{TRITON_VARIABLE} is {value!r}: expected 0 or 1")
    return value == "1"
