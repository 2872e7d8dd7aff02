"""Reads ``.nam`` files."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wavedil.audio.models.activations import make_activation
from wavedil.audio.models.effect_model import EffectModel
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer, NAMConvNet, NAMLinear
from wavedil.errors import WavedilError, first_line, one_of, shown
from wavedil.interop.nam import keys
from wavedil.interop.nam.weights import count, fill
from wavedil.interop.objects import check_object

#: 3 minutes at 48 kHz, more than any amplifier; a malformed file with more would exhaust memory.
MAX_RECEPTIVE_FIELD = 2**23
MAX_NESTING = 8  # of networks in each other
MAX_LAYERS = 2000  # of all networks; those of NAM have 20
LARGEST = torch.finfo(torch.float32).max


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
    if not isinstance(content, Mapping) or not {"architecture", "config"} & content.keys():
        raise WavedilError(f"{path} is not a .nam file: expected an object with architecture, config and weights")
    try:
        return _Reader().read(content, "").eval()
    except WavedilError as error:
        raise WavedilError(f"{path}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, MemoryError) as error:
        raise WavedilError(
            f"{path} is damaged ({type(error).__name__}: {first_line(error)}): expected a .nam file"
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
        prefix = f"{place}." if place else ""
        check_object(content, keys.TOP, place)
        name = content["architecture"]
        if name not in keys.CONFIG:
            raise WavedilError(f"{prefix}architecture is {shown(name)}: expected {one_of(name, keys.CONFIG)}")
        _check_version(content.get("version", "0.5.0"), prefix)
        config = check_object(content["config"], keys.CONFIG[name], f"{prefix}config")
        options = {"sample_rate": _sample_rate(content, rate, prefix), "metadata": content.get("metadata")}
        if name == "SlimmableContainer":
            model = self._container(config, content.get("weights"), prefix, options)
        else:
            weights = _parse_weights(content, f"{prefix}weights")
            if name == "WaveNet":
                model = self._wavenet(config, weights, prefix, any_output, options)
            else:
                model = self._other(name, config, weights, prefix, options)
        self.depth -= 1
        return model

    def _count_layers(self, number: int) -> None:
        self.layers += number
        if self.layers > MAX_LAYERS:
            raise WavedilError(f"the file has more than {MAX_LAYERS} layers: it is damaged")

    def _container(self, config: Mapping[str, Any], weights: Any, prefix: str, options: dict[str, Any]) -> EffectModel:
        if weights:
            raise WavedilError(f"{prefix}weights has numbers: expected none, since the submodels have their own")
        place, submodels = f"{prefix}config.submodels", config["submodels"]
        if not submodels:
            raise WavedilError(f"{place} is empty: expected at least one network")
        self._count_layers(len(submodels))
        networks, ends = [], []
        for index, entry in enumerate(submodels):
            check_object(entry, keys.SUBMODEL, f"{place}[{index}]")
            networks.append(self.read(entry["model"], f"{place}[{index}].model", options["sample_rate"]))
            ends.append(entry["max_value"])
        if networks[0].sample_rate != options["sample_rate"]:
            raise WavedilError(
                f"{prefix}sample_rate is {options['sample_rate']} and that of the submodels {networks[0].sample_rate}: "
                "expected the same"
            )
        with _names(place):
            return NAMContainer(networks, ends, metadata=options["metadata"])

    def _wavenet(
        self, config: Mapping[str, Any], weights: Tensor, prefix: str, any_output: bool, options: dict[str, Any]
    ) -> EffectModel:
        place, layers = f"{prefix}config", config["layers"]
        if not layers:
            raise WavedilError(f"{place}.layers is empty: expected at least one layer array")
        for index, layer in enumerate(layers):
            keys.check_array(layer, f"{place}.layers[{index}]")
            for key in ("activation", "secondary_activation"):
                _check_activation(layer.get(key), f"{place}.layers[{index}].{key}")
            self._count_layers(1 + len(layer["dilations"]))
        head = config.get("head")
        if head is not None:
            check_object(head, keys.POST_HEAD, f"{place}.head")
            self._count_layers(len(head["kernel_sizes"]))
            _check_activation(head["activation"], f"{place}.head.activation")
        condition = config.get("condition_dsp")
        if condition is not None:
            condition = self.read(condition, f"{place}.condition_dsp", options["sample_rate"], any_output=True)
            if not isinstance(condition, NAM):
                raise WavedilError(f"{place}.condition_dsp is of another architecture: expected WaveNet")
        # As in NAM, the last number is head_scale; it is rounded to float32 there, and exact in the config.
        scale, last = float(config.get("head_scale", 1.0)), float(weights[-1])

        def build() -> NAM:
            arrays = []
            for index, layer in enumerate(layers):
                with _names(f"{place}.layers[{index}]"):
                    arrays.append(_array(layer))
            with _names(place):
                channels = _post_head_channels(arrays, head) if head else arrays[-1].head_channels
                return NAM(
                    arrays,
                    head_scale=scale if abs(scale - last) <= 1e-5 else last,
                    head=head and {key: head[key] for key in sorted(keys.POST_HEAD.required)},
                    condition=condition,
                    out_channels=channels if any_output else 1,
                    **options,
                )

        return _filled(build, weights[:-1], prefix, 1)

    def _other(
        self, name: str, config: Mapping[str, Any], weights: Tensor, prefix: str, options: dict[str, Any]
    ) -> EffectModel:
        settings = {key: value for key, value in config.items() if keys.CONFIG[name].keys[key] is not keys.One}
        depth = len(config["dilations"]) if name == "ConvNet" else config.get("num_layers", 1)
        self._count_layers(1 + depth)
        if name == "ConvNet":
            _check_activation(config["activation"], f"{prefix}config.activation")
        network = {"Linear": NAMLinear, "LSTM": NAMLSTM, "ConvNet": NAMConvNet}[name]

        def build() -> EffectModel:
            with _names(f"{prefix}config"):
                return network(**settings, **options)

        return _filled(build, weights, prefix)


@contextmanager
def _names(place: str) -> Iterator[None]:
    """Adds the place in the file to errors of constructors, which name their arguments."""
    try:
        yield
    except WavedilError as error:
        raise WavedilError(f"{place}: {error}") from None


def _filled(build: Callable[[], EffectModel], weights: Tensor, prefix: str, further: int = 0) -> EffectModel:
    """The model that ``build`` returns, with these weights; the file has ``further`` numbers after them."""
    with torch.device("meta"):  # counts the weights before it allocates them: a malformed config may need any number
        wanted = count(build())
    if len(weights) != wanted:
        raise WavedilError(
            f"{prefix}weights has {len(weights) + further} numbers: expected {wanted + further} by the config; it may "
            "be truncated"
        )
    model = build()
    if model.receptive_field > MAX_RECEPTIVE_FIELD:
        raise WavedilError(
            f"{prefix}config: the receptive field is {model.receptive_field} samples: expected at most "
            f"{MAX_RECEPTIVE_FIELD}"
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
        activation=layer["activation"],
        gating=gating,
        secondary="Sigmoid" if secondary is None else secondary,
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
    if inputs is not None and inputs != arrays[-1].head_channels:
        raise WavedilError(
            f"head.in_channels is {inputs!r}: expected {arrays[-1].head_channels}, as the last layer has"
        )
    return head["out_channels"]


def _check_activation(spec: Any, place: str) -> None:
    """Raises WavedilError for an unknown name or parameter, also of an activation that no layer uses.

    A PReLU without slopes is refused, since other programs set them differently.
    """
    for index, one in enumerate(spec if isinstance(spec, list) else [spec]):
        name, inner = one.get("type") if isinstance(one, Mapping) else one, f"{place}[{index}]"
        inner = inner if isinstance(spec, list) else place
        if name == "PReLU" and (isinstance(one, str) or len(one) == 1):
            raise WavedilError(f"{inner} is {shown(one)}: expected PReLU with negative_slope or negative_slopes")
        if one is not None:
            make_activation(one, inner)


def _check_version(version: str | float, prefix: str) -> None:
    parts = str(version).split(".")[:2]
    if not all(part.isdecimal() and len(part) < 9 for part in parts):
        raise WavedilError(f"{prefix}version is {shown(version)}: expected a version such as '0.7.0'")
    if list(map(int, parts)) > [0, 7]:
        raise WavedilError(f"{prefix}version is {version}: expected 0.7 or older")


def _sample_rate(content: Mapping[str, Any], rate: int | None, prefix: str) -> int:
    found = content.get("sample_rate") or rate or 48000  # missing in early files; NAM captures at 48 kHz
    if found != int(found):
        raise WavedilError(f"{prefix}sample_rate is {found!r}: expected Hz as an integer")
    return int(found)


def _parse_weights(content: Mapping[str, Any], place: str) -> Tensor:
    if "weights" not in content:
        raise WavedilError(f"{place} is missing: expected a list of numbers")
    weights = content["weights"]
    if not isinstance(weights, list) or not weights:
        raise WavedilError(f"{place} is {shown(weights)}: expected a list of numbers")
    for index, number in enumerate(weights):
        if type(number) not in (int, float):
            raise WavedilError(f"{place}[{index}] is {shown(number)}: expected a number")
        if not abs(number) <= LARGEST:
            raise WavedilError(
                f"{place}[{index}] is {shown(number)}: expected a finite number in float32; the file is damaged, or "
                "its training diverged"
            )
    return torch.tensor(weights, dtype=torch.float64)
