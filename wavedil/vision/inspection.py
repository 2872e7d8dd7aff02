"""Numbers of a dense predictor: parameters, receptive field in pixels, and gridding of the context module."""

from typing import Any

import numpy as np
import torch
from torch import nn

from wavedil.core.cost import count_multiply_adds, count_parameters
from wavedil.core.gridding import audit_gridding, has_irregular_taps


def inspect_predictor(model: nn.Module) -> dict[str, Any]:
    """Numbers of a :class:`wavedil.vision.Segmenter` or ``Regressor``, as a dictionary for JSON.

    ``classes`` is empty for a regressor. ``parameters`` counts all parts, ``multiply_adds`` is per pixel of the image
    (without the auxiliary head, which is for training only),
    ``receptive_field`` is in pixels along one axis (None: the entire image). ``dilations``, ``holes``, ``path_ratio``
    and ``hdc_m2`` describe the context module, in cells of the feature map; they are None without one, or if its taps
    are learned or merged.
    """
    parts = {name: getattr(model, name) for name in ("backbone", "head", "context", "refinement", "auxiliary")}
    height, width = (16 * stride for stride in model.strides)
    like = model.mean
    image = torch.zeros(1, model.in_channels, height, width, dtype=like.dtype, device=like.device)
    stack = getattr(model.context, "stack", None)
    is_regular = stack is not None and not has_irregular_taps(stack)
    audit = audit_gridding(stack.dilations, stack.kernel_size, 2) if is_regular else None
    return {
        "classes": list(getattr(model, "classes", ())),
        "parts": {
            name: {"class": type(part).__name__, "parameters": count_parameters(part)}
            for name, part in parts.items()
            if part is not None
        },
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(model, image) // (height * width),
        "receptive_field": model.receptive_field if model.refinement is None else None,
        "output_stride": model.output_stride,
        "scale": model.scale,
        "dilations": None if audit is None else list(audit.dilations),
        **{name: getattr(audit, name, None) for name in ("holes", "path_ratio", "hdc_m2")},
    }


def render_predictor(info: dict[str, Any]) -> str:
    """``info`` as text for a terminal."""
    field, stride = info["receptive_field"], " x ".join(map(str, np.atleast_1d(info["output_stride"])))
    facts = [(name, f"{part['class']}, {part['parameters']:,} parameters") for name, part in info["parts"].items()]
    if info["classes"]:
        facts.append(("classes", f"{len(info['classes'])}: {', '.join(info['classes'])}"))
    facts += [
        ("parameters", f"{info['parameters']:,}"),
        ("multiply-adds", f"{info['multiply_adds']:,} per pixel"),
        ("receptive field", "the full image" if field is None else f"{field} x {field} pixels"),
        ("output stride", f"{stride} pixels, of images at {info['scale']:.0%} of their size"),
    ]
    if info["dilations"] is not None:
        facts += [
            ("context", f"dilations {', '.join(map(str, info['dilations']))}"),
            ("holes (gridding)", f"{info['holes']} of its cells reach no output; path ratio {info['path_ratio']:,.1f}"),
        ]
    return "\n".join(f"{name:<17} {text}" for name, text in facts)


def inspect_volume_segmenter(model: nn.Module) -> dict[str, Any]:
    """Numbers of a :class:`wavedil.vision.VolumeSegmenter`, as a dictionary for JSON; fields are in voxels."""
    weight = model.final.weight
    volume = torch.zeros(1, model.in_channels, 8, 8, 8, dtype=weight.dtype, device=weight.device)
    return {
        "classes": list(model.classes),
        "in_channels": model.in_channels,
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(model, volume) // 8**3,
        "receptive_field": list(model.receptive_field),
        "dilations": [list(np.atleast_1d(dilation).tolist()) for dilation in model.stack.dilations],
        "normalization": _normalization(model),
    }


def _normalization(model: nn.Module) -> str:
    if model.normalization is None:
        mean, std = (", ".join(f"{value:g}" for value in each.flatten().tolist()) for each in (model.mean, model.std))
        return f"mean {mean}, standard deviation {std}"
    arguments = ", ".join(f"{name}={value!r}" for name, value in model.normalization.config.items())
    return f"{type(model.normalization).__name__}({arguments})"


def render_volume_segmenter(info: dict[str, Any]) -> str:
    """``info`` as text for a terminal."""
    facts = {
        "classes": f"{len(info['classes'])}: {', '.join(info['classes'])}",
        "parameters": f"{info['parameters']:,}",
        "multiply-adds": f"{info['multiply_adds']:,} per voxel",
        "receptive field": f"{' x '.join(map(str, info['receptive_field']))} voxels (depth, height, width)",
        "dilations": ", ".join("x".join(map(str, dilation)) for dilation in info["dilations"]),
        "normalization": info["normalization"],
    }
    return "\n".join(f"{name:<17} {text}" for name, text in facts.items())
