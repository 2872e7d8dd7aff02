""".nam files of neural-amp-modeler with random settings of every option: outputs, and round trips both ways."""

import json
import random

import pytest
import torch

from wavedil.audio.models.nam import NAMContainer
from wavedil.interop.nam import metadata, read_nam, write_nam

models = pytest.importorskip("nam.models", reason="needs neural-amp-modeler")
FILMS = ("conv_pre", "conv_post", "input_mixin_pre", "input_mixin_post", "activation_pre", "activation_post",
         "layer1x1_post", "head1x1_post")  # fmt: skip
SIMPLE = ["Tanh", "ReLU", "Hardtanh", "Sigmoid", "SiLU", "Hardswish", "Softsign", "Softsigmoid"]


@pytest.fixture(autouse=True)
def short_loudness_input(monkeypatch, request):
    """Loudness and gain take 12 seconds of sound."""
    if "metadata" not in request.node.name:
        monkeypatch.setattr(models.base.BaseNet, "_metadata_loudness_x", classmethod(lambda cls: torch.ones(9)))
        monkeypatch.setattr(metadata, "_loudness_input", lambda: torch.ones(1, 1, 9))


def activation(rng: random.Random, width: int, plain: bool = False):
    options = [
        rng.choice(SIMPLE[:6] if plain else SIMPLE),  # the peer exports no others in a pair
        {"name": "LeakyHardtanh", "min_val": -0.3, "max_val": 0.4, "min_slope": 0.1, "max_slope": 0.02},
        {"name": "LeakyReLU", "negative_slope": 0.2},
        {"name": "PReLU", "num_parameters": rng.choice([1, width])},
    ]
    return options[0] if plain else rng.choice(options)


def layer_array(rng: random.Random, inputs: int, condition: int, terms: int | None, outputs: int) -> dict:
    """A random layer array whose head terms have ``terms`` channels."""
    groups = rng.choice([1, 2])
    channels, bottleneck = groups * rng.randint(1, 3), groups * rng.randint(1, 3)
    layer1x1 = {"active": rng.random() < 0.8, "groups": groups}
    bottleneck = bottleneck if layer1x1["active"] else channels
    head1x1 = {"active": rng.random() < 0.5 or (terms not in (None, bottleneck)), "out_channels": terms or 2 * groups}
    head1x1["groups"] = groups if head1x1["out_channels"] % groups == 0 else 1
    films = {
        f"{place}_film": {"active": rng.random() < 0.6, "shift": rng.random() < 0.5, "groups": 1} for place in FILMS
    }
    for film in films.values():
        film["groups"] = 2 if condition % 2 == 0 and groups == 2 and rng.random() < 0.5 else 1
    films["input_mixin_pre_film"]["groups"] = 1
    films["layer1x1_post_film"]["active"] &= layer1x1["active"]
    films["head1x1_post_film"]["active"] &= head1x1["active"]
    if head1x1["out_channels"] % 2:
        films["head1x1_post_film"]["groups"] = 1
    depth = rng.randint(1, 3)
    activations = []
    for _ in range(depth):
        pair = rng.choice([None, "PairMultiply", "PairBlend"])
        secondary = activation(rng, bottleneck, plain=True)
        alone = activation(rng, bottleneck)
        primary = activation(rng, bottleneck, plain=True)
        activations.append({"name": pair, "primary": primary, "secondary": secondary} if pair else alone)
    return {
        "input_size": inputs,
        "condition_size": condition,
        "channels": channels,
        "bottleneck": bottleneck,
        "kernel_sizes": [rng.randint(1, 4) for _ in range(depth)],
        "dilations": [rng.randint(1, 5) for _ in range(depth)],
        "activation": activations,
        "film_params": films,
        "groups_input": groups,
        "groups_input_mixin": 2 if condition % 2 == 0 and groups == 2 else 1,
        "head": {"out_channels": outputs, "kernel_size": rng.choice([1, 3]), "bias": rng.random() < 0.5},
        "head_1x1_config": head1x1,
        "layer_1x1_config": layer1x1,
    }


def wavenet(rng: random.Random, outputs: int = 1, condition: bool = True) -> dict:
    """A random WaveNet config of neural-amp-modeler."""
    conditioned = condition and rng.random() < 0.6
    condition_size = rng.randint(2, 4) if conditioned else 1
    with_head = rng.random() < 0.5
    between = rng.randint(1, 4)
    first = layer_array(rng, 1, condition_size, None, between)
    second = layer_array(rng, first["channels"], condition_size, between, 3 if with_head else outputs)
    config = {"layers_configs": [first, second], "head_scale": round(rng.uniform(0.1, 2), 3)}
    if conditioned:
        config["condition_dsp"] = {"name": "WaveNet", "config": wavenet(rng, condition_size, condition=False)}
    if with_head:
        config["head"] = {"channels": 2, "activation": "Tanh", "out_channels": outputs, "kernel_sizes": [2, 3]}
    return config


def export(peer, folder) -> tuple[dict, torch.nn.Module]:
    """The peer with larger weights, so that a wrong one is heard, as a file's content and as our model."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in peer.parameters():
            weight.copy_(0.5 * torch.randn_like(weight))
    peer.sample_rate = 44100
    peer.eval().export(folder)
    return json.loads((folder / "model.nam").read_text()), read_nam(folder / "model.nam")


def check_equal(model, peer, expected=None) -> None:
    """In float64: products of many random modulations amplify rounding, to 1e-5 of the output in float32."""
    x = 0.5 * torch.randn(2, 400).double()
    model, peer = model.double(), peer.double()
    with torch.no_grad():
        expected = peer(x) if expected is None else expected(x)
        assert expected.abs().max() > 1e-3
        scale = expected.abs().max().clamp(min=1)
        torch.testing.assert_close(model(x.unsqueeze(1)).squeeze(1) / scale, expected / scale, rtol=0, atol=1e-10)


def without_dates(content):
    """The content without what every export writes anew."""
    if isinstance(content, dict):
        return {key: without_dates(value) for key, value in content.items() if key not in ("date", "metadata")}
    return [without_dates(value) for value in content] if isinstance(content, list) else content


@pytest.mark.parametrize("seed", range(10))
def test_random_wavenets(seed, tmp_path):
    peer = models.wavenet.WaveNet.init_from_config(wavenet(random.Random(seed)))
    content, model = export(peer, tmp_path)
    assert model.receptive_field == peer.receptive_field
    check_equal(model, peer)
    written = json.loads(write_nam(model, tmp_path / "ours.nam").read_text())
    assert without_dates(written) == without_dates(content)


@pytest.mark.parametrize("allowed", [None, [1, 3, 4]])
@pytest.mark.parametrize("pair", [None, "PairMultiply"])
def test_slimmable_wavenets(allowed, pair, tmp_path):
    activations = {"name": pair, "primary": "Tanh", "secondary": "Sigmoid"} if pair else "Tanh"
    layer = {
        "input_size": 1, "condition_size": 1, "channels": 4, "kernel_sizes": [3, 2], "dilations": [1, 4],
        "activation": activations, "head": {"out_channels": 1, "kernel_size": 1, "bias": True},
        "slimmable": {"method": "slice_channels_uniform", "kwargs": {"allowed_channels": allowed} if allowed else {}},
    }  # fmt: skip
    peer = models.wavenet.WaveNet.init_from_config({"layers_configs": [layer], "head_scale": 0.5})
    content, model = export(peer, tmp_path)
    check_equal(model, peer)
    sizes = set()
    for quality in (0, 0.2, 0.34, 0.5, 0.74, 1):

        def slim(x, quality=quality):
            peer._net.set_slimming(quality)
            return peer(x)

        small = model.at_quality(quality)
        check_equal(small, peer, slim)
        sizes.add(sum(weight.numel() for weight in small.parameters()))
    assert len(sizes) == (3 if allowed else 4) and model.at_quality(1) is model
    assert without_dates(json.loads(write_nam(model, tmp_path / "a.nam").read_text())) == without_dates(content)
    write_nam(small, tmp_path / "small.nam")


def test_the_pair_that_the_trainer_trains(tmp_path):
    from nam.train.core import _get_packed_model_config

    peer = models.wavenet.PackedWaveNet.init_from_config(_get_packed_model_config()["net"]["config"])
    peer._metadata_loudness, peer._metadata_gain = lambda **kwargs: -20.0, lambda: 0.5
    content, found = export(peer, tmp_path)
    ours = NAMContainer(["a2_3", "a2_8"], sample_rate=found.sample_rate)
    ours.load_state_dict(found.state_dict())
    written = json.loads(write_nam(ours, tmp_path / "ours.nam").read_text())
    for theirs, each in zip(content["config"]["submodels"], written["config"]["submodels"], strict=True):
        assert each["max_value"] == theirs["max_value"]
        assert each["model"]["config"] == theirs["model"]["config"]
        assert each["model"]["weights"] == theirs["model"]["weights"]
        check_equal(ours.at_quality(0.9 * each["max_value"]), models.init_from_nam(each["model"]).eval())


def test_containers(tmp_path):
    layer = {"input_size": 1, "condition_size": 1, "kernel_sizes": [3, 2], "dilations": [1, 4], "activation": "Tanh"}
    layer["head"] = {"out_channels": 1, "kernel_size": 3, "bias": True}

    def submodel(channels):
        return {"config": {"layers_configs": [layer | {"channels": channels}], "head_scale": 0.5}}

    config = {"submodels": [submodel(2), submodel(3), submodel(5)], "export": {"container_max_values": [0.2, 0.6, 1]}}
    peer = models.wavenet.PackedWaveNet.init_from_config(config)
    peer._metadata_loudness, peer._metadata_gain = lambda **kwargs: -20.0, lambda: 0.5  # of one output only
    content, model = export(peer, tmp_path)
    assert isinstance(model, NAMContainer) and model.sample_rate == 44100
    for quality, index in ((0, 0), (0.19, 0), (0.2, 1), (0.5999, 1), (0.6, 2), (1, 2)):
        check_equal(model.at_quality(quality), peer, lambda x, index=index: peer(x)[:, index])
    check_equal(model, peer, lambda x: peer(x)[:, 2])
    assert without_dates(json.loads(write_nam(model, tmp_path / "a.nam").read_text())) == without_dates(content)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("LSTM", {"hidden_size": 3}),
        ("LSTM", {"hidden_size": 5, "num_layers": 3}),
        ("ConvNet", {"channels": 3, "dilations": [1, 2, 5], "batchnorm": True, "activation": "ReLU"}),
        ("ConvNet", {"channels": 2, "dilations": [4], "batchnorm": False, "activation": "Tanh"}),
        ("Linear", {"receptive_field": 17, "bias": True}),
        ("Linear", {"receptive_field": 1}),
    ],
)
def test_other_architectures(name, config, tmp_path):
    peer = models.factory.init(name, kwargs={"config": config})
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    content, model = export(peer, tmp_path)
    if name == "LSTM":  # it exports the state after silence, and computes from zero
        peer = models.init_from_nam(content).eval()
    check_equal(model, peer)
    written = json.loads(write_nam(model, tmp_path / "ours.nam").read_text())
    assert without_dates(written) == without_dates(content)
    if name != "ConvNet":  # which the peer does not read
        check_equal(model, models.init_from_nam(written).eval())


def test_metadata(tmp_path):
    """Loudness and gain of a compressing and of a linear network; user's values stay on a round trip."""
    for name, config in (("ConvNet", {"channels": 2, "dilations": [4]}), ("Linear", {"receptive_field": 3})):
        peer = models.factory.init(name, kwargs={"config": config})
        with torch.no_grad():
            for weight in peer.parameters():
                weight.copy_(2 * torch.randn_like(weight))
        peer.sample_rate = 48000
        user = models.metadata.UserMetadata(name="Klon", gear_type="pedal", input_level_dbu=12.5)
        peer.eval().export(tmp_path, user_metadata=user, other_metadata={"training": {"validation_esr": 0.02}})
        expected = json.loads((tmp_path / "model.nam").read_text())["metadata"]
        model = read_nam(tmp_path / "model.nam")
        assert json.loads(write_nam(model, tmp_path / "a.nam").read_text())["metadata"] == expected
        model.metadata = None
        found = json.loads(write_nam(model, tmp_path / "a.nam").read_text())["metadata"]
        assert found.keys() == {"date", "loudness", "gain"} and found["date"].keys() == expected["date"].keys()
        assert found["loudness"] == pytest.approx(expected["loudness"], abs=1e-4)
        assert found["gain"] == pytest.approx(expected["gain"], abs=1e-5)
