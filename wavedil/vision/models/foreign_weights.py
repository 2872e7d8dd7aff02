"""Weights of other programs, by the names they give to their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.errors import WavedilError

#: What a Caffe net holds for each layer: its weight and, if it has one, its bias (arrays or tensors).
CaffeLayers = Mapping[str, Sequence[Any]]


@torch.no_grad()
def copy_layers(layers: Sequence[tuple[str, nn.Module]], found: Mapping[str, Any], source: str) -> None:
    """Copies ``found[name + ".weight"]`` and ``".bias"`` into each (name, layer); all of them, or none.

    A matrix (outputs, inputs) with the layer's number of elements is reshaped: a fully connected layer over a
    (channels, height, width) map is the convolution of that size.

    Raises:
        WavedilError: naming the tensor of ``source`` that is missing or does not fit.
    """
    copies: list[tuple[Tensor, Tensor]] = []
    for name, layer in layers:
        for part, parameter in layer.named_parameters(recurse=False):
            key = f"{name}.{part}"
            if key not in found:
                raise WavedilError(f"there is no {key}: expected the layers of {source}")
            value = torch.as_tensor(found[key])
            matrix = value.ndim == 2 and (*value.shape,) == (len(parameter), parameter[0].numel())
            if value.shape != parameter.shape and not matrix:
                raise WavedilError(
                    f"{key} has shape {tuple(value.shape)}, this layer {tuple(parameter.shape)}: expected {source}, "
                    "or other widths or num_classes here"
                )
            copies.append((parameter, value.reshape(parameter.shape)))
    for parameter, value in copies:
        parameter.copy_(value)


def caffe_tensors(mapping: CaffeLayers) -> dict[str, Any]:
    """``{"fc6": (weight, bias)}`` as ``{"fc6.weight": weight, "fc6.bias": bias}``."""
    named = {}
    for name, tensors in mapping.items():
        if not isinstance(tensors, Sequence) or not 1 <= len(tensors) <= 2:
            raise WavedilError(
                f"layer {name!r} holds a {type(tensors).__name__}: expected (weight, bias), as in net.params"
            )
        named |= {f"{name}.{part}": tensor for part, tensor in zip(("weight", "bias"), tensors, strict=False)}
    return named
