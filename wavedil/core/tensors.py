"""Tensors that users pass in: conversion of arrays, and a check that they hold real numbers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedil.errors import WavedilError, shown


def to_tensor(name: str, value: Any, floating: bool | None = None) -> Tensor:
    """The argument ``name``, an array or a tensor, as a dense tensor of real numbers.

    Args:
        floating: True for floating point only, False for integers only, None for both.

    Raises:
        WavedilError: anything else.
    """
    kind = {None: "real numbers", True: "floating-point numbers", False: "integers"}[floating]
    expected = f"expected a tensor or an array of {kind}"
    if not isinstance(value, Tensor):
        try:
            # A copy: torch warns for arrays that cannot be written to, and takes no negative strides.
            value = torch.from_numpy(np.array(value))
        except (TypeError, ValueError, OverflowError):
            raise WavedilError(f"{name} is {shown(value)}: {expected}") from None
    if value.is_meta or value.layout != torch.strided or value.is_quantized:
        raise WavedilError(f"{name} is a {value.layout} tensor on {value.device}: expected a dense tensor with numbers")
    is_integer = not value.is_floating_point() and value.dtype != torch.bool
    if value.is_complex() or (floating is not None and (is_integer if floating else not is_integer)):
        raise WavedilError(f"{name} is {str(value.dtype).removeprefix('torch.')}: {expected}")
    return value
