"""Stacks: the skip product, hooks, checkpointing, weight normalization, memory layouts and errors."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from wavedil import (
    ConvBlock,
    DilatedConv,
    DilatedConv1d,
    DilatedConv2d,
    DilatedConv3d,
    DilatedStack,
    GatedBlock,
    doubling,
    receptive_field,
)
from wavedil.core import add_weight_norm, fold_weight_norm
from wavedil.errors import WavedilError
from wavedil.inspection.schedule import inspect_schedule

pytestmark = pytest.mark.usefixtures("float64")
DIMS = (1, 2, 3)
SIZE = {1: 23, 2: 11, 3: 7}


def random_input(ndim, batch=2, channels=4, size=None):
    return torch.randn(batch, channels, *[size or SIZE[ndim]] * ndim)


@pytest.mark.parametrize("ndim", DIMS)
def test_skip_product_equals_sum_of_skips(ndim):
    scales = [0.5, 2.0, 1.0]
    stack = DilatedStack(
        ndim, 4, [1, 2, 1], 2, skip_channels=5, hidden_channels=3, skip_scale=scales, last_residual=True
    )
    x = random_input(ndim, size=6)
    total, h = 0, x
    for layer in stack.layers:
        h, skip = layer(h)
        total = total + skip
    torch.testing.assert_close(stack(x), total)


class DoubledGate(GatedBlock):
    def forward_gated(self, x, condition=None):
        x, z = super().forward_gated(x, condition)
        return x, 2 * z


def test_subclasses_and_partials_of_the_gated_block():
    x = random_input(1)
    torch.manual_seed(1)
    plain = DilatedStack(1, 4, [1, 2], skip_channels=5)
    doubled = DilatedStack(1, 4, [1, 2], skip_channels=5, block=DoubledGate)
    ordered = DilatedStack(1, 4, [1, 2], skip_channels=5, block=partial(GatedBlock, gate_order="tanh_first"))
    for other in (doubled, ordered):
        other.load_state_dict(plain.state_dict())
    torch.testing.assert_close(ordered(x), plain(x))
    bias = plain.skip_product()[1][:, None]
    torch.testing.assert_close(doubled(x) - bias, 2 * (plain(x) - bias))


def test_hooks_on_convolutions_are_called():
    x = torch.randn(1, 16, 80, dtype=torch.float32)
    stack = DilatedStack(1, 16, [1, 2], last_residual=True).float()
    before, calls = stack(x), []
    for layer in stack.layers:
        for conv in (layer.conv, layer.residual, layer.skip):
            conv.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(stack(x), before)
    assert len(calls) == 6


def test_gate_orders_differ_by_swapped_halves():
    one, two = GatedBlock(1, 4, dilation=2), GatedBlock(1, 4, dilation=2, gate_order="sigmoid_first")
    weights = one.state_dict()
    for key in ("conv.weight", "conv.bias"):
        weights[key] = weights[key].roll(4, 0)
    two.load_state_dict(weights)
    x = random_input(1)
    for a, b in zip(one(x), two(x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", [{}, {"skip_channels": 0}, {"block": ConvBlock}])
def test_checkpointing_does_not_change_results(options):
    x = random_input(1)
    grads = []
    for layers in (0, 2):
        torch.manual_seed(1)
        stack = DilatedStack(1, 4, [1, 2, 4], causal=True, checkpoint_layers=layers, **options)
        y = stack(x)
        y.square().sum().backward()
        grads.append([y.detach(), *(p.grad for p in stack.parameters())])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("ndim", DIMS)
def test_fold_weight_norm(ndim):
    stack = DilatedStack(ndim, 4, [1, 2], 3, weight_norm=True)
    x = random_input(ndim)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if name.endswith("original0"):
                parameter.mul_(1.5)  # so that the gain differs from the norm
    before = stack(x)
    fold_weight_norm(stack)
    assert {name for name, _ in stack.named_parameters()} == {
        name for name, _ in DilatedStack(ndim, 4, [1, 2], 3).named_parameters()
    }
    torch.testing.assert_close(stack(x), before)
    assert add_weight_norm(stack) is stack
    torch.testing.assert_close(stack(x), before)


def test_stack_keeps_the_memory_layout():
    stack = DilatedStack(1, 16, "1..8", causal=True).float()
    x = torch.randn(2, 70, 16, dtype=torch.float32).transpose(1, 2)  # channels innermost in memory
    y = stack(x)
    assert y.stride(1) == 1
    torch.testing.assert_close(y, stack(x.contiguous()))


def test_widths_per_layer():
    stack = DilatedStack(2, [3, 6, 12, 3], [1, 2, 1], 3, block=ConvBlock)
    assert stack(random_input(2, 1, 3)).shape == (1, 3, 11, 11)
    with pytest.raises(WavedilError, match="expected 4, of the input and of 3 layers"):
        DilatedStack(2, [3, 6, 12], [1, 2, 1], 3, block=ConvBlock)


def test_subclasses_per_dimension_and_receptive_fields():
    for cls, ndim in ((DilatedConv1d, 1), (DilatedConv2d, 2), (DilatedConv3d, 3)):
        assert cls(4, 4, 3).ndim == ndim
    assert DilatedStack(1, 4, doubling(512, repeats=3)).receptive_field == 3 * 1023 + 1
    assert DilatedStack(2, 4, [1, 1, 2, 4, 8, 16, 1], 3, block=ConvBlock).receptive_field == 67
    assert DilatedStack(2, 4, [1, 2], (1, 3)).receptive_field == (1, 7)
    for ndim, kernel in ((1, 2), (2, 3), (3, 3)):  # without a kernel size, that of wavedil inspect
        assert inspect_schedule("1,2", ndim)["kernel_size"] == kernel
        assert GatedBlock(ndim, 4).conv.kernel_size == (kernel,) * ndim
        assert DilatedStack(ndim, 4, "1,2").receptive_field == receptive_field("1,2", ndim=ndim)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DilatedConv(4, 1, 1, 3), "expected 1, 2 or 3"),
        (lambda: DilatedConv(2, 1, 1, (3, 3, 3)), "one for each of 2 axes"),
        (lambda: DilatedConv(1, 1, 1, 0), "kernel_size is 0: expected a positive integer"),
        (lambda: DilatedConv(1, 3, 4, 2, groups=2), "divisor"),
        (lambda: DilatedConv(1, 1, 1, 2, padding="full"), "same, causal, valid"),
        (lambda: DilatedConv(1, 1, 1, 2, pad_mode="circular"), "zeros, reflect"),
        (lambda: DilatedConv(1, 2, 2, 2)(torch.zeros(1, 3, 8)), "expected \\(batch, 2"),
        (lambda: DilatedConv(1, 1, 1, 3, dilation=8, padding="valid")(torch.zeros(1, 1, 16)), "needs at least 17"),
        (lambda: DilatedConv(1, 1, 1, 3, dilation=8, pad_mode="reflect")(torch.zeros(1, 1, 8)), "9 or more"),
        (lambda: GatedBlock(1, 4, gate_order="relu"), "tanh_first, sigmoid_first"),
        (
            lambda: GatedBlock(1, 4, condition_channels=2)(torch.zeros(1, 4, 8)),
            "is None: expected \\(batch, 2, ",
        ),
        (lambda: GatedBlock(1, 4)(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)), "condition is a tensor: expected None"),
        (
            lambda: GatedBlock(1, 4, condition_channels=4)(torch.zeros(1, 4, 8), torch.zeros(1, 4, 7)),
            "expected the same size",
        ),
        (lambda: DilatedStack(1, 4, [1, 2], skip_scale=[1.0]), "one for each of 2 layers"),
        (lambda: DilatedStack(1, 4, [1], padding="same", causal=True, block=ConvBlock), "expected only one of them"),
        (lambda: DilatedStack(1, 4, [1], block=ConvBlock, skip_channels=4), "are options of GatedBlock"),
        (lambda: DilatedStack(1, 4, [1], checkpoint_layers=-1), "checkpoint_layers is -1"),
        (
            lambda: DilatedStack(1, 4, [1], block=ConvBlock)(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)),
            "condition is a tensor: expected None",
        ),
        (lambda: DilatedConv(1, 1, 1, 3, padding="causal", pad_mode="reflect"), "the future"),
        (lambda: DilatedConv(1, 1, 1, 2.0), "kernel_size is 2.0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(WavedilError, match=message):
        make()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("ndim", [1, 2])
def test_condition_of_one_position_applies_everywhere(batch, ndim):
    """It equals the expanded condition, also where one condition for the complete batch becomes a bias."""
    torch.manual_seed(0)
    stack = DilatedStack(ndim, 8, "1,2,4", 3, causal=True, condition_channels=3).double()
    x = torch.randn(2 if batch == 1 else batch, 8, *[90, 7][:ndim], dtype=torch.float64)
    short = torch.randn(batch, 3, *[1] * ndim, dtype=torch.float64, requires_grad=True)
    results = []
    for condition in (short, short.expand(x.shape[0], 3, *x.shape[2:])):
        y = stack(x, condition)
        results.append([y, *torch.autograd.grad(y.square().sum(), [short, *stack.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    if ndim == 1:
        state, outputs = None, []
        for chunk in x.split([1, 60, 29], dim=2):
            y, state = stack.step(chunk, state, short)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 2), results[0][0])


def test_dilations_may_differ_between_the_axes():
    """A layer with (1, 2, 4) is a convolution with these dilations; integers and tuples may be mixed."""
    torch.manual_seed(0)
    stack = DilatedStack(3, 2, [(1, 2, 4), 2], 3, block=ConvBlock)
    x = torch.randn(1, 2, 4, 9, 11)
    y = x
    for layer, dilation in zip(stack.layers, ((1, 2, 4), (2, 2, 2)), strict=True):
        conv = layer.conv
        y = layer.activation(F.conv3d(y, conv.weight, conv.bias, padding=dilation, dilation=dilation))
    torch.testing.assert_close(stack(x), y)
    assert stack.receptive_field == (7, 9, 13)
    gated = DilatedStack(2, 4, [[1, 2], [2, 4]], 2, causal=[True, False])
    assert gated.receptive_field == (4, 7)
    for wrong in ([(1, 2)], [(1, 0, 2)], [(1, 2, 2), [[1]]], [(1, "a", 2)]):
        with pytest.raises(WavedilError, match="dilation"):
            DilatedStack(3, 2, wrong, 3)
