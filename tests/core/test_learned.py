"""Dilated convolutions with learnable spacings: interpolated, snapped, streamed, saved."""

import copy

import pytest
import torch
from torch import nn

from wavedil import ConvBlock, DilatedConv, DilatedStack, GatedBlock, LearnedDilation, measure_receptive_field, register
from wavedil.core import MergeableDilations, fold_dilations
from wavedil.core.cost import count_multiply_adds
from wavedil.errors import WavedilError
from wavedil.ops.dilated_conv import dilated_conv
from wavedil.weights import load, save

pytestmark = pytest.mark.usefixtures("float64")
DIMS = (1, 2, 3)


def learned(ndim, *, kernel=2, window=5, **options):
    """A convolution with taps at random positions, some of them outside the window."""
    conv = LearnedDilation(ndim, 4, 6, kernel, window=window, groups=2, **options)
    nn.init.uniform_(conv.positions, -0.7, window - 0.3)
    return conv


def by_dense_kernel(conv, x):
    options = {"stride": conv.stride, "dilation": (1,) * conv.ndim, "groups": conv.groups}
    return dilated_conv(x, conv.kernel(), conv.bias, padding=conv.pads, **options)


@pytest.mark.parametrize("ndim", DIMS)
@pytest.mark.parametrize("padding", ["same", "causal", "valid"])
def test_starts_as_the_regular_convolution(ndim, padding):
    regular = DilatedConv(ndim, 4, 6, 3, dilation=2, groups=2, padding=padding)
    for window in (None, 5):
        conv = LearnedDilation(ndim, 4, 6, 3, dilation=2, groups=2, padding=padding, window=window)
        regular.load_state_dict({"weight": conv.weight.view_as(regular.weight), "bias": conv.bias})
        x = torch.randn(2, 4, *[9, 8, 7][:ndim])
        torch.testing.assert_close(conv(x), regular(x))
        assert conv.receptive_field == regular.receptive_field
    wide = LearnedDilation(ndim, 4, 6, 3, dilation=2, groups=2, padding=padding, window=8)
    wide.load_state_dict({**wide.state_dict(), "weight": conv.weight, "bias": conv.bias})
    if padding != "valid":
        torch.testing.assert_close(wide(x), regular(x))


@pytest.mark.parametrize("ndim", DIMS)
@pytest.mark.parametrize("padding", ["same", "causal", "valid"])
@pytest.mark.parametrize("options", [{}, {"shared": False}, {"interpolation": "gaussian"}, {"stride": 2}], ids=str)
def test_equals_its_dense_kernel_before_and_after_snapping(ndim, padding, options):
    x = torch.randn(2, 4, *[11, 8, 7][:ndim])
    conv = learned(ndim, padding=padding, **options)
    for _ in range(2):
        torch.testing.assert_close(conv(x), by_dense_kernel(conv, x))
        torch.testing.assert_close(torch.vmap(conv)(x[None])[0], conv(x))  # without numbers of the positions
        conv.snap()


def test_interpolation_by_hand():
    conv = LearnedDilation(1, 1, 1, 2, window=4, bias=False)
    with torch.no_grad():
        conv.positions.copy_(torch.tensor([[0.25, 3.0]]))
        conv.weight.copy_(torch.tensor([[[4.0, 10.0]]]))
    assert conv.kernel().tolist() == [[[3.0, 1.0, 0.0, 10.0]]]
    square = LearnedDilation(2, 1, 1, 1, window=(2, 3), bias=False)
    with torch.no_grad():
        square.positions.copy_(torch.tensor([[0.5], [1.25]]))
        square.weight.fill_(8.0)
    assert square.kernel().tolist() == [[[[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]]]]
    assert square.snap().kernel().tolist() == [[[[8.0]]]]  # at row 0, column 1, the position of the output


@pytest.mark.parametrize("options", [{}, {"shared": False}, {"interpolation": "gaussian"}, {"snapped": True}], ids=str)
@pytest.mark.parametrize(("ndim", "size"), [(1, 9), (2, 5), (3, 4)])
def test_gradients(ndim, size, options):
    options = dict(options)
    snapped = options.pop("snapped", False)
    conv = LearnedDilation(ndim, 2, 2, (2,) + (1,) * (ndim - 1), window=3, padding="causal", **options)
    nn.init.uniform_(conv.positions, 0.05, 0.95)
    conv = conv.snap() if snapped else conv
    x = torch.randn(1, 2, *[size] * ndim, requires_grad=True)
    values = [value for value in conv.parameters() if value.requires_grad]
    names = [name for name, value in conv.named_parameters() if value.requires_grad]
    assert snapped or "positions" in names

    def run(x, *values):
        return torch.func.functional_call(conv, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *values), fast_mode=True)


@pytest.mark.parametrize(("window", "size"), [((40,), (100,)), ((17, 12), (20, 31)), ((9, 1, 8), (9, 5, 13))])
@pytest.mark.parametrize("padding", ["causal", "same"])
def test_products_by_tap_have_the_gradients_of_the_dense_kernel(window, size, padding):
    kernel = tuple(min(3, n) for n in window)
    conv = LearnedDilation(len(window), 8, 6, kernel, window=window, padding=padding)
    with torch.no_grad():
        for row, n in zip(conv.positions, window, strict=True):
            row.uniform_(0.1 * (n - 1), 0.9 * (n - 1))
    x = torch.randn(2, 8, *size, requires_grad=True)
    for _ in range(2):
        values = [x, *(value for value in conv.parameters() if value.requires_grad)]
        y, expected = conv(x), by_dense_kernel(conv, x)
        torch.testing.assert_close(y, expected)
        d = torch.randn_like(y)
        for ours, theirs in zip(
            torch.autograd.grad(y, values, d), torch.autograd.grad(expected, values, d), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
        conv.snap()


@pytest.mark.parametrize("start", [-0.5, 4.5])
def test_positions_return_from_outside(start):
    conv = LearnedDilation(1, 1, 1, 1, window=5, padding="causal", bias=False)
    nn.init.constant_(conv.positions, start)
    nn.init.ones_(conv.weight)
    x = torch.arange(20.0).view(1, 1, -1)
    inward = 1.0 if start < 0 else -1.0  # for this input a larger position means a larger output
    for sign, moves in ((inward, True), (-inward, False)):
        conv.positions.grad = None
        (-sign * conv(x)[..., 8:]).sum().backward()  # gradient descent follows sign
        assert bool(conv.positions.grad.abs().sum() > 0) is moves


def test_positions_are_learned():
    """Echoes after 3 and 11 samples are found by wide Gaussians, which start at 0 and 15."""
    torch.manual_seed(0)
    conv = LearnedDilation(1, 1, 1, 2, dilation=15, padding="causal", interpolation="gaussian", sigma=4.0)
    x = torch.randn(8, 1, 200)
    target = 0.8 * nn.functional.pad(x, (3, 0))[..., :200] - 0.5 * nn.functional.pad(x, (11, 0))[..., :200]
    optimizer = torch.optim.Adam(
        [
            {"params": [conv.weight, conv.bias], "lr": 0.03},
            {"params": [conv.positions, conv.sigma], "lr": 0.15, "weight_decay": 0.0},
        ]
    )
    for _ in range(150):
        optimizer.zero_grad()
        (conv(x) - target).square().mean().backward()
        optimizer.step()
    conv.snap()
    assert sorted(15 - conv.offsets[0]) == [3, 11]


@pytest.mark.parametrize("ndim", DIMS)
@pytest.mark.parametrize("block", [ConvBlock, GatedBlock])
def test_chunks_equal_forward_and_fields_are_exact(ndim, block):
    causal = (*(False,) * (ndim - 1), True)
    stack = DilatedStack(ndim, 4, [1, 2], 3, block=block, causal=causal, conv=LearnedDilation)
    for layer in stack.layers:
        nn.init.uniform_(layer.conv.positions, 0.1, 0.9)
    x = torch.randn(2, 4, *[7, 6, 12][-ndim:])
    for _ in range(2):
        expected, state, parts = stack(x), None, []
        for chunk in x.split([1, 0, 5, 6], dim=-1):
            y, state = stack.step(chunk, state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, -1), expected)
        fold_dilations(stack)
    assert all(layer.conv.snapped for layer in stack.layers)


@pytest.mark.parametrize("ndim", [1, 2])
@pytest.mark.parametrize("padding", ["same", "causal"])
def test_the_field_ends_at_the_farthest_tap(ndim, padding):
    for offsets in ([0, 1], [3, 8], [4, 5], [8, 8], [0, 0], [2, 7]):
        conv = LearnedDilation(ndim, 1, 1, (2,) + (1,) * (ndim - 1), window=9, padding=padding)
        nn.init.constant_(conv.positions, 4.0 if padding == "same" else 8.0)
        with torch.no_grad():
            conv.positions[0] = torch.tensor(offsets) + 0.2
        conv.snap()
        field = 1 + conv.span[0]
        assert conv.receptive_field == (field if ndim == 1 or conv.span[0] == conv.span[1] else (field, 1))
        measured = measure_receptive_field(conv, 1, ndim=ndim)
        left, right = measured.left[0], measured.right[0]
        if padding == "causal":
            assert field == 1 + left == 1 + 8 - min(offsets)
        else:
            assert field == 1 + max(2 * left, 2 * right - 1, 0)
        assert measured.reached == len(set(offsets))


def test_measured_before_snapping_at_the_neighbors_of_each_position():
    conv = LearnedDilation(1, 2, 2, 2, window=9, padding="causal")
    with torch.no_grad():
        conv.positions.copy_(torch.tensor([[1.5, 6.5]]))
    measured = measure_receptive_field(conv, 2, ndim=1)
    assert (measured.extent, measured.reached) == ((7,), 4)


def test_snapped_taps_cost_one_product_each():
    conv = LearnedDilation(1, 8, 8, 3, dilation=50, padding="causal")
    nn.init.uniform_(conv.positions, 0, 100)
    assert count_multiply_adds(conv, torch.randn(1, 8, 200)) == 2 * 3 * 64 * 200
    conv.snap()
    assert count_multiply_adds(conv, torch.randn(1, 8, 200)) == 3 * 64 * 200
    conv.reset_parameters()
    assert not conv.snapped


@register
class Network(nn.Module):
    def __init__(self, channels: int, interpolation: str = "linear"):
        super().__init__()
        conv = lambda *args, **options: LearnedDilation(*args, interpolation=interpolation, **options)  # noqa: E731
        self.stack = DilatedStack(1, channels, "1..8", 3, causal=True, conv=conv, weight_norm=True)

    def forward(self, x):
        return self.stack(x)


@pytest.mark.parametrize("interpolation", ["linear", "gaussian"])
def test_networks_save_and_load_before_and_after_snapping(tmp_path, interpolation):
    network, x = Network(4, interpolation), torch.randn(1, 4, 60)
    for layer in network.stack.layers:
        nn.init.uniform_(layer.conv.positions, 0, layer.conv.window[0] - 1)
    for name in ("learned", "snapped"):
        save(network, tmp_path / name)
        again = load(tmp_path / name).double()
        assert [layer.conv.snapped for layer in again.stack.layers] == [name == "snapped"] * 4
        torch.testing.assert_close(again(x), network(x))
        assert again.stack.receptive_field == network.stack.receptive_field
        torch.testing.assert_close(copy.deepcopy(again)(x), network(x))
        fold_dilations(network)


def test_damaged_offsets_are_refused():
    conv = LearnedDilation(1, 1, 1, 2, dilation=4).snap()
    for offset in (5, -3):
        with pytest.raises(WavedilError, match="offsets has .* expected 0 to window - 1"):
            conv.load_state_dict({**conv.state_dict(), "offsets": torch.tensor([[0, offset]])})


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, 2, 2, 3), {"dilation": 4, "window": 8}, "window is 8: expected at least 9"),
        ((2, 2, 2, 3), {"window": (3, 2)}, "window is .* expected at least 3 x 3"),
        ((1, 2, 2, 3), {"window": 0}, "window is 0: expected"),
        ((1, 2, 2, 3), {"interpolation": "cubic"}, "interpolation is cubic|interpolation is 'cubic'"),
        ((1, 2, 2, 3), {"sigma": 0.1, "interpolation": "gaussian"}, "sigma is 0.1: expected"),
        ((1, 1, 1, 2**24), {}, "kernel_size makes 16777216 taps: expected at most 65536"),
        ((1, 2, 2, 3), {"groups": 3}, "groups is 3: expected a divisor"),
        ((3, 4096, 4096, 3), {"window": 64}, "window is .* weights, expected at most"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(WavedilError, match=message):
        LearnedDilation(*arguments, **options)


def test_what_is_folded_in_inference_mode_can_be_trained():
    for layer in (LearnedDilation(1, 2, 3, 3, window=9), MergeableDilations(1, 2, 3, 3, dilation=4)):
        with torch.inference_mode():
            fold_dilations(nn.Sequential(layer))
        layer(torch.randn(1, 2, 20)).sum().backward()
        assert layer.weight.grad is not None


def test_positions_that_are_not_finite_are_not_snapped():
    conv = LearnedDilation(1, 2, 2, 3)
    nn.init.constant_(conv.positions, float("nan"))
    assert conv(torch.randn(1, 2, 9)).isnan().any()
    with pytest.raises(WavedilError, match="positions are not finite"):
        conv.snap()


def test_too_small_an_input_names_the_window():
    with pytest.raises(WavedilError, match="a window of 9 and 'valid' padding needs at least 9"):
        LearnedDilation(1, 2, 2, 3, dilation=4, padding="valid")(torch.randn(1, 2, 5))


@pytest.mark.parametrize("version", ["v0", "v1", "gauss"])
@pytest.mark.parametrize("ndim", DIMS)
def test_equals_dcls(ndim, version):
    modules = pytest.importorskip("DCLS.construct.modules", reason="needs dcls")
    theirs = getattr(modules, f"Dcls{ndim}d")(
        4, 6, kernel_count=3, dilated_kernel_size=5, padding=2, groups=2, version=version
    ).double()
    kernel = (3,) + (1,) * (ndim - 1)
    ours = LearnedDilation(
        ndim, 4, 6, kernel, window=5, groups=2, shared=False,
        interpolation="gaussian" if version == "gauss" else "linear",
    )  # fmt: skip
    nn.init.uniform_(theirs.P, -1.9, 1.9)
    # Their positions are from the center, and of the last axis first; in version v0 in another order of the axes.
    order = {1: [0], 2: [0, 1], 3: [0, 2, 1]}[ndim] if version == "v0" else list(range(ndim))[::-1]
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias)
        ours.positions.copy_(theirs.P[order] + 2)
        if theirs.SIG is not None:
            nn.init.uniform_(theirs.SIG, 0.1, 1.0)
            ours.sigma.copy_(theirs.SIG[order])
    x = torch.randn(2, 4, *[9] * ndim)
    y, expected = ours(x), theirs(x)
    # v1 and gauss divide by the sum plus 1e-7.
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if version == "v0" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y, expected, **tolerance)
    d = torch.randn_like(y)
    gradients = torch.autograd.grad(y, (ours.weight, ours.positions), d)
    others = torch.autograd.grad(expected, (theirs.weight, theirs.P), d)
    torch.testing.assert_close(gradients[0], others[0], **tolerance)
    torch.testing.assert_close(gradients[1], others[1][order], **tolerance)
