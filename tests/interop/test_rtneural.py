"""JSON files of RTNeural, AIDA-X and Proteus, compared with the equations of their programs in NumPy."""

import json
import math

import numpy as np
import pytest
import torch

from wavedil.audio.data import audio_files
from wavedil.audio.models.layer_chain import LayerChain
from wavedil.cli import main
from wavedil.errors import WavedilError
from wavedil.interop.formats import convert
from wavedil.weights import load

CALL = np.random.default_rng(0)
SOUND = CALL.uniform(-1, 1, 60)


def draw(*shape):
    return (CALL.standard_normal(shape) / 2).tolist()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(weights, x):
    """As ``RTNeural/lstm``: gates i, f, c, o in columns."""
    kernel, recurrent, bias = map(np.array, weights)
    h = c = np.zeros(len(recurrent))
    rows = []
    for row in x:
        i, f, g, o = np.split(row @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        rows.append(h)
    return np.stack(rows)


def gru(weights, x):
    """As ``RTNeural/gru``: gates z, r, c in columns, with a bias of the input and one of the state."""
    kernel, recurrent, bias = map(np.array, weights)
    h = np.zeros(len(recurrent))
    rows = []
    for row in x:
        zx, rx, cx = np.split(row @ kernel + bias[0], 3)
        zh, rh, ch = np.split(h @ recurrent + bias[1], 3)
        z, r = sigmoid(zx + zh), sigmoid(rx + rh)
        h = (1 - z) * np.tanh(cx + r * ch) + z * h
        rows.append(h)
    return np.stack(rows)


def conv(weights, x, dilation):
    """As Keras with padding="causal": the last tap is of the present sample."""
    kernel, bias = map(np.array, weights)
    padded = np.concatenate([np.zeros(((len(kernel) - 1) * dilation, x.shape[1])), x])
    return sum(padded[i * dilation : i * dilation + len(x)] @ tap for i, tap in enumerate(kernel)) + bias


def dense(weights, x):
    return x @ np.array(weights[0]) + weights[1]


def layer(kind, size, *weights, activation="", **rest):
    return {"type": kind, "activation": activation, "shape": [None, None, size], "weights": list(weights), **rest}


def recurrent(kind, width, size):
    gates = {"lstm": 4, "gru": 3}[kind]
    bias = draw(4 * size) if kind == "lstm" else draw(2, 3 * size)
    return layer(kind, size, draw(width, gates * size), draw(size, gates * size), bias)


def aidax(kind="lstm", width=1, **rest):
    layers = [recurrent(kind, width, 5), layer("dense", 1, draw(5, 1), draw(1))]
    return {"in_shape": [None, None, width], "layers": layers, **rest}


def proteus(unit="LSTM", width=1, num_layers=1, skip=1):
    gates, weights = 4 if unit == "LSTM" else 3, {}
    for index in range(num_layers):
        inputs = 5 if index else width
        weights |= {f"rec.weight_ih_l{index}": draw(5 * gates, inputs), f"rec.weight_hh_l{index}": draw(5 * gates, 5)}
        weights |= {f"rec.bias_ih_l{index}": draw(5 * gates), f"rec.bias_hh_l{index}": draw(5 * gates)}
    weights |= {"lin.weight": draw(1, 5), "lin.bias": draw(1)}
    data = {"model": "SimpleRNN", "input_size": width, "skip": skip, "output_size": 1, "unit_type": unit}
    data |= {"num_layers": num_layers, "hidden_size": 5, "bias_fl": True}
    return {"model_data": data, "state_dict": weights}


def read(tmp_path, content, name="a.json", **options):
    (tmp_path / name).write_text(json.dumps(content))
    model, format = convert(tmp_path / name, options=options)
    assert format == "rtneural" and isinstance(model, LayerChain) and not model.training
    return model


def run(model, sound, knobs=()):
    """The output of the model, computed in chunks."""
    x, values, state, parts = torch.tensor(sound, dtype=torch.float32).view(1, 1, -1), None, None, []
    if knobs:
        values = torch.tensor([knobs])
    with torch.no_grad():
        for chunk in x.split([1, 0, 30, x.shape[2] - 31], dim=2):
            y, state = model.step(chunk, state, values)
            parts.append(y)
        whole = model(x, values, skip=7)
    y = torch.cat(parts, dim=2)
    torch.testing.assert_close(whole, y[:, :, 7:], rtol=1e-5, atol=1e-6)
    return y.flatten().numpy()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize(
    ("rest", "gains"),
    [
        ({}, (0, 1, 1)),
        ({"in_skip": 1, "in_gain": 6.0, "out_gain": -3, "metadata": {"samplerate": "44100"}, "esr": 0.1}, (1, 2, 0.7)),
        ({"samplerate": 96000.0, "out_gain": -95, "author": "me"}, (0, 1, 0)),
    ],
)
def test_aida_x(tmp_path, kind, rest, gains):
    content = aidax(kind, **rest)
    model = read(tmp_path, content, "a.aidax")
    skip, before, after = gains
    x = SOUND[:, None] * 10 ** (rest.get("in_gain", 0) / 20)
    expected = dense(
        content["layers"][1]["weights"], {"lstm": lstm, "gru": gru}[kind](content["layers"][0]["weights"], x)
    )
    expected = (expected + skip * x) * (10 ** (rest.get("out_gain", 0) / 20) if after else 0)
    np.testing.assert_allclose(run(model, SOUND), expected[:, 0], atol=2e-6)
    assert model.sample_rate == (96000 if "samplerate" in rest else 44100 if "metadata" in rest else 48000)
    assert model.input_gain == pytest.approx(before, rel=0.01) and model.output_gain == pytest.approx(after, abs=0.01)


def test_convolutions_activations_and_several_layers(tmp_path):
    layers = [
        layer("conv1d", 3, draw(2, 1, 3), draw(3), activation="tanh", kernel_size=[2], dilation=[5]),
        layer("conv1d", 4, draw(3, 3, 4), draw(4), kernel_size=3, dilation=1),
        layer("prelu", 4, [[0.1, 0.2, 0.3, 0.4]]),
        recurrent("gru", 4, 3),
        recurrent("lstm", 3, 2),
        layer("time-distributed-dense", 3, draw(2, 3), draw(3), activation="relu"),
        layer("dense", 1, draw(3, 1), draw(1)),
        layer("activation", 1, activation="sigmoid"),
    ]
    model = read(tmp_path, {"in_shape": [None, None, 1], "layers": layers})
    x = np.tanh(conv(layers[0]["weights"], SOUND[:, None], 5))
    x = conv(layers[1]["weights"], x, 1)
    x = np.maximum(x, 0) + np.array([0.1, 0.2, 0.3, 0.4]) * np.minimum(x, 0)
    x = lstm(layers[4]["weights"], gru(layers[3]["weights"], x))
    x = sigmoid(dense(layers[6]["weights"], np.maximum(dense(layers[5]["weights"], x), 0)))
    np.testing.assert_allclose(run(model, SOUND), x[:, 0], atol=2e-6)
    assert model.receptive_field == 1 + 5 + 2


@pytest.mark.parametrize(("unit", "num_layers", "skip"), [("LSTM", 1, 1), ("GRU", 1, 0), ("LSTM", 2, 0), ("GRU", 3, 1)])
def test_proteus(tmp_path, unit, num_layers, skip):
    content = proteus(unit, 1, num_layers, skip)
    weights, x = content["state_dict"], SOUND[:, None]
    for index in range(num_layers):
        kernel, state = (np.array(weights[f"rec.weight_{side}_l{index}"]).T for side in ("ih", "hh"))
        biases = np.array([weights[f"rec.bias_{side}_l{index}"] for side in ("ih", "hh")])
        if unit == "LSTM":
            x = lstm([kernel, state, biases.sum(0)], x)
        else:  # torch has reset, update, new
            order = [*range(5, 10), *range(5), *range(10, 15)]
            x = gru([kernel[:, order], state[:, order], biases[:, order]], x)
    expected = x @ np.array(weights["lin.weight"]).T + weights["lin.bias"] + skip * SOUND[:, None]
    model = read(tmp_path, content)
    np.testing.assert_allclose(run(model, SOUND), expected[:, 0], atol=2e-6)
    assert model.sample_rate == 44100 and read(tmp_path, content, sample_rate=48000).sample_rate == 48000


def test_knobs_are_further_inputs(tmp_path):
    content = proteus("LSTM", 3)
    model = read(tmp_path, content)
    assert dict(model.knobs) == {"param1": (0.0, 1.0), "param2": (0.0, 1.0)}
    weights = content["state_dict"]
    inputs = np.stack([SOUND, np.full(60, 0.25), np.full(60, 0.75)], axis=1)
    kernel, state = (np.array(weights[f"rec.weight_{side}_l0"]).T for side in ("ih", "hh"))
    x = lstm([kernel, state, np.add(weights["rec.bias_ih_l0"], weights["rec.bias_hh_l0"])], inputs)
    expected = x @ np.array(weights["lin.weight"])[0] + weights["lin.bias"] + SOUND
    np.testing.assert_allclose(run(model, SOUND, (0.25, 0.75)), expected, atol=2e-6)
    aida = aidax(width=2)
    assert list(read(tmp_path, aida).knobs) == ["param1"]


def test_the_shell_converts_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "amp.json").write_text(json.dumps(aidax("gru", in_skip=1)))
    assert main(["convert", "amp.json", "amp", "--set", "sample_rate=44100"]) == 0
    model = load(tmp_path / "amp")
    assert model.sample_rate == 44100 and model.residual
    expected = run(convert("amp.json")[0], SOUND)
    np.testing.assert_allclose(run(model, SOUND), expected, atol=1e-7)
    audio_files.write("in.wav", torch.tensor(SOUND, dtype=torch.float32).unsqueeze(0), 44100)
    assert main(["process", "amp", "in.wav", "out.wav"]) == 0
    sound, output = (audio_files.read(name)[0][0] for name in ("in.wav", "out.wav"))
    settled = run(model, np.concatenate([np.zeros(2048), sound]))[2048:]
    np.testing.assert_allclose(np.clip(settled, -1, 1), output, atol=1e-4)
    assert main(["convert", "amp.json", "b", "--set", "sample_rate=x"]) == 2
    assert main(["convert", "amp.json", "b", "--set", "stacks=2"]) == 2
    assert "'stacks' is not an option of RTNeural files" in capsys.readouterr().err


def changed(content, *path, value):
    *parents, last = path
    part = content
    for key in parents:
        part = part[key]
    part[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object with layers"),
        ({"config": 3}, "expected an object with layers"),
        (aidax(nonsense=1), "a.json: nonsense is not supported: expected some of"),
        (changed(aidax(), "layers", 0, "stride", value=2), r"layers\[0\].stride is not supported: expected some of"),
        (changed(aidax(), "layers", 0, "type", value="conv2d"), r"layers\[0\].type is 'conv2d': expected"),
        (changed(aidax(), "layers", 0, "shape", value=[None, None, 10**6]), r"weights\[0\] has shape \(1, 20\)"),
        (changed(aidax(), "layers", 0, "shape", value=[None, None, "x"]), r"layers\[0\].shape is 'x'"),
        (changed(aidax(), "layers", 1, "activation", value="softmax"), r"layers\[1\].activation is 'softmax'"),
        (changed(aidax(), "layers", 0, "activation", value="relu"), "activation is 'relu': expected tanh"),
        (changed(aidax(), "layers", 0, "weights", value=[[1]]), r"layers\[0\].weights has 1 arrays: expected 3"),
        (changed(aidax(), "layers", 1, "weights", 1, value=[math.nan]), "has NaN or infinity: expected finite numbers"),
        (changed(aidax(), "layers", 1, "weights", 0, 2, value=[1.0, 2.0]), "expected numbers of shape"),
        (changed(aidax(), "in_shape", value=[None, 2]), r"weights\[0\] has shape \(1, 20\): expected \(2, 20\)"),
        (changed(aidax(), "layers", value=[recurrent("lstm", 1, 2)]), "the last one has channels 1"),
        (changed(aidax(), "layers", value=[]), "layers has 0 entries: expected 1 to"),
        (aidax(in_skip=2), "in_skip is 2: expected a whole number from 0 to 1"),
        (aidax(out_gain=1e9), "out_gain is 1000000000.0: expected dB"),
        (aidax(samplerate="fast"), "samplerate is 'fast'"),
        (changed(proteus(), "model_data", "unit_type", value="RNN"), "expected SimpleRNN with LSTM or GRU"),
        (changed(proteus(), "model_data", "model", value="ConvNet"), "expected SimpleRNN"),
        (changed(proteus(), "model_data", "hidden_size", value=6), "has shape"),
        (
            changed(proteus(), "model_data", "num_layers", value=2),
            "rec.weight_ih_l1 is missing: expected a list",
        ),
        (changed(proteus(), "model_data", "num_layers", value=10**9), "model_data.num_layers is 1000000000"),
        (changed(proteus(), "state_dict", "conv.weight", value=[1]), "state_dict.conv.weight is not supported"),
        (changed(proteus(), "model_data", value=3), "model_data is 3: expected an object"),
        (proteus(width=40), "the first layer has 40 inputs"),
    ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(WavedilError, match=message) as error:
        convert(tmp_path / "a.json")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "layer",
    [
        {},
        {"type": "rnn"},
        {"type": "lstm"},
        {"type": "gru", "channels": 1, "dilation": 2},
        {"type": "conv", "channels": 0},
    ],
)
def test_arguments_of_layers_are_checked(layer):
    with pytest.raises(WavedilError, match=r"layers\[0\]"):
        LayerChain([layer])
