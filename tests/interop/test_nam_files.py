""".nam files: a published model, round trips of both versions, NAM itself (where installed), damaged files."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch

from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer, NAMConvNet, NAMLinear
from wavedil.audio.models.nam.layer import FILM_PLACES
from wavedil.errors import WavedilError
from wavedil.interop.nam import metadata, read_nam, write_nam

DATA = Path(os.environ.get("WAVEDIL_DATA", "")) / "audio" / "nam_models"
published = pytest.mark.skipif(
    not os.environ.get("WAVEDIL_DATA") or not DATA.is_dir(), reason="set WAVEDIL_DATA to a folder with audio/nam_models"
)


@pytest.fixture(autouse=True)
def short_loudness_input(monkeypatch):
    monkeypatch.setattr(metadata, "_loudness_input", lambda: torch.ones(1, 1, 9))


def plain() -> NAM:
    """A model that every version of the format can describe."""
    torch.manual_seed(1)
    arrays = [LayerArray(1, 3, 2, "1,2"), LayerArray(3, 2, 1, "8", head_bias=True, activation="ReLU", gating="gated")]
    return NAM(arrays, metadata={"name": "small", "loudness": -20.5}, sample_rate=44100).eval()


def rich(secondary="Sigmoid") -> NAM:
    """A model that only version 0.7.0 can describe."""
    torch.manual_seed(2)
    arrays = [
        LayerArray(
            1, 4, 3, "1,3,7", [6, 6, 15],
            activation=[{"type": "LeakyReLU", "negative_slope": 0.05}, "Tanh", "SiLU"],
            gating=["none", "gated", "blended"], secondary=[None, secondary, "Sigmoid"],
            bottleneck=2, head1x1_channels=5, head_kernel_size=16,
        ),
        LayerArray(4, 3, 2, "1,2", 2, head_bias=True, layer1x1=False),
    ]  # fmt: skip
    return NAM(arrays, head={"channels": 3, "kernel_sizes": [2, 3], "activation": "Tanh"}, head_scale=0.7).eval()


@published
@pytest.mark.parametrize(
    ("start", "reference"),
    [
        ("zero_input", "expected_nam0.13.0_padstart_wavenet.wav"),  # as it was trained
        ("zero_history", "expected_zerohistory_wavenet.wav"),
    ],
)
def test_published_model_reproduces_its_reference_output(start, reference):
    import soundfile

    model = read_nam(DATA / "wavenet.nam")
    assert (model.sample_rate, model.receptive_field, model.start_up) == (48000, 23, "zero_input")
    model.start_up = start
    x = torch.from_numpy(soundfile.read(DATA / "input.wav", dtype="float32")[0])
    expected = torch.from_numpy(soundfile.read(DATA / reference, dtype="float64")[0])
    with torch.no_grad():
        y = model(x.view(1, 1, -1))[0, 0]
    assert (y - expected).abs().max() <= 1e-6 and expected.abs().max() > 0.05


@published
@pytest.mark.parametrize("version", ["0.7.0", "0.5.4"])
def test_published_model_round_trips(version, tmp_path):
    original = json.loads((DATA / "wavenet.nam").read_text())
    write_nam(read_nam(DATA / "wavenet.nam"), tmp_path / "out.nam", version)
    written = json.loads((tmp_path / "out.nam").read_text())
    assert torch.equal(torch.tensor(written["weights"]), torch.tensor(original["weights"]))
    if version == "0.5.4":  # the version of the original, so that everything else is equal, too
        written.pop("weights"), original.pop("weights")
        assert written == original


@pytest.mark.parametrize(("make", "version"), [(plain, "0.5.4"), (plain, "0.7.0"), (rich, "0.7.0")])
def test_round_trip(make, version, tmp_path):
    model = make()
    again = read_nam(write_nam(model, tmp_path / "sub" / "amp.nam", version))
    x = torch.randn(2, 1, 99)
    assert torch.equal(again(x), model(x))
    assert again.sample_rate == model.sample_rate and again.metadata.keys() >= {"date", "loudness", "gain"}
    assert again.metadata == again.metadata | (model.metadata or {})  # also where it differs from the computed one
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["amp.nam"]


@pytest.mark.parametrize("make", [plain, rich])
def test_nam_loads_our_files(make, tmp_path):
    """Without parameters of secondary activations: NAM 0.13 accepts only names there."""
    loader = pytest.importorskip("nam.models", reason="needs neural-amp-modeler")
    model = make()
    peer = loader.init_from_nam(json.loads(write_nam(model, tmp_path / "amp.nam").read_text())).eval()
    x = torch.randn(2, 300)
    with torch.no_grad():
        expected = peer(x)
        assert expected.abs().max() > 1e-3 and peer.receptive_field == model.receptive_field
        torch.testing.assert_close(model(x.unsqueeze(1)).squeeze(1), expected, rtol=0, atol=1e-6)


def test_we_load_files_of_nam(tmp_path):
    models = pytest.importorskip("nam.models.wavenet", reason="needs neural-amp-modeler")
    layer = {"condition_size": 1, "kernel_sizes": [3, 2], "dilations": [1, 4]}
    config = {
        "layers_configs": [
            {**layer, "input_size": 1, "channels": 4, "activation": "Tanh", "bottleneck": 2,
             "head": {"out_channels": 3, "kernel_size": 1, "bias": False}},
            {**layer, "input_size": 4, "channels": 3, "head": {"out_channels": 1, "kernel_size": 5, "bias": True},
             "activation": {"name": "PairMultiply", "primary": "Hardtanh", "secondary": "Sigmoid"}},
        ],
        "head_scale": 0.5, "sample_rate": 48000,
    }  # fmt: skip
    peer = models.WaveNet.init_from_config(config).eval()
    peer.export(tmp_path)
    model, x = read_nam(tmp_path / "model.nam"), torch.randn(1, 200)
    with torch.no_grad():
        torch.testing.assert_close(model(x.unsqueeze(1)).squeeze(1), peer(x), rtol=0, atol=1e-6)


def test_missing_keys_of_old_files_have_defaults(tmp_path):
    content = json.loads(write_nam(plain(), tmp_path / "a.nam", "0.5.4").read_text())
    del content["sample_rate"], content["metadata"]
    content["config"]["layers"][0].pop("gated")
    (tmp_path / "b.nam").write_text(json.dumps(content))
    again, x = read_nam(tmp_path / "b.nam"), torch.randn(1, 1, 20)
    assert again.sample_rate == 48000 and torch.equal(again(x), plain()(x))


def test_a_silent_model_has_no_level(tmp_path):
    model = plain()
    model.metadata, model.head_scale = None, 0.0
    assert json.loads(write_nam(model, tmp_path / "a.nam").read_text())["metadata"].keys() == {"date"}


def change(content, *keys, to):
    for key in keys[:-1]:
        content = content[key]
    if to is None:
        del content[keys[-1]]
    else:
        content[keys[-1]] = to


@pytest.mark.parametrize(
    ("keys", "to", "message"),
    [
        (["architecture"], "Sequential", "architecture is 'Sequential': expected one of WaveNet, LSTM"),
        (["architecture"], [], "architecture is "),
        (["architecture"], None, "bad.nam: architecture is missing: expected a text"),
        (["config"], None, "bad.nam: config is missing: expected an object"),
        (["config"], [], r"config is \[\]: expected an object"),
        (["config", "layers"], [], "config.layers is empty: expected at least one"),
        (["config", "layers", 0, "kernel_sizes"], [10**6, 1], "weights has 147 numbers: expected 9000"),
        (
            ["config", "layers", 0, "kernel_sizes"],
            [10**18, 1],
            r"config.layers\[0\].kernel_sizes is .*: expected a positive integer",
        ),
        (["config", "layers", 0, "channels"], "3", r"config.layers\[0\].channels is '3': expected a positive integer"),
        (["config", "layers", 0, "dilations"], [0], "dilation"),
        (["config", "layers", 0, "dilations"], [2**22, 2**22], "receptive field is"),
        (["config", "layers", 0, "dilations"], [1] * 3000, "more than 2000 layers"),
        (["config", "layers", 0, "dilations"], "1,2", "dilations is '1,2': expected a list"),
        (["config", "layers", 0, "conv_pre_film"], {"shift": True}, "conv_pre_film.active is missing: expected true"),
        (["config", "layers", 0, "conv_pre_film"], {"active": 1}, "conv_pre_film.active is 1: expected true"),
        (["config", "layers", 0, "head1x1_post_film"], {"active": True}, "head1x1_post' without head1x1"),
        (["config", "layers", 0, "groups_input"], 2, "groups is 2: expected a divisor"),
        (
            ["config", "layers", 0, "activation"],
            ["PReLU", "PReLU"],
            r"activation\[0\] is 'PReLU': expected PReLU with",
        ),
        (["config", "layers", 0, "activation"], ["Swoosh", "Tanh"], r"activation\[0\] is 'Swoosh': expected one of"),
        (["config", "layers", 0, "slimmable"], {"method": "x"}, "slimmable.method is 'x': expected slice_channels"),
        (["config", "layers", 0, "slimmable"], False, "slimmable is false: expected an object"),
        (["config", "layers", 0, "head1x1", "active"], "false", "layers.0..head1x1.active is 'false': expected true"),
        (["config", "layers", 0, "layer1x1", "active"], 1, "layers.0..layer1x1.active is 1: expected true or false"),
        (["config", "layers", 0, "reverb"], 0.5, "reverb is not supported"),
        (["config", "layers", 0, "head1x1", "bias"], True, "head1x1.bias is not supported: expected some of active"),
        (
            ["config", "layers", 1, "head", "skip"],
            1,
            "head.skip is not supported: expected some of bias, head_dilation",
        ),
        (["config", "layers", 0, "head", "head_dilation"], 0, "dilation is .*: expected a positive integer"),
        (["config", "layers", 0, "head", "dilation"], 2, r"config.layers\[0\].head.dilation is not supported"),
        (["config", "layers", 1, "layer1x1", "kernel_size"], 2, "layer1x1.kernel_size is not supported"),
        (["config", "layers", 0, "conv_post_film", "gain"], 0, "conv_post_film.gain is not supported"),
        (["config", "layers", 0, "kernel_size"], 3, "kernel_size and kernel_sizes are both set"),
        (["config", "layers", 0, "gated"], True, "gated and gating_mode are both set"),
        (["config", "layers", 0, "head_size"], 2, "head and head_size are both set"),
        (["config", "layers", 0, "activation", 0, "gain"], 2.0, r"activation\[0\] is .*gain"),
        (["config", "layers", 0, "activation", 0], {"type": "ELU", "alpha": float("nan")}, r"activation\[0\] is .*nan"),
        (["config", "layers", 0, "activation", 0, "gain"], False, r"activation\[0\] is .*gain"),
        (
            ["config", "layers", 0, "secondary_activation"],
            [{"type": "Sigmoid", "gain": 1}, None],
            r"secondary_activation\[0\] is .*gain",
        ),
        (["metadata"], [1], "metadata is .*: expected an object"),
        (["oversampling"], 2, "oversampling is not supported"),
        (["config", "in_channels"], 2, "in_channels is 2: expected 1"),
        (["version"], "0.9.0", "version is 0.9.0: expected 0.7 or older"),
        (["version"], "new", "version is 'new': expected a version such as"),
        (["config", "condition_dsp"], {"name": "WaveNet"}, "config.condition_dsp.name is not supported"),
        (["config", "condition_dsp"], {}, "config.condition_dsp.architecture is missing"),
        (["config", "head"], {"shape": 1}, "head.shape is not supported"),
        (["weights"], [1e39] + [0.5] * 146, r"weights\[0\] is 1e.39: expected a finite number in float32"),
        (["weights"], [0.5] * 146, "weights has 146 numbers: expected 147"),
        (["weights"], [0.5] * 146 + [float("nan")], r"weights\[146\] is nan: expected a finite number"),
        (["weights"], ["0.5"] * 147, r"weights\[0\] is '0.5': expected a number"),
        (["weights"], None, "weights is missing: expected a list of numbers"),
        (["sample_rate"], "48k", "sample_rate is '48k': expected a number"),
        (["sample_rate"], -1, "sample_rate is -1"),
        (["sample_rate"], 44100.5, "sample_rate is 44100.5"),
    ],
)
def test_damaged_files_raise_a_one_line_error(keys, to, message, tmp_path):
    content = json.loads(write_nam(plain(), tmp_path / "good.nam").read_text())
    assert len(content["weights"]) == 147
    change(content, *keys, to=to)
    (tmp_path / "bad.nam").write_text(json.dumps(content))
    with pytest.raises(WavedilError, match=message) as error:
        read_nam(tmp_path / "bad.nam")
    assert "bad.nam" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100000, "{}", '"nam"'])
def test_files_of_other_formats_are_refused(text, tmp_path):
    (tmp_path / "bad.nam").write_text(text)
    with pytest.raises(WavedilError, match="bad.nam is not a .nam file"):
        read_nam(tmp_path / "bad.nam")
    (tmp_path / "bad.nam").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WavedilError, match="bad.nam is not a .nam file"):
        read_nam(tmp_path / "bad.nam")
    with pytest.raises(WavedilError, match="cannot be read"):
        read_nam(tmp_path)


def test_models_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(WavedilError, match="write version 0.7.0"):
        write_nam(rich(), tmp_path / "a.nam", "0.5.4")
    with pytest.raises(WavedilError, match="zero_history"):
        write_nam(NAM([LayerArray(1, 2, 1)], start="zero_history"), tmp_path / "a.nam")
    with pytest.raises(WavedilError, match="model is a Linear: expected a NAM"):
        write_nam(torch.nn.Linear(1, 1), tmp_path / "a.nam")
    with pytest.raises(WavedilError, match="expected one of 0.7.0, 0.5.4"):
        write_nam(plain(), tmp_path / "a.nam", "1.0")
    broken = plain()
    torch.nn.init.constant_(broken.arrays[0].rechannel.weight, float("nan"))
    with pytest.raises(WavedilError, match="NaN or infinity"):
        write_nam(broken, tmp_path / "a.nam")
    assert not list(tmp_path.iterdir())


def test_unknown_keys_are_refused_in_every_object_whatever_their_value(tmp_path):
    """Objects of data, not of settings, are free: metadata."""
    head = {"channels": 2, "kernel_sizes": [2], "activation": {"type": "LeakyReLU", "negative_slope": 0.1}}
    films = {place: {} for place in FILM_PLACES}
    array = LayerArray(1, 3, 1, "1,2", gating="gated", films=films, head1x1_channels=2, condition_channels=2)
    model = NAM([array], head=head, condition=NAM([LayerArray(1, 2, 2, "1", slimmable=[1, 2])], out_channels=2))
    layer = LayerArray(1, 2, 1, "1", slimmable=[1, 2])
    networks = [model, NAM([layer]), NAMLSTM(2), NAMConvNet(2, [1]), NAMLinear(2)]
    container = NAMContainer(networks, [0.1, 0.2, 0.3, 0.4, 1])
    content = json.loads(write_nam(container, tmp_path / "good.nam").read_text())
    read_nam(tmp_path / "good.nam")
    places, values = list(objects(content)), itertools.cycle([None, False, 0, 2, {}])
    assert len(places) > 50
    for place in places:
        place["surprise"] = next(values)
        (tmp_path / "bad.nam").write_text(json.dumps(content))
        with pytest.raises(WavedilError, match="surprise"):
            read_nam(tmp_path / "bad.nam")
        del place["surprise"]


def objects(content):
    if isinstance(content, dict):
        yield content
        for key, value in content.items():
            yield from objects(value) if key != "metadata" else ()
    elif isinstance(content, list):
        for value in content:
            yield from objects(value)


def test_networks_in_each_other_have_limits(tmp_path):
    content = json.loads(write_nam(NAM([LayerArray(1, 2, 1, "1")]), tmp_path / "good.nam").read_text())
    for _ in range(20):
        content = json.loads(json.dumps(content)) | {"config": content["config"] | {"condition_dsp": content}}
    (tmp_path / "bad.nam").write_text(json.dumps(content))
    with pytest.raises(WavedilError, match="nested deeper than 8"):
        read_nam(tmp_path / "bad.nam")
    container = {"architecture": "SlimmableContainer", "config": {"submodels": []}, "weights": []}
    for submodels, message in (
        ([], "config.submodels is empty: expected at least one"),
        ({}, "submodels is {}: expected a list"),
        ([{"max_value": 1}], r"config.submodels\[0\].model is missing: expected an object"),
        (
            [{"max_value": "1", "model": json.loads((tmp_path / "good.nam").read_text())}],
            r"submodels\[0\].max_value is '1': expected a number",
        ),
        ([{"max_value": 1, "model": {}}] * 3000, "more than 2000 layers"),
    ):
        container["config"]["submodels"] = submodels
        (tmp_path / "bad.nam").write_text(json.dumps(container))
        with pytest.raises(WavedilError, match=message):
            read_nam(tmp_path / "bad.nam")


def test_gated_is_true_or_false(tmp_path):
    content = json.loads(write_nam(plain(), tmp_path / "a.nam", "0.5.4").read_text())
    content["config"]["layers"][0]["gated"] = "false"
    (tmp_path / "b.nam").write_text(json.dumps(content))
    with pytest.raises(WavedilError, match="gated is 'false': expected true or false"):
        read_nam(tmp_path / "b.nam")


def test_keys_of_early_files(tmp_path):
    model = NAM([LayerArray(1, 2, 1, "1", head1x1_channels=3, head_dilation=2, head_kernel_size=2)])
    content = json.loads(write_nam(model, tmp_path / "a.nam").read_text())
    layer = content["config"]["layers"][0]
    assert layer["head"]["head_dilation"] == 2
    layer["head_1x1"] = layer.pop("head1x1")
    layer["conv_pre_film"] = False
    content["notes"] = ["for tests"]
    (tmp_path / "b.nam").write_text(json.dumps(content))
    x = torch.randn(1, 1, 20)
    assert torch.equal(read_nam(tmp_path / "b.nam")(x), model(x))


def test_a_nam_file_is_a_model_of_load_and_of_the_shell(tmp_path, capsys):
    from wavedil.cli import main
    from wavedil.weights import load, model_class

    model, path = plain(), tmp_path / "Small.NAM"
    write_nam(model, path)
    sound = torch.randn(1, 1, 50)
    loaded = load(path)
    assert type(loaded) is NAM is model_class(path) and not loaded.training
    assert torch.equal(loaded(sound), read_nam(path)(sound))
    assert main(["inspect", str(path)]) == 0 and "receptive field" in capsys.readouterr().out
    assert main(["export", str(path), str(tmp_path / "small.c")]) == 0 and (tmp_path / "small.c").exists()
    with pytest.raises(SystemExit):
        main(["evaluate", str(path), "--help"])
    assert "--align" in capsys.readouterr().out  # an option of effects
    capsys.readouterr()
    with pytest.raises(WavedilError, match="Small.NAM holds a NAM: expected Linear"):
        load(path, expect=torch.nn.Linear)
    assert main(["sample", str(path), "--out", str(tmp_path / "clips")]) == 2
    assert "Small.NAM holds a NAM, which generates nothing" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["process", "inspect"])
def test_what_only_looks_like_a_nam_file_is_refused_in_one_line(command, tmp_path, capsys):
    from wavedil.cli import main

    arguments = ["in.wav", str(tmp_path / "out.wav")] if command == "process" else []
    (tmp_path / "bad.nam").write_text("{}")
    os.mkfifo(tmp_path / "pipe.nam")
    (tmp_path / "folder.nam").mkdir()
    for name, message in (
        ("bad.nam", "not a .nam file"),
        ("pipe.nam", "not a regular file"),
        ("folder.nam", "not a model folder"),
        ("Bad.nm", "Bad.nm does not exist: expected a model folder"),
        ("Bad.nm", f"did you mean {tmp_path / 'bad.nam'}?"),
        ("missing/x.nam", "missing/x.nam does not exist"),
    ):
        assert main([command, str(tmp_path / name), *arguments]) == 2
        errors = capsys.readouterr().err.strip().splitlines()
        assert len(errors) == 1 and message in errors[0]
