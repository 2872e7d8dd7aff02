"""NAM: the definition in torch functions, streaming, start-up, and refused arguments."""

import pytest
import torch
from torch.nn import functional as F

from wavedil.audio import load, save
from wavedil.audio.models.activations import ACTIVATIONS, make_activation
from wavedil.audio.models.nam import NAM, LayerArray
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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_at_known_points(name):
    known = {
        "ELU": (-0.8646647, 0.5), "GELU": (-0.0455003, 0.3457312), "Hardsigmoid": (1 / 6, 0.5833333),
        "Hardswish": (-1 / 3, 0.2916667), "Hardtanh": (-1.0, 0.5), "LeakyHardtanh": (-1.01, 0.5),
        "LeakyReLU": (-0.02, 0.5), "ReLU": (0.0, 0.5), "SELU": (-1.5201665, 0.5253505),
        "SiLU": (-0.2384058, 0.3112296),
        "Sigmoid": (0.1192029, 0.6224593),
        "Softsigmoid": (1 / 6, 2 / 3), "Softsign": (-2 / 3, 1 / 3), "Tanh": (-0.9640276, 0.4621172),
    }  # fmt: skip
    torch.testing.assert_close(make_activation(name)(torch.tensor([-2.0, 0.5])), torch.tensor(known[name]))


def test_bad_arguments_are_refused():
    with pytest.raises(WavedilError, match="activation is 'Swoosh': expected one of ELU"):
        LayerArray(1, 2, 1, activation="Swoosh")
    with pytest.raises(WavedilError, match="activation is .*unexpected keyword"):
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
