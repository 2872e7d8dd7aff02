"""The context module: parameter counts, receptive fields, initialization and padding."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wavedil import ConvBlock, DilatedConv, DilatedStack, measure_receptive_field
from wavedil.errors import WavedilError
from wavedil.vision import ContextModule, LearnedUpsample, VGGFrontEnd
from wavedil.vision.models.context import VARIANTS, identity_


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def scores(classes, *space, batch=2):
    return torch.randn(batch, classes, *space, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("variant", "classes", "parameters", "total", "field", "pixels"),
    [
        ("large", 21, 6_803_139, 141_149_720, 67, 908),
        ("basic", 11, 7_832, 134_313_443, 67, 908),
        ("cityscapes", 19, 29_792, 134_373_043, 259, 2444),
        ("kitti", 11, 6_732, 134_312_343, 35, 652),
    ],
)
def test_the_four_nets_of_the_paper(variant, classes, parameters, total, field, pixels):
    with torch.device("meta"):
        front, context = VGGFrontEnd(classes), ContextModule(classes, variant)
        upsample = [LearnedUpsample(classes)] if variant == "cityscapes" else []
    assert count(context) == parameters and count(front, context, *upsample) == total
    assert context.receptive_field == field
    assert front.receptive_field + front.stride * (context.receptive_field - 1) == pixels


def test_weight_counts_in_squares_of_the_number_of_classes():
    for variant, square in (("basic", 64), ("large", 15_422)):
        for classes in (3, 21):
            weights = [p for p in ContextModule(classes, variant).parameters() if p.ndim > 1]
            assert sum(w.numel() for w in weights) == square * classes**2
    large = ContextModule(21, "large")
    assert [layer.conv.out_channels for layer in large.stack.layers] == [42, 42, 84, 168, 336, 672, 672]
    assert isinstance(large.stack, DilatedStack) and all(isinstance(block, ConvBlock) for block in large.stack.layers)


@pytest.mark.parametrize("variant", VARIANTS)
def test_receptive_field_equals_the_measured_one(variant):
    net = ContextModule(2, variant, ndim=1)
    measured = measure_receptive_field(net, 2, seeds=1)
    assert measured.extent == (net.receptive_field,) and measured.left == measured.right and measured.holes == 0


def test_receptive_field_by_layer_and_with_the_front_end():
    layers = ContextModule(2).stack.layers
    fields = [measure_receptive_field(nn.Sequential(*layers[: n + 1]), 2, 2, seeds=1).extent for n in range(7)]
    assert fields == [(n, n) for n in (3, 5, 9, 17, 33, 65, 67)]
    front = VGGFrontEnd(1, padding="valid", widths=(1,) * 5, hidden_channels=1)
    front.pool = nn.AvgPool2d(2, ceil_mode=True)  # the same windows, and gradients reach all of each window
    net = nn.Sequential(front, ContextModule(1, padding="once")).double().eval()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.5)
    x = torch.rand(1, 3, 380, 8 * 75 + 372, dtype=torch.float64, requires_grad=True)
    net(x)[..., 37].sum().backward()
    columns = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert columns[-1] - columns[0] + 1 == 908


# -- initialization ----------------------------------------------------------------------------------------------------


def test_equations_4_and_5_against_written_out_weights():
    square = identity_(DilatedConv(2, 3, 3, 3), 3)
    want = torch.zeros(3, 3, 3, 3)
    want[range(3), range(3), 1, 1] = 1
    assert torch.equal(square.weight, want) and not square.bias.any()
    # C = 2, from 4 to 6 channels: outputs 0 to 2 take inputs 0 and 1 by C / c_out = 1/3 each, 3 to 5 take 2 and 3.
    wide = identity_(DilatedConv(1, 4, 6, 3), 2)
    third = 1 / 3
    rows = [[third, third, 0, 0]] * 3 + [[0, 0, third, third]] * 3
    torch.testing.assert_close(wide.weight[..., 1], torch.tensor(rows))
    assert not wide.weight[..., [0, 2]].any()
    # Where C divides neither: C = 2, 5 channels are 3 of class 0 and 2 of class 1.
    odd = identity_(DilatedConv(1, 2, 5, 1), 2)
    torch.testing.assert_close(odd.weight[..., 0], torch.tensor([[third, 0]] * 3 + [[0, 0.5]] * 2))


def test_noise_level_of_equation_5():
    torch.manual_seed(0)
    conv = identity_(DilatedConv(2, 40, 80, 3), 20, sigma=0.1).double()
    same_group = torch.arange(80)[:, None] // 4 == torch.arange(40) // 2
    torch.testing.assert_close(conv.weight[..., 1, 1][same_group], torch.full((160,), 0.25, dtype=torch.float64))
    rest = conv.weight[..., 1, 1][~same_group]
    assert abs(rest.std() / (0.1 * 20 / 80) - 1) < 0.1 and abs(conv.weight[..., 0, 2].std() / 0.025 - 1) < 0.1
    assert ContextModule(4).sigma == 0 and ContextModule(4, widths=[4] * 7).sigma == 0
    assert ContextModule(4, "large").sigma == 0.01  # channels with equal initial weights would stay equal
    first = ContextModule(4, "large").stack.layers[1].conv.weight
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "large"},
        {"dilations": "1,1,2", "padding": "once"},
        {"dilations": [1, 3, 2], "widths": [7, 5, 13]},
        {"dilations": "1..4", "widths": [11, 23, 6], "padding": "once", "pad_mode": "reflect"},
    ],
)
def test_initial_output_is_the_relu_of_the_input(ndim, options):
    torch.manual_seed(0)
    net = ContextModule(5, ndim=ndim, sigma=0.0, **options).double()
    x = scores(5, *(9, 4, 3)[:ndim])
    torch.testing.assert_close(net(x), x.relu())
    assert (x < 0).any()


def test_random_initialization_is_not_the_identity():
    torch.manual_seed(0)
    net = ContextModule(5, init="random").double()
    x = scores(5, 9, 7)
    assert (net(x) - x.relu()).abs().mean() > 0.1 * x.abs().mean()
    assert net.stack.layers[0].conv.weight[..., 0, 0].abs().min() > 0


# -- padding -----------------------------------------------------------------------------------------------------------


def random_pair(**options):
    nets = []
    for padding in ("layer", "once"):
        torch.manual_seed(0)
        nets.append(ContextModule(3, "kitti", init="random", padding=padding, **options).double())
        for parameter in nets[-1].parameters():
            nn.init.uniform_(parameter, -0.3, 0.6)  # keeps activations above 0 through six ReLUs
    return nets


def test_padding_once_differs_only_where_the_receptive_field_leaves_the_map():
    layer, once = random_pair()
    x = scores(3, 40, 37)
    a, b = layer(x), once(x)
    assert a.shape == b.shape == x.shape
    torch.testing.assert_close(a[..., 17:-17, 17:-17], b[..., 17:-17, 17:-17])
    assert (a - b)[..., 0, :].abs().mean() > 0.01
    valid = DilatedStack(2, [3] * 7, VARIANTS["kitti"][0], 3, block=ConvBlock, padding="valid").double()
    valid.load_state_dict(once.stack.state_dict())
    torch.testing.assert_close(b, once.final(valid(F.pad(x, [17] * 4))))


def test_reflect_padding_equals_numpys():
    layer, once = random_pair(pad_mode="reflect")
    x = scores(3, 20, 11)  # narrower than the 17 cells of padding
    padded = torch.as_tensor(np.pad(x, [(0, 0), (0, 0), (17, 17), (17, 17)], mode="reflect"))
    torch.testing.assert_close(once(x), random_pair()[1](padded)[..., 17:-17, 17:-17])
    with torch.no_grad():
        y = x
        for block in layer.stack.layers:
            pad = block.conv.dilation[0]
            weight, bias = block.conv.weight, block.conv.bias
            y = F.conv2d(F.pad(y, [pad] * 4, mode="reflect"), weight, bias, dilation=pad).relu()
        torch.testing.assert_close(layer(x), layer.final(y))


# -- on features -------------------------------------------------------------------------------------------------------


def test_in_channels_adds_a_score_layer():
    torch.manual_seed(0)
    net = ContextModule(4, in_channels=[8, 6]).double()
    x = scores(6, 9, 7)
    want = F.conv2d(x, net.score.weight, net.score.bias).relu()
    torch.testing.assert_close(net(x), want)
    torch.testing.assert_close(net([torch.zeros(2, 8, 18, 14), x]), want)
    assert ContextModule(4, in_channels=4).score is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "huge"}, "variant is 'huge': expected one of basic, large, cityscapes, kitti"),
        ({"variant": "large", "dilations": "1,2"}, "variant is 'large' and dilations is '1,2': expected only one"),
        ({"dilations": "1,2", "widths": [5]}, r"widths is \[5\]: expected one for each of 2 dilated layers"),
        ({"widths": [4] * 7}, "from 5 to 4 channels in 1 groups cannot pass 5 maps: use widths of at least 5"),
        ({"padding": "valid"}, "padding is 'valid': expected 'layer' or 'once'"),
        ({"pad_mode": "edge"}, "pad_mode is 'edge'"),
        ({"init": "xavier"}, "init is 'xavier': expected 'identity' or 'random'"),
        ({"num_classes": 0}, "num_classes is 0: expected a positive integer"),
        ({"ndim": 4}, "ndim is 4"),
    ],
)
def test_invalid_arguments_raise(options, message):
    with pytest.raises(WavedilError, match=message):
        ContextModule(**{"num_classes": 5, **options})
    for padding in ("layer", "once"):
        with pytest.raises(WavedilError, match=r"expected \(batch, 5, \*space\) with 2 space axes"):
            ContextModule(5, padding=padding)(torch.zeros(1, 6, 8, 8))
