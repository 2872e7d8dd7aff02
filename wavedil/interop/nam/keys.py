"""The keys that ``.nam`` files may have. Another one could change the sound, so it is refused, whatever its value."""

from collections.abc import Mapping, Set
from typing import Any

from wavedil.audio.models.nam.layer import FILM_PLACES
from wavedil.errors import WavedilError, one_of, shown

FILMS = tuple(f"{place}_film" for place in FILM_PLACES)
SLIMMING = "slice_channels_uniform"

TOP = {"version", "metadata", "architecture", "config", "weights", "sample_rate", "notes"}
#: Of the config, by architecture.
CONFIG = {
    "WaveNet": {"layers", "head", "head_scale", "condition_dsp", "in_channels"},
    "LSTM": {"input_size", "hidden_size", "num_layers", "in_channels", "out_channels"},
    "ConvNet": {"channels", "dilations", "batchnorm", "activation", "groups", "in_channels", "out_channels"},
    "Linear": {"receptive_field", "bias", "in_channels", "out_channels"},
    "SlimmableContainer": {"submodels"},
}
#: Keys of a config with only one value that a sound of one channel can have.
ONE = ("in_channels", "out_channels", "input_size", "groups")
LAYER = {
    "input_size", "condition_size", "channels", "dilations", "activation",
    "kernel_size", "gated", "head_size", "head_bias",  # version 0.5
    "kernel_sizes", "gating_mode", "secondary_activation", "bottleneck", "head", "head1x1", "layer1x1",
    "head_1x1",  # head1x1 in early files of version 0.6
    "groups_input", "groups_input_mixin", "slimmable", *FILMS,
}  # fmt: skip
#: Of the objects in a layer array.
PARTS = {
    "head": {"out_channels", "kernel_size", "bias", "head_dilation"},
    "head1x1": {"active", "out_channels", "groups"},
    "head_1x1": {"active", "out_channels", "groups"},
    "layer1x1": {"active", "groups"},
    "slimmable": {"method", "kwargs"},
    **{film: {"active", "shift", "groups"} for film in FILMS},
}
SWITCHED = ("head1x1", "head_1x1", "layer1x1")
SLIMMING_OPTIONS = {"allowed_channels", "boosting", "init_strategy"}  # the last two matter in training only
POST_HEAD = {"channels", "kernel_sizes", "activation", "out_channels", "in_channels"}
SUBMODEL = {"max_value", "model"}
#: Keys with one meaning in different versions: only one of them may be set.
ALTERNATIVES = (
    {"kernel_size", "kernel_sizes"}, {"gated", "gating_mode"}, {"head", "head_size"}, {"head", "head_bias"},
    {"head1x1", "head_1x1"},
)  # fmt: skip


def check_keys(value: Any, known: Set[str], name: str = "") -> Mapping[str, Any]:
    """Returns ``value``; raises WavedilError unless it is an object with no other keys. ``name`` is its place."""
    if not isinstance(value, Mapping):
        raise WavedilError(
            f"{name or 'the content'} is {shown(value)}: expected an object with {', '.join(sorted(known))}"
        )
    for key in value:
        if key not in known:
            place = f"{name}.{key}" if name else key
            raise WavedilError(f"{place} is not supported: expected {one_of(key, sorted(known), some=True)}")
    return value


def check_array(layer: Any, name: str) -> None:
    """Checks the keys of a layer array and of its parts."""
    check_keys(layer, LAYER, name)
    for part, known in PARTS.items():
        if layer.get(part) is not None and not (part in FILMS and layer[part] is False):
            check_keys(layer[part], known, f"{name}.{part}")
    if layer.get("slimmable") is not None:
        check_keys(layer["slimmable"].get("kwargs") or {}, SLIMMING_OPTIONS, f"{name}.slimmable.kwargs")
        if layer["slimmable"].get("method") != SLIMMING:
            raise WavedilError(
                f"{name}.slimmable.method is {shown(layer['slimmable'].get('method'))}: expected {SLIMMING}"
            )
    for film in FILMS:
        # Without active, the Python package takes a modulation as inactive and the C++ core as active.
        if isinstance(layer.get(film), Mapping) and type(layer[film].get("active")) is not bool:
            raise WavedilError(f"{name}.{film}.active is {shown(layer[film].get('active'))}: expected true or false")
    switches = {f"{part}.active": layer[part].get("active", True) for part in SWITCHED if layer.get(part) is not None}
    for switch, value in {**switches, "gated": layer.get("gated") or False}.items():
        if type(value) is not bool:  # "false" and 0 would be taken for true by one program and for false by another
            raise WavedilError(f"{name}.{switch} is {shown(value)}: expected true or false")
    for keys in ALTERNATIVES:
        if len(given := sorted(key for key in keys if layer.get(key) is not None)) > 1:
            raise WavedilError(f"{name}: {given[0]} and {given[1]} are both set: expected only one of them")
