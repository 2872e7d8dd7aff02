"""``.nam`` files of Neural Amp Modeler: JSON with a config and one flat list of weights.

Reads the architecture ``WaveNet`` of file versions 0.5.x to 0.7.0. Writes 0.7.0, which NAM 0.13 loads, or 0.5.4 for
older programs. NAM starts from zero *input* rather than zero history, so the models have ``start="zero_input"``.
"""

import json
import math
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavedil.audio.models.nam import NAM, LayerArray
from wavedil.errors import WavedilError, one_of, with_article
from wavedil.files import atomic_write

VERSIONS = ("0.7.0", "0.5.4")
#: 3 minutes at 48 kHz, more than any amplifier; a malformed file with more would exhaust memory.
MAX_RECEPTIVE_FIELD = 2**23
FILMS = tuple(
    f"{place}_film"
    for place in (
        "conv_pre", "conv_post", "input_mixin_pre", "input_mixin_post",
        "activation_pre", "activation_post", "layer1x1_post", "head1x1_post",
    )
)  # fmt: skip

#: Known keys of a config and of its layer arrays. Other keys could change the sound, so they are refused.
CONFIG_KEYS = {"layers", "head", "head_scale", "condition_dsp", "in_channels"}
TOP_KEYS = {"version", "metadata", "architecture", "config", "weights", "sample_rate"}
LAYER_KEYS = {
    "input_size", "condition_size", "channels", "dilations", "activation",
    "kernel_size", "gated", "head_size", "head_bias",  # version 0.5
    "kernel_sizes", "gating_mode", "secondary_activation", "bottleneck", "head", "head1x1", "layer1x1",
    "groups_input", "groups_input_mixin", "slimmable", *FILMS,
}  # fmt: skip
PART_KEYS = {
    "head": {"out_channels", "kernel_size", "bias"},
    "head1x1": {"active", "out_channels", "groups"},
    "layer1x1": {"active", "groups"},
    **{film: {"active", "shift", "groups"} for film in FILMS},
}
#: Keys with one meaning in different versions: only one of them may be set.
ALTERNATIVES = (
    {"kernel_size", "kernel_sizes"}, {"gated", "gating_mode"}, {"head", "head_size"}, {"head", "head_bias"}
)  # fmt: skip


def read_nam(path: str | Path) -> NAM:
    """Reads a ``.nam`` file as a model in evaluation mode.

    Raises:
        WavedilError: the file is malformed or incomplete, or uses an unsupported feature: another architecture than
            WaveNet, FiLM, groups, ``condition_dsp``, slimmable layers or an unknown key.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WavedilError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise WavedilError(f"{path} is not a .nam file: expected JSON ({error})") from None
    try:
        return _parse(content)
    except WavedilError as error:
        raise WavedilError(f"{path}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, MemoryError) as error:
        raise WavedilError(
            f"{path} is not a .nam file, or its config is incomplete or malformed ({type(error).__name__}: {error})"
        ) from None


def write_nam(model: nn.Module, path: str | Path, version: str = "0.7.0") -> Path:
    """Writes ``model`` as a ``.nam`` file.

    Raises:
        WavedilError: the model is not a :class:`NAM`, has another start-up convention than the format, or has layers
            that this version of the format cannot describe.
    """
    if not isinstance(model, NAM):
        raise WavedilError(f"model is {with_article(model)}: expected a NAM, since a .nam file holds layer arrays")
    if version not in VERSIONS:
        raise WavedilError(f"version is {version!r}: expected {one_of(version, VERSIONS)}")
    if model.start_up != "zero_input":
        raise WavedilError(
            f"start is {model.start_up!r}: expected 'zero_input', as .nam files have it; the first "
            f"{model.receptive_field - 1} samples would differ, so train with start='zero_input'"
        )
    array_config = _array_config if version == "0.7.0" else _array_config_0_5
    weights = torch.cat([tensor.detach().double().cpu().flatten() for tensor in _weights(model)])
    if not bool(torch.isfinite(weights).all()):
        raise WavedilError("the model's weights hold NaN or infinity: training diverged; use an earlier checkpoint")
    content = {
        "version": version,
        "metadata": dict(model.metadata or {}),
        "architecture": "WaveNet",
        "config": {
            "layers": [array_config(array) for array in model.arrays],
            "head": _head_config(model, version),
            "head_scale": model.head_scale,
        },
        "weights": [*weights.tolist(), model.head_scale],
        "sample_rate": model.sample_rate,
    }
    path = Path(path)
    with atomic_write(path) as beside:
        beside.write_text(json.dumps(content), encoding="utf-8")
    return path


def _parse(content: Mapping[str, Any]) -> NAM:
    architecture = content["architecture"]
    if architecture != "WaveNet":
        raise WavedilError(f"architecture is {architecture!r}: expected WaveNet")
    version = str(content.get("version", "0.5.0"))
    if [int(part) for part in version.split(".")[:2]] > [0, 7]:
        raise WavedilError(f"version is {version}: expected 0.7 or older")
    config, weights = content["config"], _parse_weights(content["weights"])
    _check_keys(content, TOP_KEYS)
    _check_keys(config, CONFIG_KEYS)
    for layer in config["layers"]:
        _check_keys(layer, LAYER_KEYS)
        for name, known in PART_KEYS.items():
            _check_keys(layer.get(name) or {}, known, f"{name}.")
        for keys in ALTERNATIVES:
            if len(given := sorted(key for key in keys if layer.get(key) is not None)) > 1:
                raise WavedilError(f"{given[0]} and {given[1]} are both set: expected only one of them")
    if config.get("in_channels", 1) != 1:
        raise WavedilError(f"in_channels is {config['in_channels']}: expected 1")
    if config.get("condition_dsp") is not None:
        raise WavedilError("condition_dsp is not supported: expected null")
    with torch.device("meta"):  # counts the weights before it allocates them: a malformed config may need any number
        wanted = sum(tensor.numel() for tensor in _weights(_build(content, 1.0))) + 1
    if len(weights) != wanted:
        raise WavedilError(f"weights has {len(weights)} numbers: expected {wanted} by the config; it may be truncated")
    # As in NAM, the last number is head_scale; it is rounded to float32 there, and exact in the config.
    scale, last = float(config.get("head_scale", 1.0)), float(weights[-1])
    model = _build(content, scale if abs(scale - last) <= 1e-5 else last)
    if model.receptive_field > MAX_RECEPTIVE_FIELD:
        raise WavedilError(
            f"the receptive field is {model.receptive_field} samples: expected at most {MAX_RECEPTIVE_FIELD}"
        )
    start = 0
    with torch.no_grad():
        for tensor in _weights(model):
            tensor.copy_(weights[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()
    return model.eval()


def _check_keys(config: Mapping[str, Any], known: Set[str], prefix: str = "") -> None:
    unknown = [key for key, value in config.items() if key not in known and value is not None and value is not False]
    if unknown:
        raise WavedilError(
            f"{prefix}{unknown[0]} is not supported: expected {one_of(unknown[0], sorted(known), some=True)}"
        )


def _build(content: Mapping[str, Any], scale: float) -> NAM:
    config = content["config"]
    rate = content.get("sample_rate") or 48000  # missing in early files; NAM captures at 48 kHz
    if rate != int(rate):
        raise WavedilError(f"sample_rate is {rate!r}: expected Hz as an integer")
    arrays = [_build_array(layer) for layer in config["layers"]]
    inputs = (config.get("head") or {}).get("in_channels")
    if inputs is not None and arrays and inputs != arrays[-1].head_channels:
        raise WavedilError(
            f"head.in_channels is {inputs!r}: expected {arrays[-1].head_channels}, as the last layer has"
        )
    return NAM(
        arrays,
        head_scale=scale,
        head=_parse_head(config.get("head")),
        sample_rate=int(rate),
        metadata=content.get("metadata"),
    )


def _build_array(layer: Mapping[str, Any]) -> LayerArray:
    films = [key for key in FILMS if (layer.get(key) or {}).get("active")]
    groups = [key for key in ("groups_input", "groups_input_mixin") if layer.get(key, 1) != 1]
    layer1x1, head1x1 = layer.get("layer1x1") or {}, layer.get("head1x1") or {}
    groups += [
        key
        for key, one in (("layer1x1", layer1x1), ("head1x1", head1x1))
        if one.get("active", True) and one.get("groups", 1) != 1
    ]
    unsupported = [*films, *groups, *(["slimmable"] if layer.get("slimmable") else [])]
    if unsupported:
        raise WavedilError(f"{unsupported[0]} of a layer array is not supported")
    head = layer.get("head") or {"out_channels": layer["head_size"], "kernel_size": 1, "bias": layer["head_bias"]}
    gating = layer.get("gating_mode")
    if gating is None:
        gating = "gated" if layer.get("gated", False) else "none"
    return LayerArray(
        layer["input_size"],
        layer["channels"],
        head["out_channels"],
        layer["dilations"],
        layer["kernel_sizes"] if "kernel_sizes" in layer else layer["kernel_size"],
        activation=layer["activation"],
        gating=gating,
        secondary=layer.get("secondary_activation") or "Sigmoid",
        bottleneck=layer.get("bottleneck"),
        condition_channels=layer["condition_size"],
        head_kernel_size=head["kernel_size"],
        head_bias=head["bias"],
        layer1x1=layer1x1.get("active", True),
        head1x1_channels=head1x1["out_channels"] if head1x1.get("active") else 0,
    )


def _parse_head(head: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if head is None:
        return None
    names = ("channels", "kernel_sizes", "activation", "out_channels")
    _check_keys(head, {*names, "in_channels"}, "head.")
    return {name: head[name] for name in names}


def _weights(model: NAM) -> Iterator[Tensor]:
    """All weights in the order of the file, without the last number, head_scale."""
    convs: list[nn.Module | None] = []
    for array in model.arrays:
        convs.append(array.rechannel)
        for layer in array.layers:
            convs += [layer.conv, layer.mixin, layer.layer1x1, layer.head1x1]
        convs.append(array.head_rechannel)
    if model.head is not None:
        convs += model.head.convs
    for conv in convs:
        if conv is not None:
            yield from [conv.weight] if conv.bias is None else [conv.weight, conv.bias]


def _parse_weights(weights: Any) -> Tensor:
    if not isinstance(weights, list) or not all(isinstance(w, int | float) for w in weights) or not weights:
        raise WavedilError("weights is not a list of numbers: the file is damaged")
    if not all(map(math.isfinite, weights)):
        raise WavedilError("weights has NaN or infinity: the file is damaged, or the training diverged")
    return torch.tensor(weights, dtype=torch.float64)


def _array_config(array: LayerArray) -> dict[str, Any]:
    """The config of an array in version 0.7.0."""
    inactive = {"active": False, "shift": True, "groups": 1}
    first = array.layers[0]
    return {
        "input_size": array.in_channels,
        "condition_size": array.condition_channels,
        "head": {
            "out_channels": array.head_channels,
            "kernel_size": array.head_rechannel.kernel_size[0],
            "bias": array.head_rechannel.bias is not None,
        },
        "channels": array.channels,
        "kernel_sizes": array.kernel_sizes,
        "dilations": list(array.dilations),
        "activation": [_typed(spec) for spec in array.activations],
        "bottleneck": array.bottleneck,
        "head1x1": {"active": first.head1x1 is not None, "out_channels": array.head1x1_channels or 1, "groups": 1},
        "layer1x1": {"active": first.layer1x1 is not None, "groups": 1},
        "groups_input": 1,
        "groups_input_mixin": 1,
        **{key: inactive for key in FILMS},
        "gating_mode": array.gatings,
        "secondary_activation": [
            None if gating == "none" else _typed(spec)
            for spec, gating in zip(array.secondaries, array.gatings, strict=True)
        ],
        "slimmable": None,
    }


def _array_config_0_5(array: LayerArray) -> dict[str, Any]:
    """The config of an array in version 0.5.4, where all layers are alike."""
    first = array.layers[0]
    activation = _typed(array.activations[0])
    lists = (array.kernel_sizes, array.activations, array.gatings)
    plain = (
        all(len({json.dumps(value) for value in values}) == 1 for values in lists)
        and activation.keys() == {"type"}
        and array.gatings[0] in ("none", "gated")
        and (array.gatings[0] == "none" or all(_typed(spec) == {"type": "Sigmoid"} for spec in array.secondaries))
        and array.bottleneck == array.channels
        and array.head_rechannel.kernel_size == (1,)
        and first.layer1x1 is not None
        and first.head1x1 is None
    )
    if not plain:
        raise WavedilError(
            "version is 0.5.4, which has one kernel size, one plain activation and no bottleneck, head kernel or "
            "blending: write version 0.7.0"
        )
    return {
        "input_size": array.in_channels,
        "condition_size": array.condition_channels,
        "head_size": array.head_channels,
        "channels": array.channels,
        "kernel_size": array.kernel_sizes[0],
        "dilations": list(array.dilations),
        "activation": activation["type"],
        "gated": array.gatings[0] == "gated",
        "head_bias": array.head_rechannel.bias is not None,
    }


def _head_config(model: NAM, version: str) -> dict[str, Any] | None:
    if model.head is None:
        return None
    if version != "0.7.0":
        raise WavedilError("version is 0.5.4, which has no convolutions after the arrays: write version 0.7.0")
    return {"activation": "ReLU", "out_channels": 1, **model.config["head"]}


def _typed(spec: Any) -> dict[str, Any]:
    return {"type": spec} if isinstance(spec, str) else dict(spec)
