"""What ``wavedil inspect`` prints about a vocoder."""

from typing import Any

import torch

from wavedil.audio.models.vocoder import Vocoder
from wavedil.core.cost import count_multiply_adds, count_parameters
from wavedil.core.schedule import format_schedule

_FRAMES = 64  # of the input whose multiply-adds are counted


def inspect_vocoder(model: Vocoder) -> dict[str, Any]:
    """Size, cost and receptive field; the field in samples, multiply-adds per sample without Griffin-Lim."""
    features, weight = model.features, next(model.parameters())
    mels = torch.zeros(1, features.channels, _FRAMES, device=weight.device)
    return {
        "generator": type(model.generator).__name__,
        "n_mels": features.channels,
        "hop_length": model.hop_length,
        "sample_rate": model.sample_rate,
        "dilations": list(model.dilations),
        "dilations_in": "frames" if model.works_on_frames else "samples",
        "receptive_field": model.receptive_field,
        "receptive_field_ms": 1000 * model.receptive_field / model.sample_rate,
        "parameters": count_parameters(model),
        "multiply_adds": count_multiply_adds(model, mels) // (_FRAMES * model.hop_length),
    }


def render_vocoder(info: dict[str, Any]) -> str:
    """The facts of :func:`inspect_vocoder` as text."""
    rate, frames = info["sample_rate"], info["sample_rate"] / info["hop_length"]
    facts = {
        "generator": info["generator"],
        "log-mels": f"{info['n_mels']} bands, {frames:g} frames per second (hop length {info['hop_length']} samples)",
        "dilations": f"{format_schedule(info['dilations'])}, in {info['dilations_in']}",
        "receptive field": f"{info['receptive_field']:,} samples = {info['receptive_field_ms']:.1f} ms at {rate} Hz",
        "parameters": f"{info['parameters']:,}",
        "multiply-adds": f"{info['multiply_adds']:,} per sample",
    }
    return "\n".join(f"{name:<16} {text}" for name, text in facts.items())
