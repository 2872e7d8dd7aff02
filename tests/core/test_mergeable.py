"""Parallel dilated branches with batch norm equal the one convolution into which they merge."""

from functools import partial

import pytest
import torch
from torch import nn

from wavedil import (
    ConvBlock,
    DilatedConv,
    DilatedStack,
    GatedBlock,
    LearnedDilation,
    MergeableDilations,
    audit_gridding,
    measure_receptive_field,
    register,
)
from wavedil.audio.effects.compiled.program import Builder
from wavedil.audio.generation.plan import LayerPlan
from wavedil.core import fold_dilations
from wavedil.errors import WavedilError
from wavedil.weights import load, save

pytestmark = pytest.mark.usefixtures("float64")
SIZES = {1: (23,), 2: (12, 11), 3: (8, 7, 9)}


def trained(module):
    """The module with running statistics, gains and biases as after a training, in evaluation mode."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 3.0)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "causal", "valid"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"branches": [(2, 3), (4, 1), (1, 1)]},
        {"groups": 4, "branches": [(5, 1), (3, 1)]},  # depthwise, with a dense branch, as UniRepLKNet
        {"stride": 2},
    ],
    ids=str,
)
def test_merged_equals_the_branches(ndim, padding, options):
    conv = trained(MergeableDilations(ndim, 4, 8, 3, dilation=2, padding=padding, **options))
    x = torch.randn(2, 4, *SIZES[ndim], requires_grad=True)
    expected, field = conv(x), conv.receptive_field
    assert len(conv.branches) > 1 and conv.merge() is conv and conv.merged
    torch.testing.assert_close(conv(x), expected)
    assert conv.receptive_field == field == conv.merge().receptive_field
    d = torch.randn_like(expected)
    for ours, theirs in zip(*(torch.autograd.grad(y, x, d) for y in (conv(x), expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("padding", ["same", "causal"])
def test_each_branch_is_a_dilated_convolution(padding):
    conv = trained(MergeableDilations(1, 2, 2, 3, dilation=5, padding=padding, branches=[(2, 3), (1, 1)]))
    x = torch.randn(1, 2, 40)
    total = 0
    for kernel, dilation, (branch, norm) in zip((3, 2, 1), (5, 3, 1), conv.branches, strict=True):
        alone = DilatedConv(1, 2, 2, kernel, dilation=dilation, padding=padding, bias=False)
        alone.load_state_dict(branch.state_dict())
        total = total + norm(alone(x))
    torch.testing.assert_close(conv(x), total)


def test_training_follows_the_batch_and_merging_the_running_statistics():
    conv, x = MergeableDilations(1, 4, 4, 2, dilation=8, padding="causal"), torch.randn(3, 4, 50)
    for _ in range(200):
        y = conv(x)
    torch.testing.assert_close(y.mean((0, 2)), torch.zeros(4), atol=1e-12, rtol=0)
    torch.testing.assert_close(conv.eval().merge()(x), y, atol=0.02, rtol=0)


@pytest.mark.parametrize("block", [GatedBlock, ConvBlock])
@pytest.mark.parametrize("ndim", [1, 2])
def test_a_stream_goes_on_after_merging(ndim, block):
    causal = (*(False,) * (ndim - 1), True)
    stack = trained(DilatedStack(ndim, 4, [1, 2, 4], 2, block=block, causal=causal, conv=MergeableDilations))
    x = torch.randn(2, 4, *[5, 24][-ndim:])
    expected = stack(x)
    first, state = stack.step(x[..., :9])
    fold_dilations(stack)
    rest, state = stack.step(x[..., 9:], state)
    torch.testing.assert_close(torch.cat([first, rest], -1), expected)
    torch.testing.assert_close(stack(x), expected)


@pytest.mark.parametrize("ndim", [1, 2])
@pytest.mark.parametrize(
    "conv", [MergeableDilations, LearnedDilation, partial(LearnedDilation, interpolation="gaussian")]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_chunk_may_be_empty(ndim, conv, training):
    conv = conv(ndim, 4, 6, 2, dilation=3, padding=("same", "causal")[-ndim:]).train(training)
    for _ in range(2):
        for state in (None, conv.step(torch.randn(2, 4, *[5, 7][-ndim:]))[1]):
            y, after = conv.step(torch.zeros(2, 4, *[5, 0][-ndim:]), state)
            assert y.shape == (2, 6, *[5, 0][-ndim:])
            expected = torch.zeros_like(after["history"]) if state is None else state["history"]
            assert torch.equal(after["history"], expected)
        fold_dilations(conv)


def test_merged_in_float32_is_rounded_once():
    conv = trained(MergeableDilations(2, 4, 4, 3, dilation=3)).float()
    x = torch.randn(1, 4, 20, 20, dtype=torch.float32)
    expected = conv(x)
    assert conv.merge().weight.dtype == torch.float32
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)


@register
class Network(nn.Module):
    def __init__(self, merged: bool = False):
        super().__init__()
        self.conv = MergeableDilations(2, 3, 4, 3, dilation=2, merged=merged)

    def forward(self, x):
        return self.conv(x)


def test_merged_weights_load_into_a_merged_network(tmp_path):
    network, x = trained(Network()), torch.randn(1, 3, 9, 9)
    save(network, tmp_path / "branches")
    torch.testing.assert_close(load(tmp_path / "branches").double()(x), network(x))
    merged = Network(merged=True)
    merged.load_state_dict(fold_dilations(network).state_dict())
    save(merged, tmp_path / "merged")
    torch.testing.assert_close(load(tmp_path / "merged").double()(x), network(x))


def test_measured_field():
    conv = MergeableDilations(1, 2, 2, 2, dilation=8, padding="causal", branches=[(3, 1)])
    for _ in range(2):
        measured = measure_receptive_field(conv.eval(), 2, ndim=1)
        assert (measured.left, measured.right, measured.reached) == ((8,), (0,), 4)
        conv.merge()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias": False}, "bias is False: expected True"),
        ({"branches": [3]}, "branches is .* expected"),
        ({"branches": [(3, 1, 2)]}, "branches has .*: expected pairs of kernel size and dilation"),
        ({"branches": [(3, 0)]}, "branches is .* expected"),
        ({"branches": [(3, (1, 2))]}, "branches is .* expected a positive integer"),
        ({"branches": [(3, 1), (2**17, 1)]}, "kernel_size makes 131078 taps: expected at most 65536"),
        ({"groups": 3}, "groups is 3: expected a divisor"),
        ({"dilation": "x"}, "dilation is x|dilation is 'x'"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(WavedilError, match=message) as caught:
        MergeableDilations(1, 2, 2, 3, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("conv", [LearnedDilation, MergeableDilations])
def test_what_needs_folded_or_regular_taps_refuses_others(conv):
    stack = DilatedStack(1, 4, [2, 4], 2, causal=True, conv=conv)
    with pytest.raises(WavedilError, match="call fold_dilations"):
        Builder().gated_stack(stack, 0, "stack")
    with pytest.raises(WavedilError, match="call fold_dilations"):
        LayerPlan.of(stack.layers[0])
    fold_dilations(stack)
    with pytest.raises(WavedilError, match="stack with learned or merged taps"):
        audit_gridding(stack)
