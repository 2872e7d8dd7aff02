"""Properties of the public modules: torch.jit.trace and inspect.getmembers read all of them, so none may raise."""

import inspect

import pytest
import torch
from torch import nn

import wavedil.core
from wavedil import (
    ConvBlock,
    DilatedConv,
    DilatedConv1d,
    DilatedConv2d,
    DilatedConv3d,
    DilatedStack,
    GatedBlock,
    LearnedDilation,
    MergeableDilations,
)
from wavedil.audio import WaveNet
from wavedil.audio.models.tcn import TCN
from wavedil.vision import ASPP, ContextModule, VGGFrontEnd

CORE = [
    lambda: DilatedConv(1, 4, 4, 3, dilation=2),
    lambda: DilatedConv(2, 4, 4, 3, padding=("same", "causal")),
    lambda: DilatedConv(3, 4, 4, 2, padding="valid", stride=2, bias=False),
    lambda: DilatedConv1d(4, 4, 3),
    lambda: DilatedConv2d(4, 4, 3),
    lambda: DilatedConv3d(4, 4, 3),
    lambda: LearnedDilation(1, 4, 4, 3, dilation=2),
    lambda: LearnedDilation(2, 4, 4, 3, interpolation="gaussian").snap(),
    lambda: MergeableDilations(1, 4, 4, 3, dilation=2),
    lambda: MergeableDilations(2, 4, 4, 3, dilation=2).merge(),
    lambda: GatedBlock(1, 4),
    lambda: GatedBlock(2, 4, kernel_size=3, causal=True, skip_channels=0, residual=False, condition_channels=2),
    lambda: ConvBlock(2, 4),
    lambda: ConvBlock(1, 4, causal=True, activation=None),
    lambda: DilatedStack(1, 4, "1..4"),
    lambda: DilatedStack(2, 4, [1, 2], (1, 3), block=ConvBlock),
    lambda: DilatedStack(1, 4, "1..4", causal=True, skip_channels=0, weight_norm=True),
]
MODELS = [
    lambda: WaveNet(4, 4, "1,2"),
    lambda: TCN(1, 2, 4, "1,2"),
    lambda: ContextModule(3),
    lambda: VGGFrontEnd(3),
    lambda: ASPP(4, 4),
]


def test_all_modules_of_the_core_are_listed():
    public = {value for value in vars(wavedil.core).values() if inspect.isclass(value) and issubclass(value, nn.Module)}
    assert {type(make()) for make in CORE} == public


@pytest.mark.parametrize("make", CORE + MODELS)
def test_no_property_raises(make):
    for module in make().modules():
        assert "forward" in dict(inspect.getmembers(module))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: DilatedConv(1, 4, 4, 3, dilation=2), (1, 4, 90)),
        (lambda: DilatedConv(2, 4, 4, 3, padding=("same", "causal")), (1, 4, 9, 8)),
        (lambda: LearnedDilation(1, 4, 4, 3, dilation=20), (1, 4, 90)),
        (lambda: LearnedDilation(1, 8, 4, 3, dilation=20).snap(), (1, 8, 90)),
        (lambda: MergeableDilations(2, 4, 4, 3, dilation=2).eval(), (1, 4, 9, 8)),
        (lambda: MergeableDilations(2, 4, 4, 3, dilation=2).merge(), (1, 4, 9, 8)),
        (lambda: DilatedStack(1, 4, "1..4", skip_channels=5), (1, 4, 90)),
        (lambda: ContextModule(3), (1, 3, 20, 21)),
    ],
)
def test_traced_modules_equal_eager(make, shape):
    module, x = make().eval().requires_grad_(False), torch.randn(shape)
    with torch.no_grad():  # as in torch's check of the trace: with gradients a stack uses other operations
        traced = torch.jit.trace(module, x)
    torch.testing.assert_close(traced(x), module(x))
