"""Every key of the JSON files of other programs, missing or with wrong values: a one-line error that names it."""

import copy
import itertools
import json
import math
import resource

import pytest
import torch

from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer, NAMConvNet, NAMLinear
from wavedil.audio.models.nam.layer import FILM_PLACES
from wavedil.errors import WavedilError
from wavedil.interop.formats import convert
from wavedil.interop.nam import metadata, write_nam

MISSING = object()
VALUES = [MISSING, None, "x", -1, 0, 1e9, 10**9, math.nan, [], [[[1]]], {}, {"a": {"b": [1]}}, True]
#: Keys with free values, and with numbers that may be -1 or large.
FREE = {
    "metadata", "notes", "weights", "state_dict", "in_shape", "shape", "head_scale", "in_gain", "out_gain",
    "negative_slope",
}  # fmt: skip


def nam(model, version="0.7.0"):
    def write(folder):
        return json.loads(write_nam(model(), folder / "good.nam", version).read_text())

    return write


def plain():
    return NAM([LayerArray(1, 3, 2, "1,2", gating="gated"), LayerArray(3, 2, 1, "1", head_bias=True)])


def rich():
    head = {"channels": 2, "kernel_sizes": [2], "activation": {"type": "LeakyReLU", "negative_slope": 0.1}}
    films = {place: {} for place in FILM_PLACES[::3]}
    array = LayerArray(1, 2, 1, "1", gating="gated", films=films, head1x1_channels=2, condition_channels=2)
    condition = NAM([LayerArray(1, 2, 2, "1", slimmable=[1, 2])], out_channels=2)
    return NAM([array], head=head, condition=condition)


def early(folder):
    """Of version 0.6."""
    content = nam(lambda: NAM([LayerArray(1, 2, 1, "1", head1x1_channels=3)]))(folder)
    array = content["config"]["layers"][0]
    array["head_1x1"] = array.pop("head1x1")
    return content | {"version": "0.6.0", "notes": "x"}


def layer(kind, size, *weights, **rest):
    return {
        "type": kind,
        "shape": [None, None, size],
        "weights": [torch.ones(each).tolist() for each in weights],
        **rest,
    }


def aidax(folder):
    layers = [layer("lstm", 2, (1, 8), (2, 8), 8, activation=""), layer("dense", 1, (2, 1), 1, activation="tanh")]
    return {"in_shape": [None, None, 1], "layers": layers}


def rtneural(folder):
    layers = [
        layer("conv1d", 2, (2, 1, 2), 2, kernel_size=[2], dilation=[3]),
        layer("prelu", 2, (1, 2)),
        layer("gru", 2, (2, 6), (2, 6), (2, 6)),
        layer("dense", 1, (2, 1), 1),
        layer("activation", 1, activation="sigmoid"),
    ]
    gains = {"in_skip": 1, "in_gain": 6.0, "out_gain": -3, "samplerate": 44100, "metadata": {"samplerate": "48000"}}
    return {"in_shape": [None, None, 1], "layers": layers, **gains}


def proteus(folder):
    data = {"model": "SimpleRNN", "input_size": 2, "skip": 1, "output_size": 1, "unit_type": "GRU", "num_layers": 2}
    sizes = {"rec.weight_ih_l0": (6, 2), "rec.weight_hh_l0": (6, 2), "rec.bias_ih_l0": 6, "rec.bias_hh_l0": 6}
    sizes |= {name.replace("l0", "l1"): size for name, size in sizes.items()} | {"lin.weight": (1, 2), "lin.bias": 1}
    weights = {name: torch.ones(size).tolist() for name, size in sizes.items()}
    return {"model_data": {**data, "hidden_size": 2, "bias_fl": True}, "state_dict": weights}


SAMPLES = {
    "wavenet-0.5.nam": nam(plain, "0.5.4"),
    "wavenet-0.6.nam": early,
    "wavenet-0.7.nam": nam(rich),
    "container.nam": nam(lambda: NAMContainer([NAMLSTM(2), NAMLinear(2, True)])),
    "lstm.nam": nam(lambda: NAMLSTM(2, 2)),
    "convnet.nam": nam(lambda: NAMConvNet(2, [1, 2], batchnorm=True)),
    "linear.nam": nam(lambda: NAMLinear(3)),
    "aidax.json": aidax,
    "rtneural.json": rtneural,
    "proteus.json": proteus,
}


def places(content, place=()):
    """The keys that lead to each value; of a list of numbers only the first is taken."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, dict) and value.get("active") is False:
            continue  # its other keys do not matter
        yield (*place, key)
        if isinstance(value, dict | list) and key != "metadata":
            plain = isinstance(value, list) and not any(isinstance(each, dict | list) for each in value)
            yield from places(value[:1] if plain else value, (*place, key))


def text(place):
    """``config.layers[0].channels``"""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def changed(content, place, value):
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


@pytest.fixture(autouse=True)
def short_loudness_input(monkeypatch):
    monkeypatch.setattr(metadata, "_loudness_input", lambda: torch.ones(1, 1, 9))


@pytest.mark.parametrize("name", SAMPLES)
def test_each_key_missing_or_with_another_value(name, tmp_path, every=11):
    """Each place is tried without its key and with some of the wrong values, so that all of them occur."""
    torch.manual_seed(0)
    content, before = SAMPLES[name](tmp_path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path, values, refused = tmp_path / name, itertools.count(), 0
    path.write_text(json.dumps(content))
    convert(path)
    for place in places(content):
        for value in VALUES:
            if value is not MISSING and next(values) % every:
                continue
            path.write_text(json.dumps(changed(content, place, value)))
            what = "missing" if value is MISSING else repr(value)
            try:
                convert(path)
            except WavedilError as error:
                message, refused = str(error), refused + 1
            else:
                is_number = value in (1e9, 10**9, -1) and not FREE & set(place)
                assert not is_number, f"{text(place)} {what} was accepted"
                continue
            assert message.startswith(f"{path}") and "\n" not in message and len(message) < 600, message
            assert "Error" not in message and "expected" in message, f"{text(place)} {what}: {message}"
            names = [key for key in place if isinstance(key, str)] + ["state_dict"] * (place[0] == "model_data")
            assert any(each in message for each in names), f"{text(place)} {what}: {message}"
            if value is MISSING and isinstance(place[-1], str):  # an optional one may not fit the number of weights
                assert place[-1].split("_")[0] in message or "weight" in message, f"{text(place)} {what}: {message}"
    assert refused > 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB: none of the sizes is allocated
