"""The TCN: by hand, as a stream, saved and loaded."""

import pytest
import torch
from torch.nn import functional as F

from wavedil.audio import load, save
from wavedil.audio.models.tcn import TCN, ResidualBlock
from wavedil.core import measure_receptive_field
from wavedil.errors import WavedilError


def test_one_block_by_hand():
    """Two convolutions of two taps, dilation 2, on one channel; what is below zero is cut off."""
    model = TCN(1, None, [1], [2], 2, weight_norm=False).eval()
    block = model.stack.layers[0]
    with torch.no_grad():
        for conv, taps, bias in ((block.first.conv, [-1.0, 1.0], 0.0), (block.second.conv, [1.0, 2.0], 1.0)):
            conv.weight.copy_(torch.tensor([[taps]]))
            conv.bias.fill_(bias)
    x = torch.tensor([[[1.0, 2.0, 3.0, 1.0, -9.0]]])
    # The first gives x[t] - x[t - 2], cut off: 1, 2, 2, 0, 0.
    second = [2 * 1 + 1.0, 2 * 2 + 1.0, 1 + 2 * 2 + 1.0, 2 + 0 + 1.0, 2 + 0 + 1.0]
    expected = [max(0.0, a + b) for a, b in zip(x[0, 0].tolist(), second, strict=True)]
    assert model(x)[0, 0].tolist() == expected == [4.0, 7.0, 9.0, 4.0, 0.0]
    assert model.receptive_field == 5 and model.dilations == (2, 2)


def test_the_gate_is_the_second_half_and_the_shortcut_fits_the_width():
    block = ResidualBlock(1, 3, 2, kernel_size=2, dilation=1, causal=True, gated=True).eval()
    x = torch.randn(2, 3, 7)

    def conv(x, layer):
        return F.conv1d(F.pad(x, (1, 0)), layer.conv.weight, layer.conv.bias)

    a, b = conv(x, block.first).split(2, 1)
    h = F.relu(conv(a * torch.sigmoid(b), block.second))
    expected = F.relu(h + F.conv1d(x, block.shortcut.weight, block.shortcut.bias))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("gated", [False, True])
def test_chunks_equal_the_whole_and_nothing_sees_the_future(gated):
    torch.manual_seed(0)  # with other weights no unit may be awake
    model = TCN(5, 4, [6, 6, 3], "1,2,4", 3, dropout=0.5, input_dropout=0.5, gated=gated).eval()
    x = torch.randn(2, 5, 61)
    whole, state, parts = model(x), None, []
    for chunk in x.split([1, 0, 7, 30, 23], -1):
        y, state = model.step(chunk, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, -1), whole)
    assert model.receptive_field == 1 + 2 * 2 * (1 + 2 + 4) == 29
    field = measure_receptive_field(model, 5, ndim=1)
    assert field.extent == (29,)
    x.requires_grad_()
    model(x)[0, :, 40].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero().ravel()
    assert seen.max() == 40 and seen.min() >= 40 - 28


def test_dropout_is_for_training():
    torch.manual_seed(0)
    model = TCN(4, 4, 8, "1,2", 2, dropout=0.5)
    x = torch.randn(1, 4, 20)
    assert not torch.equal(model(x), model(x))
    torch.testing.assert_close(model.eval()(x), model(x), rtol=0, atol=0)
    inputs = TCN(4, 4, 8, "1,2", 2, input_dropout=0.5)
    assert not torch.equal(inputs(x), inputs(x))


def test_saved_and_loaded(tmp_path):
    model = TCN(5, 4, [6, 3], "1,2", 3, dropout=0.1, gated=True, activation="GELU").eval()
    again = load(save(model, tmp_path / "model"), expect=type(model))
    x = torch.randn(1, 5, 9)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert again.config == model.config and again.stack.layers[0].first.activation[1].p == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"input_dropout": -0.1}, "input_dropout is -0.1"),
        ({"activation": "Relu"}, "activation is 'Relu'"),
        ({"channels": [4, 4, 4]}, "4 widths: expected 3"),
        ({"dilations": ""}, "schedule"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(WavedilError, match=message):
        TCN(**{"in_channels": 3, "out_channels": 3, "channels": 4, "dilations": "1,2", **options})
