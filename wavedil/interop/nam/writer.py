"""Writes ``.nam`` files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wavedil.audio.models.activations import Gated
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer, NAMConvNet, NAMLinear
from wavedil.errors import WavedilError, one_of, with_article
from wavedil.interop.nam.keys import FILMS, SLIMMING
from wavedil.interop.nam.metadata import completed, now
from wavedil.interop.nam.weights import flat
from wavedil.writing import atomic_write

VERSIONS = ("0.7.0", "0.5.4")
ARCHITECTURES = {
    NAM: "WaveNet", NAMLSTM: "LSTM", NAMConvNet: "ConvNet", NAMLinear: "Linear", NAMContainer: "SlimmableContainer"
}  # fmt: skip


def write_nam(
    model: nn.Module, path: str | Path, version: str = "0.7.0", metadata: Mapping[str, Any] | None = None
) -> Path:
    """Writes ``model`` as a ``.nam`` file.

    Its metadata are those of the model and of ``metadata``, with date, loudness and gain where the model has none. The
    last two take 11 seconds of sound through each network.

    Raises:
        WavedilError: the model is not a :class:`NAM` or another class of ``wavedil.audio.models.nam``, has another
            start-up convention than the format, or has layers that this version of the format cannot describe.
    """
    if type(model) not in ARCHITECTURES:
        raise WavedilError(f"model is {with_article(model)}: expected a NAM, since a .nam file holds layer arrays")
    if version not in VERSIONS:
        raise WavedilError(f"version is {version!r}: expected {one_of(version, VERSIONS)}")
    content = _content(model, version, metadata or {})
    path = Path(path)
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(content), encoding="utf-8")
    return path


def _content(model: nn.Module, version: str, metadata: Mapping[str, Any], is_heard: bool = True) -> dict[str, Any]:
    weights: list[float] = []
    if isinstance(model, NAMContainer):
        if version != "0.7.0":
            raise WavedilError(f"version is {version}, which has no containers: write version 0.7.0")
        config: dict[str, Any] = {
            "submodels": [
                {"max_value": end, "model": _content(network, version, {})}
                for end, network in zip(model.max_values, model.networks, strict=True)
            ]
        }
    else:
        if getattr(model, "start_up", "zero_input") != "zero_input":
            raise WavedilError(
                f"start is {model.start_up!r}: expected 'zero_input', as .nam files have it; the first "
                f"{model.receptive_field - 1} samples would differ, so train with start='zero_input'"
            )
        if type(model) not in ARCHITECTURES:  # in a container
            raise WavedilError(f"a network is {with_article(model)}: expected {', '.join(ARCHITECTURES.values())}")
        numbers = flat(model)
        if not bool(torch.isfinite(numbers).all()):
            raise WavedilError("the model's weights hold NaN or infinity: training diverged; use an earlier checkpoint")
        config, weights = _config(model, version), numbers.tolist()
        if isinstance(model, NAM):
            weights.append(torch.tensor(model.head_scale).item())  # in float32, as NAM writes it
    return {
        "version": version,
        "metadata": {**(completed(model) if is_heard else {"date": now(), **(model.metadata or {})}), **metadata},
        "architecture": ARCHITECTURES[type(model)],
        "config": config,
        "weights": weights,
        "sample_rate": model.sample_rate,
    }


def _config(model: nn.Module, version: str) -> dict[str, Any]:
    if isinstance(model, NAMLSTM):
        lstm = model.lstm
        return {"input_size": 1, "hidden_size": lstm.hidden_size, "num_layers": lstm.num_layers}
    if isinstance(model, NAMLinear):
        return {"receptive_field": model.receptive_field, "bias": model.conv.bias is not None}
    if isinstance(model, NAMConvNet):
        activation = _typed(model.activation, model.config["activation"])
        return {
            "channels": model.convs[0].out_channels,
            "dilations": list(model.dilations),
            "batchnorm": model.batchnorm,
            "activation": activation["type"] if len(activation) == 1 else activation,
        }
    array_config = _array_config if version == "0.7.0" else _array_config_0_5
    config = {"layers": [array_config(array) for array in model.arrays], "head": None, "head_scale": model.head_scale}
    if version != "0.7.0" and (model.head, model.condition) != (None, None):
        part = "convolutions after the arrays" if model.condition is None else "condition_dsp"
        raise WavedilError(f"version is 0.5.4, which has no {part}: write version 0.7.0")
    if model.head is not None:
        options = {"activation": "ReLU", "out_channels": model.out_channels, **model.config["head"]}
        config["head"] = options | {"activation": _spec(model.head.activation, options["activation"])}
    if model.condition is not None:
        config["condition_dsp"] = _content(model.condition, version, {}, is_heard=False)
    return config


def _array_config(array: LayerArray) -> dict[str, Any]:
    """The config of an array in version 0.7.0."""
    first, head = array.layers[0], array.head_rechannel
    pairs = [_primary(layer.activation) for layer in array.layers]
    dilation = {} if head.dilation == (1,) else {"head_dilation": head.dilation[0]}
    return {
        "input_size": array.in_channels,
        "condition_size": array.condition_channels,
        "head": {
            "out_channels": array.head_channels,
            "kernel_size": head.kernel_size[0],
            "bias": head.bias is not None,
            **dilation,
        },
        "channels": array.channels,
        "kernel_sizes": array.kernel_sizes,
        "dilations": list(array.dilations),
        "activation": [_typed(pair[0], spec) for pair, spec in zip(pairs, array.activations, strict=True)],
        "bottleneck": array.bottleneck,
        "head1x1": {
            "active": first.head1x1 is not None,
            "out_channels": array.head1x1_channels or 1,
            "groups": 1 if first.head1x1 is None else first.head1x1.groups,
        },
        "layer1x1": {
            "active": first.layer1x1 is not None,
            "groups": 1 if first.layer1x1 is None else first.layer1x1.groups,
        },
        "groups_input": first.conv.groups,
        "groups_input_mixin": first.mixin.groups,
        **{film: _film_config(first.films, film.removesuffix("_film")) for film in FILMS},
        "gating_mode": array.gatings,
        "secondary_activation": [
            None if pair[1] is None else _typed(pair[1], spec)
            for pair, spec in zip(pairs, array.secondaries, strict=True)
        ],
        "slimmable": array.slimmable and {"method": SLIMMING, "kwargs": {"allowed_channels": list(array.slimmable)}},
    }


def _film_config(films: nn.ModuleDict, place: str) -> dict[str, Any]:
    if place not in films:
        return {"active": False, "shift": True, "groups": 1}
    return {"active": True, "shift": films[place].shift, "groups": films[place].conv.groups}


def _array_config_0_5(array: LayerArray) -> dict[str, Any]:
    """The config of an array in version 0.5.4, in which all layers have the same settings."""
    full = _array_config(array)
    plain = {
        "input_size": full["input_size"],
        "condition_size": full["condition_size"],
        "head_size": array.head_channels,
        "channels": array.channels,
        "kernel_size": array.kernel_sizes[0],
        "dilations": list(array.dilations),
        "activation": full["activation"][0]["type"],
        "gated": array.gatings[0] == "gated",
        "head_bias": full["head"]["bias"],
    }
    with torch.device("meta"):
        same = LayerArray(
            array.in_channels,
            array.channels,
            array.head_channels,
            array.dilations,
            plain["kernel_size"],
            activation="Tanh" if plain["activation"] == "PReLU" else plain["activation"],
            gating="gated" if plain["gated"] else "none",
            condition_channels=array.condition_channels,
            head_bias=plain["head_bias"],
        )
    if _array_config(same) != full:
        raise WavedilError(
            "version is 0.5.4, which has one kernel size, one plain activation and no bottleneck, groups, modulation, "
            "head kernel, blending or slimming: write version 0.7.0"
        )
    return plain


def _primary(activation: nn.Module) -> tuple[nn.Module, nn.Module | None]:
    """The activation and that of its gate."""
    return (activation.primary, activation.secondary) if isinstance(activation, Gated) else (activation, None)


def _typed(module: nn.Module, spec: Any) -> dict[str, Any]:
    """The config of an activation; the slopes of a PReLU are weights."""
    if isinstance(module, nn.PReLU):
        slopes = module.weight.tolist()
        return {"type": "PReLU"} | ({"negative_slopes": slopes} if len(slopes) > 1 else {"negative_slope": slopes[0]})
    return {"type": spec} if isinstance(spec, str) else dict(spec)


def _spec(module: nn.Module, spec: Any) -> Any:
    typed = _typed(module, spec)
    return spec if isinstance(spec, str) and len(typed) == 1 else typed
