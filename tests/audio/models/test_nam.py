"""NAM: the definition in torch functions, streaming, start-up, and refused arguments."""

import copy

import pytest
import torch
from torch.nn import functional as F

from wavedil.audio import LiveEffect, load, save
from wavedil.audio.models.activations import ACTIVATIONS, make_activation
from wavedil.audio.models.nam import NAM, NAMLSTM, LayerArray, NAMContainer, NAMConvNet, NAMLinear
from wavedil.audio.models.nam.layer import FILM_PLACES
from wavedil.core import measure_receptive_field
from wavedil.errors import WavedilError


def small(**kwargs) -> NAM:
    torch.manual_seed(0)
    arrays = [
        LayerArray(1, 4, 3, "1,2,5", [3, 1, 2], activation=["Tanh", "ReLU", "SiLU"],
                   gating=["gated", "none", "blended"]),
        LayerArray(4, 5, 1, "1,3", 2, bottleneck=3, head_kernel_size=4, head_bias=True),
    ]  # fmt: skip
    return NAM(arrays, head_scale=0.3, **kwargs).double()


def by_definition(model: NAM, x: torch.Tensor) -> torch.Tensor:
    """NAM's definition in torch functions: valid convolutions of the zero-padded input, cropped on the left."""
    c = F.pad(x, (model.receptive_field - 1, 0))
    h, total = c, None
    for array in model.arrays:
        h = F.conv1d(h, array.rechannel.weight)
        for layer, d, gating, name in zip(array.layers, array.dilations, array.gatings, array.activations, strict=True):
            z = F.conv1d(h, layer.conv.weight, layer.conv.bias, dilation=d)
            mixed = F.conv1d(c, layer.mixin.weight)
            z = z + mixed[..., mixed.shape[2] - z.shape[2] :]
            f = {"Tanh": torch.tanh, "ReLU": torch.relu, "SiLU": lambda v: v * torch.sigmoid(v)}[name]
            if gating == "none":
                a = f(z)
            else:
                half = z.shape[1] // 2
                first, gate = z[:, :half], torch.sigmoid(z[:, half:])
                a = f(first) * gate if gating == "gated" else gate * f(first) + (1 - gate) * first
            h = h[..., h.shape[2] - a.shape[2] :] + F.conv1d(a, layer.layer1x1.weight, layer.layer1x1.bias)
            total = a if total is None else total[..., total.shape[2] - a.shape[2] :] + a
        total = F.conv1d(total, array.head_rechannel.weight, array.head_rechannel.bias)
    return model.head_scale * total


def test_equals_the_definition():
    model, x = small(), torch.randn(2, 1, 37, dtype=torch.float64)
    torch.testing.assert_close(model(x), by_definition(model, x), rtol=0, atol=1e-12)


def test_outputs_after_the_start_need_no_state():
    """Without the first outputs, layers compute only what the next ones need: also with all parts."""
    torch.manual_seed(0)
    condition = NAM([LayerArray(1, 2, 3, "1,4", head_kernel_size=2)], out_channels=3)
    arrays = [
        LayerArray(1, 3, 2, "1,3", condition_channels=3, head_kernel_size=40, films={"conv_pre": {}, "conv_post": {}}),
        LayerArray(3, 2, 2, "2", 2, condition_channels=3),
    ]
    every = NAM(arrays, condition=condition, head={"channels": 3, "kernel_sizes": [3, 2]})
    for model in (small(), every.double()):
        x = torch.randn(2, 1, model.receptive_field + 20, dtype=torch.float64)
        for skip in (model.receptive_field - 2, model.receptive_field - 1, model.receptive_field + 6):
            torch.testing.assert_close(model(x, skip=skip), model.step(x)[0][:, :, skip:], rtol=0, atol=1e-12)


def test_networks_by_name():
    sizes = {"standard": 13801, "lite": 6553, "feather": 3025, "nano": 841, "a2_3": 1870, "a2_8": 12145}
    for name, size in sizes.items():
        model = NAM(name)
        assert sum(parameter.numel() for parameter in model.parameters()) == size
        a2 = name.startswith("a2")
        assert (model.receptive_field, model.head_scale) == ((6347, 0.01) if a2 else (4093, 0.02))
    assert NAM().state_dict().keys() == NAM("standard").state_dict().keys()
    with pytest.raises(WavedilError, match="arrays is 'standart': expected layer arrays or .* mean standard?"):
        NAM("standart")
    pair = NAMContainer(["a2_3", "a2_8"], sample_rate=44100)
    assert pair.max_values == [0.5, 1.0] and pair.sample_rate == 44100 and pair.parts() == list(pair.networks)
    with pytest.raises(WavedilError, match="sample_rate is 8000: expected that of the networks, 48000"):
        NAMContainer([small(), small()], sample_rate=8000)
    for bad in ([], ["a2"], "a2_3"):
        with pytest.raises(WavedilError):
            NAMContainer(bad)


def test_receptive_field_equals_that_of_the_gradient():
    model = small(start="zero_history")
    assert model.receptive_field == 1 + (2 + 0 + 5) + (1 + 3 + 3)
    assert measure_receptive_field(model, 1, ndim=1).extent == (model.receptive_field,)
    assert NAM().receptive_field == 1 + 2 * 2 * 1023


@pytest.mark.parametrize("skip", [0, 1, 13, 14, 30])
def test_skip_drops_the_first_outputs_only(skip):
    model, x = small(), torch.randn(2, 1, 37, dtype=torch.float64)
    assert model.receptive_field == 15
    torch.testing.assert_close(model(x, skip=skip), model(x)[:, :, skip:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", ["zero_input", "zero_history"])
def test_chunks_equal_one_pass(start):
    model = small(start=start, head={"channels": 3, "kernel_sizes": [2, 3], "activation": "Tanh"})
    x = torch.randn(2, 1, 60, dtype=torch.float64)
    state, parts = None, []
    for chunk in x.split([1, 0, 7, 52], dim=-1):
        y, state = model.step(chunk, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, -1), model(x))


def test_the_start_matters_within_the_receptive_field_only():
    zero_input, zero_history = small(), small(start="zero_history")
    x = torch.randn(1, 1, 40, dtype=torch.float64)
    difference = (zero_input(x) - zero_history(x)).abs()[0, 0]
    # The rechannel layer has no bias, so the history of the first convolution (2 samples) is zero in both.
    reach = zero_input.receptive_field - 1 - 2
    assert difference[:reach].min() > 1e-6 and difference[reach:].max() < 1e-12
    # Zeros before the sound change nothing.
    late = zero_input(F.pad(x, (11, 0)))[..., 11:]
    torch.testing.assert_close(late, zero_input(x))


def test_gradients_reach_every_weight_in_use():
    model, x = small(), torch.randn(1, 1, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,))
    model(x).sum().backward()
    unused = model.arrays[1].layers[-1].layer1x1  # only the activation of the last layer is used
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("arrays.1.layers.1.layer1"))
    assert unused.weight.grad is None


def test_a_loaded_model_equals_the_saved_one(tmp_path):
    model = small(metadata={"name": "Amp", "gear": {"make": None}}, head={"channels": 2, "kernel_sizes": [1]}).float()
    again = load(save(model, tmp_path / "amp"))
    x = torch.randn(1, 1, 30)
    assert torch.equal(again(x), model(x)) and again.metadata == model.metadata and again.config == model.config


def modulated(**kwargs) -> NAM:
    """A NAM with every option of its parts, and a condition."""
    films = dict.fromkeys(FILM_PLACES, {}) | {"conv_post": {"groups": 2}, "input_mixin_pre": {"shift": False}}
    slopes = {"type": "PReLU", "negative_slopes": [0.1, 0.2]}
    array = LayerArray(
        1, 4, 1, "1,3", 2, activation=["Tanh", slopes], gating=["blended", "none"], bottleneck=2, condition_channels=2,
        head_kernel_size=3, head_dilation=4, groups=2, mixin_groups=2, layer1x1_groups=2, head1x1_channels=4,
        head1x1_groups=2, films=films,
    )  # fmt: skip
    return NAM([array], condition=NAM([LayerArray(1, 3, 2, "1,5")], out_channels=2, **kwargs), head_scale=0.5, **kwargs)


def slimmable() -> NAM:
    arrays = [
        LayerArray(1, 4, 3, "1,2", 2, gating="gated", bottleneck=8, slimmable=[1, 2, 4], films={"conv_post": {}}),
        LayerArray(4, 6, 1, "1,4", 3, bottleneck=3, slimmable=[2, 6]),
    ]
    return NAM(arrays, head_scale=0.5, sample_rate=8000)


def others() -> list:
    return [
        modulated(sample_rate=8000),
        NAMLSTM(3, 2, sample_rate=8000),
        NAMConvNet(3, [1, 2, 5], {"type": "LeakyReLU", "negative_slope": 0.2}, batchnorm=True, sample_rate=8000),
        NAMLinear(7, True, sample_rate=8000),
        slimmable().at_quality(0.4),
        NAMContainer([NAMLSTM(3, sample_rate=8000), small(sample_rate=8000).float()], [0.5, 1], metadata={"a": 1}),
    ]


@pytest.mark.parametrize("index", range(6))
def test_every_network_streams_saves_and_runs_live(index, tmp_path):
    torch.manual_seed(0)
    model, x = others()[index].eval(), torch.randn(2, 1, 60)
    with torch.no_grad():
        for weight in model.state_dict().values():
            weight.add_(0.1 * torch.rand_like(weight))  # also those that start at 0 and 1
        expected, state, parts = model(x), None, []
        for chunk in x.split([1, 0, 7, 52], dim=-1):
            y, state = model.step(chunk, state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, -1), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(x, skip=41), expected[:, :, 41:], rtol=1e-5, atol=1e-6)
        again = load(save(model, tmp_path / "amp"))
        assert torch.equal(again(x), expected) and again.config == model.config
    x = x.clamp(-1, 1)
    live = LiveEffect(model, channels=2)
    blocks = [torch.from_numpy(live.process(block[:, 0].numpy())) for block in x.split(13, dim=-1)]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(blocks, -1), model(x)[:, 0], rtol=1e-5, atol=1e-6)


def test_head_dilation_spreads_the_taps():
    model, x = NAM([LayerArray(1, 2, 1, "1", head_kernel_size=3, head_dilation=4)]), torch.randn(1, 1, 50)
    dense = NAM([LayerArray(1, 2, 1, "1", head_kernel_size=9)])
    with torch.no_grad():
        state = copy.deepcopy(model.state_dict())
        kernel = state["arrays.0.head_rechannel.weight"]
        state["arrays.0.head_rechannel.weight"] = torch.zeros(1, 2, 9)
        state["arrays.0.head_rechannel.weight"][:, :, ::4] = kernel
        dense.load_state_dict(state)
        torch.testing.assert_close(model(x), dense(x))
    assert model.receptive_field == dense.receptive_field == 11


def test_qualities_of_several_arrays():
    model = slimmable()
    small = model.at_quality(0.4)  # number floor(3 * 0.4) of the first, floor(2 * 0.4) of the second
    widths = [(array.channels, array.bottleneck, array.head_channels) for array in small.arrays]
    assert widths == [(2, 4, 1), (2, 1, 1)]
    conv, full = small.arrays[0].layers[1].conv, model.arrays[0].layers[1].conv
    assert torch.equal(conv.weight, full.weight[:8, :2]) and torch.equal(conv.bias, full.bias[:8])
    assert model.at_quality(1) is model
    x = torch.randn(1, 1, 40)
    assert small(x).shape == model(x).shape and not torch.equal(small(x), model(x))
    with pytest.raises(WavedilError, match="quality is 1.2: expected a number from 0 to 1"):
        model.at_quality(1.2)
    with pytest.raises(WavedilError, match="quality is 0.5: a NAM like this has only one"):
        small.at_quality(0.5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_known_points(name):
    known = {
        "ELU": (-0.8646647, 0.5), "GELU": (-0.0455003, 0.3457312), "Hardsigmoid": (1 / 6, 0.5833333),
        "Hardswish": (-1 / 3, 0.2916667), "Hardtanh": (-1.0, 0.5), "LeakyHardtanh": (-1.01, 0.5),
        "LeakyReLU": (-0.02, 0.5), "PReLU": (-0.5, 0.5), "ReLU": (0.0, 0.5), "SELU": (-1.5201665, 0.5253505),
        "SiLU": (-0.2384058, 0.3112296),
        "Sigmoid": (0.1192029, 0.6224593),
        "Softsigmoid": (1 / 6, 2 / 3), "Softsign": (-2 / 3, 1 / 3), "Tanh": (-0.9640276, 0.4621172),
    }  # fmt: skip
    torch.testing.assert_close(make_activation(name)(torch.tensor([-2.0, 0.5])), torch.tensor(known[name]))


def test_bad_arguments_are_refused():
    with pytest.raises(WavedilError, match="activation is 'Swoosh': expected one of ELU"):
        LayerArray(1, 2, 1, activation="Swoosh")
    with pytest.raises(WavedilError, match="activation is .*Tanh has no parameter 'slope'"):
        LayerArray(1, 2, 1, activation={"type": "Tanh", "slope": 1})
    with pytest.raises(WavedilError, match="kernel_size has 2 values: expected one, or one for each of 3 layers"):
        LayerArray(1, 2, 1, [1, 2, 4], [3, 3])
    with pytest.raises(WavedilError, match="without layer1x1"):
        LayerArray(1, 2, 1, bottleneck=3, layer1x1=False)
    with pytest.raises(
        WavedilError,
        match=r"arrays\[1\] has in_channels=3, head terms of 2 channels and condition_channels=1: expected 2, 2",
    ):
        NAM([LayerArray(1, 2, 2), LayerArray(3, 2, 1)])
    with pytest.raises(WavedilError, match="head_channels=2: expected 1"):
        NAM([LayerArray(1, 2, 2)])
    with pytest.raises(WavedilError, match="start is 'silence': expected one of zero_input"):
        NAM(start="silence")
    with pytest.raises(WavedilError, match=r"expected \(batch, 1, time\)"):
        small()(torch.zeros(1, 2, 5))
    for options, message in (
        ({"films": {"conv": {}}}, "films has 'conv': expected some of conv_pre"),
        ({"films": {"head1x1_post": {}}}, "films has 'head1x1_post' without head1x1"),
        ({"films": {"conv_pre": {"scale": 2}}}, "films.conv_pre is .*scale"),
        ({"films": {"conv_pre": {"groups": 2}}}, "films.conv_pre is .*groups is 2: expected a divisor"),
        ({"groups": 4}, "groups is 4: expected a divisor"),
        ({"slimmable": [1]}, r"slimmable is \[1\]: expected ascending numbers that end with 2"),
        ({"slimmable": [2, 1, 2]}, "slimmable is .*ascending"),
        ({"slimmable": [1, 2], "groups": 2}, "slimmable is .*with groups"),
        (
            {"activation": {"type": "PReLU", "negative_slopes": [0.1] * 3}},
            "PReLU has 3 negative_slopes: expected 1 or 2",
        ),
        ({"activation": {"type": "PReLU", "negative_slopes": [None]}}, "expected numbers"),
        ({"activation": {"type": "PReLU", "negative_slopes": [0.1], "negative_slope": 1}}, "only one of"),
        ({"activation": {"type": "Hardtanh", "inplace": True}}, "Hardtanh has no parameter 'inplace'"),
    ):
        with pytest.raises(WavedilError, match=message):
            LayerArray(1, 2, 1, **options)
    with pytest.raises(WavedilError, match="condition_channels=1: expected 1, 2 and 3"):
        NAM([LayerArray(1, 2, 1)], condition=NAM([LayerArray(1, 2, 3)], out_channels=3))
    with pytest.raises(WavedilError, match="condition has sample_rate 8000: expected 48000"):
        NAM([LayerArray(1, 2, 1)], condition=NAM([LayerArray(1, 2, 1)], sample_rate=8000))
    with pytest.raises(WavedilError, match="out_channels is 2: a NAM with several can only be the condition"):
        NAM([LayerArray(1, 2, 2)], out_channels=2)(torch.zeros(1, 1, 5))
    for ends in ([0.5], [0.5, 0.4], [0.5, 0.9]):
        with pytest.raises(WavedilError, match="max_values"):
            NAMContainer([small(), small()], ends)
    with pytest.raises(WavedilError, match="sample rate 8000"):
        NAMContainer([small(), small(sample_rate=8000)], [0.5, 1])
