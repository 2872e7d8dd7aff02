"""Weights of ``pytorch-tcn`` 1.x (Paul Krug)."""

import re
from collections.abc import Mapping

from torch import Tensor

from wavedil.audio.models.tcn import TCN
from wavedil.core import Schedule
from wavedil.errors import WavedilError, one_of

#: Name endings there and here; weight norm has torch's new form (parametrizations) or old form (weight_g, weight_v).
_ENDS = {
    "weight": "weight",
    "bias": "bias",
    "parametrizations.weight.original0": "parametrizations.weight.original0",
    "parametrizations.weight.original1": "parametrizations.weight.original1",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_ACTIVATIONS = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "elu": "ELU", "gelu": "GELU", "selu": "SELU"}
_ACTIVATIONS |= {"sigmoid": "Sigmoid", "tanh": "Tanh"}
_MODULES = {"conv1": "first.conv", "conv2": "second.conv", "downsample": "shortcut"}


def from_pytorch_tcn(
    state_dict: Mapping[str, Tensor],
    *,
    dilations: Schedule | None = None,
    activation: str = "relu",
    dropout: float = 0.1,
    causal: bool = True,
) -> TCN:
    """Converts a state_dict to a :class:`TCN` in evaluation mode, for input ``(batch, channels, time)``.

    Widths, kernel size, gating, weight norm and the output projection are inferred from the tensors.

    Args:
        state_dict: ``pytorch_tcn.TCN(…).state_dict()``, of a network without skip connections and output activation.
        dilations, activation, dropout, causal: as in that package, with its defaults; ``dilations=None`` is 1, 2, 4 …

    Raises:
        WavedilError: the tensors are of another network, or the network has layers that TCN does not have: embeddings,
            batch or layer normalization, skip connections.
    """
    if activation not in _ACTIVATIONS:
        raise WavedilError(f"activation is {activation!r}: expected {one_of(activation, _ACTIVATIONS)}")
    tensors: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if not re.search(r"(^|\.)buffer$", key):  # streaming state of the package
            tensors[_renamed(key)] = value
    try:
        depth = 1 + max((int(key.split(".")[2]) for key in tensors if key.startswith("stack.")), default=-1)
        seconds = [tensors[f"stack.layers.{index}.second.conv.bias"] for index in range(depth)]
        direction = "stack.layers.0.first.conv.parametrizations.weight.original1"
        has_weight_norm = direction in tensors
        first = tensors[direction if has_weight_norm else "stack.layers.0.first.conv.weight"]
        model = TCN(
            in_channels=first.shape[1],
            out_channels=len(tensors["head.bias"]) if "head.bias" in tensors else None,
            channels=[len(bias) for bias in seconds],
            dilations=[2**level for level in range(len(seconds))] if dilations is None else dilations,
            kernel_size=first.shape[2],
            dropout=dropout,
            activation=_ACTIVATIONS[activation],
            gated=len(first) == 2 * len(seconds[0]),
            weight_norm=has_weight_norm,
            causal=causal,
        )
        model.load_state_dict(tensors)
    except (KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WavedilError(f"the tensors do not fit a TCN: expected those of a pytorch_tcn.TCN ({reason})") from None
    return model.eval()


def _renamed(key: str) -> str:
    found = re.fullmatch(r"network\.(\d+)\.(conv1|conv2|downsample)\.(.+)", key)
    if found and found[3] in _ENDS:
        return f"stack.layers.{found[1]}.{_MODULES[found[2]]}.{_ENDS[found[3]]}"
    if key in ("projection_out.weight", "projection_out.bias"):
        return key.replace("projection_out", "head")
    raise WavedilError(
        f"{key} is not a tensor of a TCN: expected a pytorch_tcn.TCN without embeddings, skip connections and "
        "batch or layer normalization"
    )
