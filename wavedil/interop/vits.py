"""Weights of VITS's ``WN``, from the original, coqui-tts or transformers: ``in_layers``, ``res_skip_layers`` …"""

from collections.abc import Mapping

from torch import Tensor

from wavedil.audio.models.vits import WN
from wavedil.core.stream import add_prefix
from wavedil.interop.tensors import ForeignTensors, split_conv


def from_vits_wn(tensors: Mapping[str, Tensor], *, dilation_rate: int = 1) -> WN:
    """Converts a state_dict to a :class:`WN`; weight norm is folded.

    The bias of the condition layer is added to the biases of the convolutions.

    Args:
        dilation_rate: see :class:`WN`.
    """
    source = ForeignTensors(tensors, "a WN of VITS")
    layers = source.count_layers("in_layers.{}.bias")
    doubled, channels, kernel_size = source.shape("in_layers.0.weight")
    condition = source.pop_conv("cond_layer") if "cond_layer.weight" in source else None
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
        conv, skip = source.pop_conv(f"in_layers.{layer}"), source.pop_conv(f"res_skip_layers.{layer}")
        if condition is not None:
            rows = slice(layer * doubled, (layer + 1) * doubled)
            values[f"{prefix}.condition.weight"] = condition["weight"][rows]
            conv["bias"] = conv["bias"] + condition["bias"][rows]
        values |= add_prefix(f"{prefix}.conv", conv)
        if layer < layers - 1:
            residual, skip = split_conv(skip, channels)
            values |= add_prefix(f"{prefix}.residual", residual)
        values |= add_prefix(f"{prefix}.skip", skip)
    return source.load_into(model, values)
