"""Reads ``.nam`` files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavedil.audio.models.activations import make_activation
from wavedil.audio.models.effect_model import EffectModel
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer, NAMConvNet, NAMLinear
from wavedil.errors import WavedilError, one_of, shown
from wavedil.interop.nam import keys
from wavedil.interop.nam.keys import check_keys
from wavedil.interop.nam.weights import count, fill

#: 3 minutes at 48 kHz, more than any amplifier; a malformed file with more would exhaust memory.
MAX_RECEPTIVE_FIELD = 2**23
MAX_NESTING = 8  # of networks in each other
MAX_LAYERS = 2000  # of all networks; those of NAM have 20


def read_nam(path: str | Path) -> EffectModel:
    """Reads a ``.nam`` file as a model in evaluation mode: a :class:`NAM` for the architecture WaveNet, and
    :class:`NAMLSTM`, :class:`NAMConvNet`, :class:`NAMLinear` and :class:`NAMContainer`.

    Slimmable networks and containers are used at quality 1; ``at_quality`` returns the network of another one.

    Raises:
        WavedilError: the file is malformed or incomplete, or has an unsupported architecture or key.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WavedilError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise WavedilError(f"{path} is not a .nam file: expected JSON ({error})") from None
    if not isinstance(content, Mapping) or not {"architecture", "config"} <= content.keys():
        raise WavedilError(f"{path} is not a .nam file: expected an object with architecture, config and weights")
    try:
        return _Reader().read(content, "").eval()
    except WavedilError as error:
        raise WavedilError(f"{path}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, MemoryError) as error:
        raise WavedilError(
            f"{path} is not a .nam file, or its config is incomplete or malformed ({type(error).__name__}: {error})"
        ) from None


class _Reader:
    """Reads a file, with the networks that it contains."""

    def __init__(self) -> None:
        self.depth = self.layers = 0

    def read(self, content: Any, place: str, rate: int | None = None, any_output: bool = False) -> EffectModel:
        """The network of ``content``.

        Args:
            place: where in the file it is.
            rate: sample rate in Hz if the content has none.
            any_output: it may have several output channels.
        """
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise WavedilError(f"networks are nested deeper than {MAX_NESTING}: the file is damaged")
        check_keys(content, keys.TOP, place)
        name = content["architecture"]
        if name not in list(keys.CONFIG):
            raise WavedilError(f"architecture is {shown(name)}: expected {one_of(name, keys.CONFIG)}")
        version = str(content.get("version", "0.5.0"))
        if [int(part) for part in version.split(".")[:2]] > [0, 7]:
            raise WavedilError(f"version is {version}: expected 0.7 or older")
        prefix = f"{place}." if place else ""
        config = check_keys(content["config"], keys.CONFIG[name], f"{prefix}config")
        for key in keys.ONE:
            if config.get(key, 1) != 1:
                raise WavedilError(f"{prefix}config.{key} is {shown(config[key])}: expected 1")
        options = {"sample_rate": _sample_rate(content, rate), "metadata": _metadata(content, prefix)}
        if name == "SlimmableContainer":
            model = self._container(config, content.get("weights"), f"{prefix}config", options)
        else:
            weights = _parse_weights(content["weights"])
            if name == "WaveNet":
                model = self._wavenet(config, weights, f"{prefix}config", any_output, options)
            else:
                model = self._other(name, config, weights, options)
        self.depth -= 1
        return model

    def _count_layers(self, number: int) -> None:
        self.layers += number
        if self.layers > MAX_LAYERS:
            raise WavedilError(f"the file has more than {MAX_LAYERS} layers: it is damaged")

    def _container(self, config: Mapping[str, Any], weights: Any, place: str, options: dict[str, Any]) -> EffectModel:
        if weights:
            raise WavedilError("weights has numbers: expected none, since the submodels have their own")
        if not isinstance(config["submodels"], list):
            raise WavedilError(f"{place}.submodels is {shown(config['submodels'])}: expected a list")
        self._count_layers(len(config["submodels"]))
        networks, ends = [], []
        for index, entry in enumerate(config["submodels"]):
            name = f"{place}.submodels[{index}]"
            check_keys(entry, keys.SUBMODEL, name)
            networks.append(self.read(entry["model"], f"{name}.model", options["sample_rate"]))
            ends.append(entry["max_value"])
        if networks and networks[0].sample_rate != options["sample_rate"]:
            raise WavedilError(
                f"sample_rate is {options['sample_rate']} and that of the submodels {networks[0].sample_rate}: "
                "expected the same"
            )
        return NAMContainer(networks, ends, metadata=options["metadata"])

    def _wavenet(
        self, config: Mapping[str, Any], weights: Tensor, place: str, any_output: bool, options: dict[str, Any]
    ) -> EffectModel:
        for index, layer in enumerate(config["layers"]):
            keys.check_array(layer, f"{place}.layers[{index}]")
            if not isinstance(layer["dilations"], list):
                raise WavedilError(f"{place}.layers[{index}].dilations is {shown(layer['dilations'])}: expected a list")
            self._count_layers(1 + len(layer["dilations"]))
        head = config.get("head")
        if head is not None:
            check_keys(head, keys.POST_HEAD, f"{place}.head")
            self._count_layers(len(head["kernel_sizes"]))
            _activation(head["activation"])
        condition = config.get("condition_dsp")
        if condition is not None:
            condition = self.read(condition, f"{place}.condition_dsp", options["sample_rate"], any_output=True)
            if not isinstance(condition, NAM):
                raise WavedilError(f"{place}.condition_dsp is of another architecture: expected WaveNet")
        # As in NAM, the last number is head_scale; it is rounded to float32 there, and exact in the config.
        scale, last = float(config.get("head_scale", 1.0)), float(weights[-1])

        def build() -> NAM:
            arrays = [_array(layer) for layer in config["layers"]]
            channels = _post_head_channels(arrays, head) if head else arrays[-1].head_channels if arrays else 1
            return NAM(
                arrays,
                head_scale=scale if abs(scale - last) <= 1e-5 else last,
                head=head and {key: head[key] for key in sorted(keys.POST_HEAD - {"in_channels"})},
                condition=condition,
                out_channels=channels if any_output else 1,
                **options,
            )

        return _filled(build, weights[:-1], 1)

    def _other(self, name: str, config: Mapping[str, Any], weights: Tensor, options: dict[str, Any]) -> EffectModel:
        self._count_layers(1)
        if name == "Linear":
            return _filled(lambda: NAMLinear(config["receptive_field"], config.get("bias", False), **options), weights)
        if name == "LSTM":
            self._count_layers(config.get("num_layers", 1))
            return _filled(lambda: NAMLSTM(config["hidden_size"], config.get("num_layers", 1), **options), weights)
        self._count_layers(len(config["dilations"]))
        activation, batchnorm = _activation(config["activation"]), config["batchnorm"]
        return _filled(
            lambda: NAMConvNet(config["channels"], config["dilations"], activation, batchnorm=batchnorm, **options),
            weights,
        )


def _filled(build: Any, weights: Tensor, further: int = 0) -> EffectModel:
    """The model that ``build`` returns, with these weights; the file has ``further`` numbers after them."""
    with torch.device("meta"):  # counts the weights before it allocates them: a malformed config may need any number
        wanted = count(build())
    if len(weights) != wanted:
        raise WavedilError(
            f"weights has {len(weights) + further} numbers: expected {wanted + further} by the config; it may be "
            "truncated"
        )
    model = build()
    if model.receptive_field > MAX_RECEPTIVE_FIELD:
        raise WavedilError(
            f"the receptive field is {model.receptive_field} samples: expected at most {MAX_RECEPTIVE_FIELD}"
        )
    fill(model, weights)
    return model


def _array(layer: Mapping[str, Any]) -> LayerArray:
    layer1x1, head1x1 = layer.get("layer1x1") or {}, layer.get("head1x1") or layer.get("head_1x1") or {}
    head = layer.get("head") or {"out_channels": layer["head_size"], "kernel_size": 1, "bias": layer["head_bias"]}
    gating = layer.get("gating_mode")
    if gating is None:
        gating = "gated" if layer.get("gated", False) else "none"
    secondary = layer.get("secondary_activation")
    films = {
        film.removesuffix("_film"): {"shift": layer[film].get("shift", True), "groups": layer[film].get("groups", 1)}
        for film in keys.FILMS
        if (layer.get(film) or {}).get("active")
    }
    uses_head1x1 = head1x1.get("active", False)
    return LayerArray(
        layer["input_size"],
        layer["channels"],
        head["out_channels"],
        layer["dilations"],
        layer["kernel_sizes"] if layer.get("kernel_sizes") is not None else layer["kernel_size"],
        activation=_activation(layer["activation"]),
        gating=gating,
        secondary="Sigmoid" if secondary is None else _activation(secondary),
        bottleneck=layer.get("bottleneck"),
        condition_channels=layer["condition_size"],
        head_kernel_size=head["kernel_size"],
        head_bias=head["bias"],
        layer1x1=layer1x1.get("active", True),
        layer1x1_groups=layer1x1.get("groups", 1) if layer1x1.get("active", True) else 1,
        head1x1_channels=head1x1["out_channels"] if uses_head1x1 else 0,
        head1x1_groups=head1x1.get("groups", 1) if uses_head1x1 else 1,
        head_dilation=head.get("head_dilation", 1),
        groups=layer.get("groups_input", 1),
        mixin_groups=layer.get("groups_input_mixin", 1),
        films=films or None,
        slimmable=_slimmable(layer),
    )


def _slimmable(layer: Mapping[str, Any]) -> list[int] | None:
    if layer.get("slimmable") is None:
        return None
    allowed = (layer["slimmable"].get("kwargs") or {}).get("allowed_channels")
    return list(range(1, layer["channels"] + 1)) if allowed is None else allowed


def _post_head_channels(arrays: list[LayerArray], head: Mapping[str, Any]) -> int:
    inputs = head.get("in_channels")
    if inputs is not None and arrays and inputs != arrays[-1].head_channels:
        raise WavedilError(
            f"head.in_channels is {inputs!r}: expected {arrays[-1].head_channels}, as the last layer has"
        )
    return head["out_channels"]


def _activation(spec: Any) -> Any:
    """Returns ``spec``, one or a list, of which none has an unknown key, also if no layer uses it.

    A PReLU without slopes is refused, since other programs set them differently.
    """
    for one in [one for one in (spec if isinstance(spec, list) else [spec]) if one is not None]:
        name = one.get("type") if isinstance(one, Mapping) else one
        if name == "PReLU" and (isinstance(one, str) or len(one) == 1):
            raise WavedilError(f"activation is {shown(one)}: expected PReLU with negative_slope or negative_slopes")
        make_activation(one)
    return spec


def _sample_rate(content: Mapping[str, Any], rate: int | None) -> int:
    found = content.get("sample_rate") or rate or 48000  # missing in early files; NAM captures at 48 kHz
    if found != int(found):
        raise WavedilError(f"sample_rate is {found!r}: expected Hz as an integer")
    return int(found)


def _metadata(content: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    metadata = content.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise WavedilError(f"{prefix}metadata is {shown(metadata)}: expected an object")
    return metadata


def _parse_weights(weights: Any) -> Tensor:
    if not isinstance(weights, list) or not all(type(w) in (int, float) for w in weights) or not weights:
        raise WavedilError("weights is not a list of numbers: the file is damaged")
    numbers = torch.tensor(weights, dtype=torch.float64)
    if not bool(numbers.float().isfinite().all()):
        raise WavedilError("weights has NaN or infinity in float32: the file is damaged, or the training diverged")
    return numbers
