"""VITS's ``WN``, as the original, coqui-tts and transformers have it: ``in_layers``, ``res_skip_layers`` …"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from wavedil.audio.models.vits import WN
from wavedil.interop.tensors import Source, under


def from_vits_wn(tensors: Mapping[str, Tensor], *, dilation_rate: int = 1) -> WN:
    """A :class:`WN` with the weights of a state_dict; weight norm of either spelling is folded.

    Args:
        dilation_rate: which tensors do not tell.

    The bias of the one condition layer joins those of the convolutions, which are added to the same sum.
    """
    source = Source(tensors, "a WN of VITS")
    layers = source.count("in_layers.{}.bias")
    doubled, channels, kernel_size = source.shape("in_layers.0.weight")
    condition = source.conv("cond_layer") if "cond_layer.weight" in source else None
    model = WN(
        channels,
        kernel_size,
        dilation_rate,
        layers,
        condition_channels=0 if condition is None else condition["weight"].shape[1],
    )
    values: dict[str, Tensor] = {}
    for layer in range(layers):
        prefix = f"stack.layers.{layer}"
        conv, both = source.conv(f"in_layers.{layer}"), source.conv(f"res_skip_layers.{layer}")
        if condition is not None:
            rows = slice(layer * doubled, (layer + 1) * doubled)
            values[f"{prefix}.condition.weight"] = condition["weight"][rows]
            conv["bias"] = conv["bias"] + condition["bias"][rows]
        values |= under(f"{prefix}.conv", conv)
        if layer < layers - 1:
            values |= under(f"{prefix}.residual", {part: value[:channels] for part, value in both.items()})
            both = {part: value[channels:] for part, value in both.items()}
        values |= under(f"{prefix}.skip", both)
    return source.fill(model, values)
