"""Amplifier models in JSON files: of RTNeural and AIDA-X (layers of Keras), and of Proteus (tensors of torch).

Sources: ``RTNeural/model_loader.h``, and in AIDA-X ``applyModel``: the output is ``chain(g x)``, plus ``g x`` with
``in_skip`` 1, times the output gain. Proteus and Automated-GuitarAmpModelling write ``model_data`` and ``state_dict``.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavedil.audio.models.layer_chain import LayerChain
from wavedil.errors import WavedilError, count_text, one_of, shown
from wavedil.files import check_regular_file
from wavedil.interop.objects import ANY, Object, check_object

_log = logging.getLogger("wavedil")

MAX_BYTES = 2**26  # of a file; a model of 100,000 weights has 4 MB
MAX_LAYERS, MAX_KNOBS, MAX_RECEPTIVE_FIELD = 200, 16, 2**23
_DB = -200, 200
#: At the top of a file, and its parts. The keys of ``_NOTES`` change nothing.
_NOTES = dict.fromkeys(("metadata", "esr", "author", "input_batch", "output_batch"), Any)
_SIZE = list | float  # a number, or a list that ends with it
_KERAS = Object(
    {"in_shape": _SIZE, "layers": list},
    {"in_skip": Any, "in_gain": Any, "out_gain": Any, "samplerate": Any, **_NOTES},
)
_LAYER = Object(
    {"type": str, "shape": _SIZE, "weights": list},
    {"activation": str | None, "kernel_size": _SIZE, "dilation": _SIZE},
)
_TORCH = Object({"model_data": ANY, "state_dict": ANY}, _NOTES)
_MODEL_DATA = Object(
    {"input_size": float, "unit_type": str, "hidden_size": float},
    {"model": str, "skip": Any, "output_size": float, "num_layers": float, "bias_fl": Any},
)
_TYPES = ("lstm", "gru", "dense", "time-distributed-dense", "conv1d", "activation", "prelu")
_ACTIVATIONS = {"": None, "tanh": "Tanh", "relu": "ReLU", "sigmoid": "Sigmoid", "elu": "ELU"}


def read_rtneural(path: str | Path, sample_rate: int | None = None) -> LayerChain:
    """Reads a JSON file of RTNeural, AIDA-X or Proteus as a model in evaluation mode.

    Inputs beside the sound are knobs ``param1``, ``param2``, ... from 0 to 1, as these programs call them.

    Args:
        path: the file.
        sample_rate: in Hz. None takes that of the file; without one, 44100 for files of Proteus, else 48000.

    Raises:
        WavedilError: the file is malformed, or has an unsupported layer or key.
    """
    path = Path(path)
    check_regular_file(path, "weights")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise WavedilError(f"{path} has {path.stat().st_size} bytes: expected at most {MAX_BYTES}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WavedilError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise WavedilError(f"{path} is not JSON: {error}") from None
    try:
        if isinstance(content, Mapping) and "model_data" in content:
            model = _read_torch(content, sample_rate)
        elif isinstance(content, Mapping) and "layers" in content:
            model = _read_keras(content, sample_rate)
        else:
            raise WavedilError("expected an object with layers (RTNeural, AIDA-X), or model_data (Proteus)")
    except WavedilError as error:
        raise WavedilError(f"{path}: {error}") from None
    return model.eval()


def _read_keras(content: Mapping[str, Any], sample_rate: int | None) -> LayerChain:
    check_object(content, _KERAS)
    layers = content["layers"]
    if not 0 < len(layers) <= MAX_LAYERS:
        raise WavedilError(f"layers has {count_text(len(layers), 'entry')}: expected 1 to {MAX_LAYERS}")
    inputs = width = _last(content["in_shape"], "in_shape")
    specs: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        place = f"layers[{number}]"
        check_object(layer, _LAYER, place)
        kind, activation = layer["type"], layer.get("activation") or ""
        if kind not in list(_TYPES):
            raise WavedilError(f"{place}.type is {shown(kind)}: expected {one_of(kind, _TYPES)}")
        if activation not in list(_ACTIVATIONS):
            raise WavedilError(
                f"{place}.activation is {shown(activation)}: expected {one_of(activation, _ACTIVATIONS)}"
            )
        if kind in ("activation", "prelu"):
            if not specs or specs[-1]["activation"]:
                raise WavedilError(f"{place} is an activation: expected a layer without one before it")
            specs[-1]["activation"] = _ACTIVATIONS[activation]
            if kind == "prelu":
                (slopes,) = _arrays(layer, place, (1, width))
                specs[-1]["activation"] = {"type": "PReLU", "negative_slopes": slopes[0].tolist()}
        else:
            channels = _last(layer["shape"], f"{place}.shape")
            spec, found = _read_layer(layer, kind, place, width, channels)
            if kind not in ("lstm", "gru"):
                spec["activation"] = _ACTIVATIONS[activation]
            elif activation not in ("", "tanh"):
                raise WavedilError(f"{place}.activation is {shown(activation)}: expected tanh in a layer {kind}")
            tensors |= {f"layers.{len(specs)}.{name}": value for name, value in found.items()}
            specs.append({"activation": None, **spec})
            width = channels
    metadata = content.get("metadata")
    rates = [content.get("samplerate"), metadata.get("samplerate") if isinstance(metadata, Mapping) else None]
    return _build(
        specs,
        tensors,
        inputs,
        sample_rate or next((_rate(rate) for rate in rates if rate is not None), None),
        48000,
        residual=bool(_whole(content.get("in_skip", 0), "in_skip", 0, 1)),
        input_gain=_gain(content, "in_gain"),
        output_gain=_gain(content, "out_gain"),
    )


def _read_layer(
    layer: Mapping[str, Any], kind: str, place: str, width: int, channels: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The layer of a :class:`LayerChain`, and its tensors, from one of Keras with ``width`` input channels."""
    if kind == "lstm":  # gates in torch's order: input, forget, cell, output
        weight, recurrent, bias = _arrays(
            layer, place, (width, 4 * channels), (channels, 4 * channels), (4 * channels,)
        )
        return _recurrent(kind, channels, weight.T, recurrent.T, bias, torch.zeros_like(bias))
    if kind == "gru":  # gates update, reset, new; torch has reset, update, new
        shapes = (width, 3 * channels), (channels, 3 * channels), (2, 3 * channels)
        order = torch.arange(3 * channels).view(3, -1)[[1, 0, 2]].flatten()
        weight, recurrent, bias = (value[..., order] for value in _arrays(layer, place, *shapes))
        return _recurrent(kind, channels, weight.T, recurrent.T, *bias)
    size = dilation = 1
    if kind == "conv1d":
        size, dilation = (_last(layer.get(key), f"{place}.{key}") for key in ("kernel_size", "dilation"))
        weight, bias = _arrays(layer, place, (size, width, channels), (channels,))
        weight = weight.permute(2, 1, 0)
    else:
        weight, bias = _arrays(layer, place, (width, channels), (channels,))
        weight = weight.T.unsqueeze(2)
    spec = {"type": "conv", "channels": channels, "kernel_size": size, "dilation": dilation}
    return spec, {"weight": weight, "bias": bias}


def _read_torch(content: Mapping[str, Any], sample_rate: int | None) -> LayerChain:
    check_object(content, _TORCH)
    data, weights = content["model_data"], content["state_dict"]
    check_object(data, _MODEL_DATA, "model_data")
    if data.get("model", "SimpleRNN") != "SimpleRNN" or data["unit_type"] not in ("LSTM", "GRU"):
        found = f"model {shown(data.get('model'))} and unit_type {shown(data['unit_type'])}"
        raise WavedilError(f"model_data has {found}: expected SimpleRNN with LSTM or GRU")
    inputs, channels = (_whole(data[key], f"model_data.{key}", 1, 2**16) for key in ("input_size", "hidden_size"))
    num_layers = _whole(data.get("num_layers", 1), "model_data.num_layers", 1, MAX_LAYERS - 1)
    has_bias = _whole(data.get("bias_fl", 1), "model_data.bias_fl", 0, 1)
    _whole(data.get("output_size", 1), "model_data.output_size", 1, 1)
    gates = 4 if data["unit_type"] == "LSTM" else 3
    if f"rec.weight_ih_l{num_layers}" in weights:
        raise WavedilError(f"model_data.num_layers is {num_layers}: expected that of state_dict, which has more layers")
    names = [f"{part}_{side}" for part in ("weight", "bias")[: 1 + has_bias] for side in ("ih", "hh")]
    known = [*(f"rec.{name}_l{layer}" for layer in range(num_layers) for name in names), "lin.weight", "lin.bias"]
    check_object(weights, Object(dict.fromkeys(known, list)), "state_dict")
    specs, tensors, width = [], {}, inputs
    for number in range(num_layers):
        shapes = [(gates * channels, width), (gates * channels, channels), *[(gates * channels,)] * 2]
        values = [
            _array(weights[f"rec.{name}_l{number}"], f"state_dict.rec.{name}_l{number}", shape)
            for name, shape in zip(names, shapes, strict=False)
        ]
        values += [torch.zeros(gates * channels)] * (4 - len(values))
        spec, found = _recurrent(data["unit_type"].lower(), channels, *values)
        specs.append(spec)
        tensors |= {f"layers.{number}.{name}": value for name, value in found.items()}
        width = channels
    weight = _array(weights["lin.weight"], "state_dict.lin.weight", (1, width)).unsqueeze(2)
    bias = _array(weights["lin.bias"], "state_dict.lin.bias", (1,))
    tensors |= {f"layers.{num_layers}.weight": weight, f"layers.{num_layers}.bias": bias}
    specs.append({"type": "conv", "channels": 1})
    residual = bool(_whole(data.get("skip", 0), "model_data.skip", 0, 1))
    return _build(specs, tensors, inputs, sample_rate, 44100, residual=residual)


def _recurrent(
    kind: str, channels: int, weight: Tensor, recurrent: Tensor, bias: Tensor, recurrent_bias: Tensor
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors = {"weight_ih": weight, "weight_hh": recurrent, "bias_ih": bias, "bias_hh": recurrent_bias}
    return {"type": kind, "channels": channels}, {f"cell.{name}_l0": value for name, value in tensors.items()}


def _build(
    specs: list[dict[str, Any]],
    tensors: dict[str, Tensor],
    inputs: int,
    sample_rate: int | None,
    usual_rate: int,
    **options: Any,
) -> LayerChain:
    if inputs > 1 + MAX_KNOBS:
        raise WavedilError(f"the first layer has {inputs} inputs: expected the sound and at most {MAX_KNOBS} knobs")
    field = sum((spec.get("kernel_size", 1) - 1) * spec.get("dilation", 1) for spec in specs)
    if field > MAX_RECEPTIVE_FIELD:
        raise WavedilError(f"the receptive field is {field} samples: expected at most {MAX_RECEPTIVE_FIELD}")
    if sample_rate is None:
        _log.info("the file has no sample rate: %d Hz is assumed; another one: --set sample_rate=RATE", usual_rate)
    knobs = {f"param{number}": (0.0, 1.0) for number in range(1, inputs)}
    model = LayerChain(specs, knobs=knobs, sample_rate=sample_rate or usual_rate, **options)
    slopes = {name: value for name, value in model.state_dict().items() if name.startswith("activations.")}
    model.load_state_dict({name: value.contiguous() for name, value in tensors.items()} | slopes)
    return model


def _arrays(layer: Mapping[str, Any], place: str, *shapes: tuple[int, ...]) -> list[Tensor]:
    if len(layer["weights"]) != len(shapes):
        raise WavedilError(f"{place}.weights has {len(layer['weights'])} arrays: expected {len(shapes)}")
    pairs = enumerate(zip(layer["weights"], shapes, strict=True))
    return [_array(value, f"{place}.weights[{index}]", shape) for index, (value, shape) in pairs]


def _array(value: Any, place: str, shape: tuple[int, ...]) -> Tensor:
    try:
        found = torch.tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise WavedilError(f"{place}: expected numbers of shape {shape}") from None
    if tuple(found.shape) != shape:
        raise WavedilError(f"{place} has shape {tuple(found.shape)}: expected {shape}")
    if not found.isfinite().all():
        raise WavedilError(f"{place} has NaN or infinity: expected finite numbers")
    return found


def _last(value: Any, place: str) -> int:
    """The last number of a shape, e.g. of ``[null, null, 12]``."""
    return _whole(value[-1] if isinstance(value, list) and value else value, place, 1, 2**24)


def _whole(value: Any, place: str, low: int, high: int) -> int:
    if not isinstance(value, int | float) or value != value or not low <= value <= high or value != int(value):
        expected = low if low == high else f"a whole number from {low} to {high}"
        raise WavedilError(f"{place} is {shown(value)}: expected {expected}")
    return int(value)


def _rate(value: Any) -> int:
    return _whole(float(value) if isinstance(value, str) and value.isdigit() else value, "samplerate", 1, 10**7)


def _gain(content: Mapping[str, Any], key: str) -> float:
    """A factor from a gain in dB; AIDA-X ignores what is no number."""
    value = content.get(key, 0.0)
    value = 0.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not _DB[0] <= value <= _DB[1]:
        raise WavedilError(f"{key} is {shown(value)}: expected dB from {_DB[0]} to {_DB[1]}")
    return math.pow(10, value / 20) if value > -90 else 0.0
