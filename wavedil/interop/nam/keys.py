"""The keys that ``.nam`` files may have, and their types. Another key could change the sound, so it is refused."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from wavedil.audio.models.nam.layer import FILM_PLACES
from wavedil.core.schema import Channels, Dilation, Layers, Range, Scale, Taps
from wavedil.errors import WavedilError
from wavedil.interop.objects import ANY, Object, Switch, check_object

FILMS = tuple(f"{place}_film" for place in FILM_PLACES)
SLIMMING = "slice_channels_uniform"

#: Of keys with only one value that a sound of one channel can have.
One = Literal[1]
Activation = str | Mapping[str, Any]
Activations = Activation | Sequence[Activation | None] | None
PerLayer = Taps | Sequence[Taps]

TOP = Object(
    {"architecture": str, "config": ANY},
    {"version": str | float, "metadata": ANY, "weights": Any, "notes": Any,
     "sample_rate": Annotated[float, Range(1, 10**7)] | None},
)  # fmt: skip
_SOUND = {"in_channels": One, "out_channels": One}
#: Of the config, by architecture.
CONFIG = {
    "WaveNet": Object(
        {"layers": list}, {"head": Any, "head_scale": Scale, "condition_dsp": Any, "in_channels": One}
    ),
    "LSTM": Object({"hidden_size": Channels}, {"num_layers": Layers, "input_size": One, **_SOUND}),
    "ConvNet": Object(
        {"channels": Channels, "dilations": Sequence[Dilation], "batchnorm": bool, "activation": Activation},
        {"groups": One, **_SOUND},
    ),
    "Linear": Object({"receptive_field": Annotated[int, Range(1, 2**20)]}, {"bias": bool, **_SOUND}),
    "SlimmableContainer": Object({"submodels": list}),
}  # fmt: skip
_HEAD1X1 = Object({}, {"active": bool, "out_channels": Channels, "groups": Channels})
ACTIVE_HEAD1X1 = Object({"out_channels": Channels}, _HEAD1X1.optional)
# Without active, the Python package takes a modulation as inactive and the C++ core as active.
_FILM = Switch({"active": bool}, {"shift": bool, "groups": Channels})
LAYER = Object(
    {"input_size": Channels, "condition_size": Channels, "channels": Channels, "dilations": Sequence[Dilation],
     "activation": Activations},
    {
        "kernel_size": PerLayer | None, "gated": bool | None,  # version 0.5
        "head_size": Channels | None, "head_bias": bool | None,  # version 0.5
        "kernel_sizes": PerLayer | None, "gating_mode": str | Sequence[str] | None,
        "secondary_activation": Activations, "bottleneck": Channels | None,
        "head": Object({"out_channels": Channels, "kernel_size": Taps, "bias": bool}, {"head_dilation": Dilation}),
        "head1x1": _HEAD1X1, "head_1x1": _HEAD1X1,  # the second in early files of version 0.6
        "layer1x1": Object({}, {"active": bool, "groups": Channels}),
        "groups_input": Channels, "groups_input_mixin": Channels,
        "slimmable": Object({"method": Literal["slice_channels_uniform"]}, {
            # The last two matter in training only.
            "kwargs": Object({}, {"allowed_channels": Sequence[Channels] | None, "boosting": Any, "init_strategy": Any})
        }),
        **dict.fromkeys(FILMS, _FILM),
    },
)  # fmt: skip
POST_HEAD = Object(
    {"channels": Channels, "kernel_sizes": Sequence[Taps], "activation": Activation, "out_channels": Channels},
    {"in_channels": Channels | None},
)
SUBMODEL = Object({"max_value": Annotated[float, Range(0, 1e6)], "model": ANY})
#: Keys with one meaning in different versions: only one of them may be set.
ALTERNATIVES = (
    ("kernel_sizes", "kernel_size"), ("gated", "gating_mode"), ("head", "head_size"), ("head", "head_bias"),
    ("head1x1", "head_1x1"),
)  # fmt: skip
NEEDED = ("kernel_sizes", "head")  # one of its alternatives must be set


def check_array(layer: Any, place: str) -> None:
    """Checks a layer array, whose keys depend on the version of the file."""
    check_object(layer, LAYER, place)
    if not layer["dilations"]:
        raise WavedilError(f"{place}.dilations is empty: expected one for each layer")
    for keys in ALTERNATIVES:
        found = [key for key in keys if layer.get(key) is not None]
        if len(found) > 1:
            raise WavedilError(f"{place}: {' and '.join(sorted(found))} are both set: expected only one of them")
        if not found and keys[0] in NEEDED:
            raise WavedilError(f"{place}.{keys[0]} is missing, and so is {keys[1]}: expected one of them")
    if layer.get("head") is None and layer.get("head_bias") is None:
        raise WavedilError(f"{place}.head_bias is missing: expected true or false")
    if (layer.get("head1x1") or layer.get("head_1x1") or {}).get("active"):
        part = "head1x1" if layer.get("head1x1") else "head_1x1"
        check_object(layer[part], ACTIVE_HEAD1X1, f"{place}.{part}")
