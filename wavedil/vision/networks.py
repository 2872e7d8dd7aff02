"""Networks of torchvision, timm and of the user by name, for ``wavedil inspect`` and recipes."""

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn

from wavedil.core.cost import count_multiply_adds, count_parameters
from wavedil.core.measured_field import MeasuredField, measure_receptive_field
from wavedil.core.receptive_field import per_axis
from wavedil.core.schema import Stride
from wavedil.errors import WavedilError, first_line, shown, similar
from wavedil.extras import install
from wavedil.trusted import is_trusted
from wavedil.vision.dense import DenseBackbone, to_dense
from wavedil.vision.dense.convert import plan_conversion

SCHEMES = ("timm", "torchvision")


def build_network(name: str) -> nn.Module:
    """A network with random weights, in evaluation mode.

    Args:
        name: ``timm:NAME``, ``torchvision:NAME``, or ``MODULE:FUNCTION``, a function or class without arguments, or a
            network, of a module that is imported.

    Raises:
        WavedilError: an unknown name, a package or module that cannot be imported, or a function that fails.
    """
    scheme, _, item = name.partition(":")
    try:
        module = import_module("torchvision.models" if scheme == "torchvision" else scheme)
    except Exception as error:  # a module of a user may raise any
        remedy = f"; {install(scheme)}" if scheme in SCHEMES and isinstance(error, ModuleNotFoundError) else ""
        raise WavedilError(
            f"{name}: cannot import {scheme} ({type(error).__name__}: {first_line(error)}){remedy}"
        ) from None
    if scheme in SCHEMES:
        known = module.list_models()
        if item not in known:
            meant = similar(item, known)
            remedy = f"did you mean {meant}?" if meant else f"{scheme} has {len(known)}, e.g. resnet50"
            raise WavedilError(f"{name}: {item} is no network of {scheme}: {remedy}")
        if scheme == "timm":
            return module.create_model(item).eval()
        options = inspect.signature(module.get_model_builder(item)).parameters
        weights = {key: None for key in ("weights", "weights_backbone") if key in options}
        return module.get_model(item, **weights).eval()
    if not hasattr(module, item):
        raise WavedilError(f"{name}: the module {scheme} has no {item}: expected a function that returns a network")
    found = getattr(module, item)
    try:
        network = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # a function of a user may raise any
        raise WavedilError(f"{name}: cannot build it ({type(error).__name__}: {first_line(error)})") from None
    if not isinstance(network, nn.Module):
        raise WavedilError(f"{name} returns a {type(network).__name__}: expected a torch.nn.Module")
    return network.eval()


def dense_classifier(
    name: str,
    output_stride: Stride | Sequence[Stride] = 8,
    levels: Sequence[Stride | Sequence[Stride]] = (),
    until: str | None = None,
) -> DenseBackbone:
    """The result of :func:`wavedil.vision.to_dense` for a network by name, as the backbone of a recipe.

    Args:
        name: as in :func:`build_network`. A module of yours must be named with ``--import MODULE``.
        output_stride, levels, until: as in ``to_dense``.

    Raises:
        WavedilError: as both functions.
    """
    scheme = name.partition(":")[0]
    if scheme not in SCHEMES and not is_trusted(scheme):
        raise WavedilError(
            f"name is {shown(name)}: expected timm:NAME or torchvision:NAME, or MODULE:FUNCTION with --import MODULE"
        )
    return to_dense(build_network(name).train(), output_stride, levels=levels, until=until)


def network_features(network: nn.Module) -> nn.Module:
    """The features of a classifier, without pooling and the layers after it.

    Raises:
        WavedilError: as :func:`wavedil.vision.to_dense`.
    """
    plan = plan_conversion(network)
    return to_dense(network, plan.analysis.grids[plan.outputs[-1]].stride)


def inspect_network(network: nn.Module) -> dict[str, Any]:
    """Numbers of a classifier's features as a dictionary for JSON.

    ``receptive_field`` is in pixels, (height, width), or None for the full image; ``multiply_adds`` per pixel.
    """
    features = network_features(network)
    height, width = (8 * stride for stride in per_axis("stride", features.stride, 2))
    like = next(network.parameters())
    channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    image = torch.zeros(1, channels, height, width, dtype=like.dtype, device=like.device)
    field = features.receptive_field
    return {
        "network": type(network).__name__,
        "parameters": count_parameters(network),
        "feature_parameters": count_parameters(features),
        "multiply_adds": count_multiply_adds(features, image) // (height * width),
        "stride": features.stride,
        "channels": features.channels,
        "receptive_field": [field] * 2 if isinstance(field, int) else None if field is None else list(field),
        "align": features.align,
    }


def render_network(info: dict[str, Any]) -> str:
    """``info`` as text for a terminal."""
    field, stride = info["receptive_field"], " x ".join(map(str, np.atleast_1d(info["stride"])))
    facts = [
        ("network", info["network"]),
        ("parameters", f"{info['parameters']:,}, of the features {info['feature_parameters']:,}"),
        ("multiply-adds", f"{info['multiply_adds']:,} per pixel, of the features"),
        ("features", f"{info['channels']} channels, stride {stride} pixels, alignment {info['align']}"),
        ("receptive field", "the full image" if field is None else f"{field[0]} x {field[1]} pixels"),
    ]
    return "\n".join(f"{name:<17} {text}" for name, text in facts)


def measure_network(network: nn.Module, progress: Callable[[int, int], None] | None = None) -> MeasuredField:
    """The measured and the effective receptive field of the features; ``progress`` is that of the measurement.

    Raises:
        WavedilError: the features depend on the full image.
    """
    features, info = network_features(network), inspect_network(network)
    if info["receptive_field"] is None:
        raise WavedilError(f"{info['network']}: its features depend on the full image, so there is no field to draw")
    strides = per_axis("stride", info["stride"], 2)
    size = [-(-(pixels + 2) // s) * s for pixels, s in zip(info["receptive_field"], strides, strict=True)]
    channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    return measure_receptive_field(features, channels, 2, size=size, seeds=1, progress=progress)
