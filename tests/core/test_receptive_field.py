import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from wavedil.core import DilatedConv, DilatedConv1d, DilatedStack, add_weight_norm
from wavedil.core.cost import count_multiply_adds, count_parameters
from wavedil.core.measured_field import measure_receptive_field
from wavedil.core.receptive_field import growth, receptive_field
from wavedil.errors import WavedilError

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def test_closed_form_on_known_stacks():
    assert receptive_field("1..512") == 1024  # WaveNet's block, kernel 2: 64 ms at 16 kHz
    assert receptive_field("1..512 x3") == 3 * 1023 + 1
    assert receptive_field("1..16", ndim=2) == 63  # 3x3 layers, dilations 1, 2, 4, 8, 16
    assert receptive_field("1 x7", 3) == 15 and receptive_field("1..64", 3) == 255
    assert receptive_field("1,1..16,1", 3) == 67  # Yu and Koltun's context module


def test_growth_with_strides_by_hand():
    rows = growth([1, 2, 1], kernel_size=[3, 3, 5], strides=[2, 1, 2])
    assert [(r.layer, r.dilation, r.kernel_size, r.stride) for r in rows] == [(1, 1, 3, 2), (2, 2, 3, 1), (3, 1, 5, 2)]
    assert [r.receptive_field for r in rows] == [3, 3 + 2 * 2 * 2, 11 + 4 * 2]
    assert [r.jump for r in rows] == [2, 2, 4]


@pytest.mark.parametrize("kwargs", [{"kernel_size": [3]}, {"kernel_size": 0}, {"strides": [1, 1.5]}, {"strides": True}])
def test_closed_form_of_invalid_arguments(kwargs):
    with pytest.raises(WavedilError, match="expected (a positive integer|one, or one for each of 2 layers)"):
        receptive_field([1, 2], **kwargs)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("strides", [(1, 1, 1), (1, 2, 1), (2, 1, 3)])
def test_measured_equals_closed_form(ndim, strides):
    rates, kernels = (1, 2, 1), (3, 3, 2)
    net = nn.Sequential()
    for rate, kernel, stride in zip(rates, kernels, strides, strict=True):
        net.extend([CONV[ndim](2, 2, kernel, stride, dilation=rate), nn.ReLU()])
    measured = measure_receptive_field(net, 2, ndim, seeds=2)
    assert measured.extent == (receptive_field(rates, kernels, strides),) * ndim
    reach = zip(measured.left, measured.right, strict=True)
    assert tuple(left + 1 + right for left, right in reach) == measured.extent


@pytest.mark.parametrize("norm", [False, True])
def test_causal_stack_depends_on_the_past_only(norm):
    stack = DilatedStack(ndim=1, channels=4, dilations="1..16 x2", kernel_size=2, causal=True)
    measured = measure_receptive_field(add_weight_norm(stack) if norm else stack, 4)
    assert (measured.extent, measured.left, measured.right) == ((63,), (62,), (0,))
    assert stack.receptive_field == 63 and measured.holes == 0


class Branches(nn.Module):
    """The input plus a sequence of dilated convolutions of it."""

    def __init__(self, make, *rates):
        super().__init__()
        self.layers = nn.Sequential(*(make(rate) for rate in rates))

    def forward(self, x):
        return x + self.layers(x)


def test_taps_in_the_padding_of_a_small_input_are_found():
    def same(rate):
        return nn.Conv1d(1, 1, 3, padding="same", dilation=rate)

    assert measure_receptive_field(Branches(same, 40), 1).extent == (81,)  # larger than the first size, 64
    assert measure_receptive_field(Branches(same, 30, 30), 1).extent == (121,)  # the taps of one layer are within it
    normed = Branches(lambda rate: nn.utils.parametrizations.weight_norm(same(rate)), 40)
    assert measure_receptive_field(normed, 1).extent == (81,)
    behind = measure_receptive_field(
        Branches(lambda rate: DilatedConv1d(1, 1, 2, dilation=rate, padding="causal"), 50), 1
    )
    assert (behind.left, behind.right, behind.reached) == ((50,), (0,), 2)
    pooled = nn.Sequential(
        nn.Conv2d(1, 1, 2, stride=2), Branches(lambda d: nn.Conv2d(1, 1, 3, padding=d, dilation=d), 9)
    )
    assert measure_receptive_field(pooled, 1, 2, seeds=1).extent == (38, 38)


def test_axes_are_measured_independently():
    net = nn.Sequential(CONV[2](1, 3, (1, 3), dilation=(1, 2), padding="same"), CONV[2](3, 1, (5, 3), padding="same"))
    measured = measure_receptive_field(net, 1, 2)
    assert (measured.extent, measured.left, measured.right) == ((5, 7), (2, 3), (2, 3))


def test_field_after_the_output():
    class Ahead(nn.Module):
        def forward(self, x):
            return x + x.roll(-3, dims=-1)

    measured = measure_receptive_field(Ahead(), 1)
    assert (measured.left, measured.right, measured.holes) == ((0,), (3,), 2)
    with pytest.raises(WavedilError, match="reaches the border"):
        measure_receptive_field(Ahead(), 1, size=8)


def test_field_of_a_strided_module_is_centered():
    measured = measure_receptive_field(nn.Conv1d(1, 1, 3, stride=2, padding=1), 1)
    assert (measured.left, measured.right) == ((1,), (1,))


def test_holes():
    net = nn.Sequential(*(CONV[2](1, 1, 3, dilation=d, padding="same") for d in (2, 2)))
    measured = measure_receptive_field(net, 1, 2)
    assert (measured.extent, measured.reached, measured.holes) == ((9, 9), 25, 56)


def test_theoretical_field_ignores_dead_units():
    net = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv1d(2, 1, 3, padding=1))
    with torch.no_grad():
        net[0].bias.fill_(-100.0)  # every ReLU is off
    measured = measure_receptive_field(net, 2)
    assert (measured.extent, measured.holes) == ((5,), 0)
    assert (measured.effective, measured.std, float(measured.energy.sum())) == ((0,), (0.0,), 0.0)


def test_effective_field_of_a_known_gradient():
    net = nn.Conv1d(1, 1, 5, padding=2, bias=False)
    weight = torch.tensor([0.1, 1.0, 2.0, 1.0, 0.1])
    with torch.no_grad():
        net.weight.copy_(weight.reshape(1, 1, 5))
    measured = measure_receptive_field(net, 1, coverage=0.95)
    energy = weight.double().square()
    assert measured.energy / measured.energy.sum() == pytest.approx((energy / energy.sum()).numpy())
    assert (measured.extent, measured.effective) == ((5,), (3,))
    variance = sum(float(e) * (i - 2) ** 2 for i, e in enumerate(energy)) / float(energy.sum())
    assert measured.std == (pytest.approx(math.sqrt(variance)),)
    assert measure_receptive_field(net, 1, coverage=0.5).effective == (1,)


def test_effective_field_is_smaller_than_theoretical():
    """The energy of plain layers with random weights is concentrated in the center (Luo et al. 2016)."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Conv1d(16, 16, 3, padding=1, bias=False) for _ in range(20)))
    measured = measure_receptive_field(net, 16)
    assert measured.extent == (41,) and measured.effective[0] < 25


def test_deep_residual_net_and_max_pooling():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv1d(3, 3, 3, padding=1) for _ in range(60))

        def forward(self, x):
            for layer in self.layers:
                x = x + torch.tanh(layer(x))
            return x, "extras"

    measured = measure_receptive_field(Residual(), 3, seeds=1)
    assert (measured.extent, measured.holes) == ((121,), 0)
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2))
    assert measure_receptive_field(pooled, 1, 2, seeds=16).extent == (4, 4)


def test_module_is_not_modified():
    net = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.BatchNorm1d(2), nn.Dropout(0.5))
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert measure_receptive_field(net, 2).extent == (3,)
    count_multiply_adds(net, torch.randn(2, 2, 8))
    assert [m.training for m in net] == [True, True, False] and net.training
    after = net.state_dict()
    assert all(after[name].dtype == v.dtype and torch.equal(after[name], v) for name, v in before.items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_hook_based_weight_norm():
    net = nn.utils.weight_norm(nn.Conv1d(2, 2, 3, padding=1))
    net(torch.randn(1, 2, 8))
    assert measure_receptive_field(net, 2).extent == (3,)


def test_size_and_example():
    net = nn.Conv2d(1, 1, 5, padding=2)
    assert measure_receptive_field(net, torch.zeros(4, 1, 9, 16), 2).size == (9, 16)
    assert measure_receptive_field(net, 1, 2, size=9).size == (9, 9)
    causal = DilatedConv(1, 1, 1, 5, padding="causal")
    with pytest.raises(WavedilError, match=r"space axis 0 \(size 2\); set size=\(4,\)"):
        measure_receptive_field(causal, 1, size=2)
    with pytest.raises(WavedilError, match=r"space axis 0 \(size 5\); set size=\(10, 9\) or more"):
        measure_receptive_field(net, 1, 2, size=(5, 9))


def test_unlimited_field():
    class Mean(nn.Module):
        def forward(self, x):
            return x + x.mean(-1, keepdim=True)

    with pytest.raises(WavedilError, match="global operation.*never fits"):
        measure_receptive_field(Mean(), 1)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


class Flat(nn.Module):
    def forward(self, x):
        return x.sum(1)


@pytest.mark.parametrize(
    ("net", "args", "message"),
    [
        (nn.Embedding(8, 2), (1,), "after the embedding"),
        (nn.Conv1d(1, 1, 3), (torch.zeros(1, 1, 8, dtype=torch.int64),), "after the embedding"),
        (nn.Conv1d(2, 1, 3), (1,), r"does not accept float64 input.*expected input"),
        (Detached(), (1,), "does not depend"),
        (Flat(), (1,), r"output has shape \(1, 64\)"),
        (nn.Conv1d(1, 1, 3), (torch.zeros(1, 8),), r"shape \(1, 8\)"),
        (nn.Conv1d(1, 1, 3), (1, 4), "ndim is 4: expected 1, 2 or 3"),
    ],
)
def test_invalid_measurements(net, args, message):
    with pytest.raises(WavedilError, match=message):
        measure_receptive_field(net, *args)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_counts_of_dilated_conv(ndim, groups):
    conv = DilatedConv(ndim, 4, 6, 3, dilation=2, groups=groups, padding="same")
    weights = 6 * (4 // groups) * 3**ndim
    assert count_parameters(conv) == weights + 6
    assert count_multiply_adds(conv, torch.zeros(2, 4, *[5] * ndim)) == 2 * 5**ndim * weights


def test_counts_of_other_modules():
    assert count_multiply_adds(nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.zeros(1, 3, 8, 8)) == 16 * 8 * 3 * 9
    assert count_multiply_adds(nn.Linear(5, 7), torch.zeros(2, 3, 5)) == 6 * 35
    with torch.inference_mode():  # which does not decompose operations before they are counted
        assert count_multiply_adds(nn.Linear(5, 7), torch.zeros(2, 3, 5)) == 6 * 35
    up = nn.ConvTranspose1d(4, 6, 5, stride=2)
    assert count_multiply_adds(up, torch.zeros(1, 4, 10)) == 10 * 4 * 6 * 5
    assert count_parameters(nn.Sequential(up, up)) == 4 * 6 * 5 + 6  # shared: once


def test_counts_of_a_gated_stack():
    """Per position and layer: the dilated convolution to twice the channels, the residual and the skip projection.

    Large enough for the CPU's hand-written forms, whose products the counter would not see.
    """
    c, s, t = 16, 24, 200
    stack = DilatedStack(ndim=1, channels=c, dilations="1..8", kernel_size=2, causal=True, skip_channels=s)
    gates, skips, residuals = 4 * 2 * c * 2 * c, 4 * c * s, 3 * c * c  # the last residual is unused
    assert count_multiply_adds(stack, torch.zeros(1, c, t)) == t * (gates + skips + residuals)


def test_a_classifier_is_refused_with_the_part_to_measure():
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(OrderedDict(body=body, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), out=nn.Linear(4, 2)))
    with pytest.raises(WavedilError, match=r"output has shape \(1, 2\).*measure the network up to body, its last part"):
        measure_receptive_field(model, 3, 2)


@pytest.mark.parametrize(("size", "dilation"), [(40, 3), (None, 3), (None, 90)])
def test_progress_counts_positions_and_ends_complete(size, dilation):
    calls = []
    model = nn.Conv1d(1, 1, 3, padding=dilation, dilation=dilation)
    field = measure_receptive_field(model, 1, size=size, seeds=4, progress=lambda *call: calls.append(call))
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(done) and done[-1] == totals[-1] and all(a <= b for a, b in calls)
    if size is None:  # it grew from 64 positions, which the first call knows
        assert calls[0] == (64, 64 * 10) and sorted(totals)[-1] == totals[-1] >= 8 * field.size[0]
    else:
        assert calls == [(40 * number, 40 * 8) for number in range(1, 9)]


def test_progress_of_a_measurement_that_fails():
    calls = []
    with pytest.raises(WavedilError, match="reaches the border"):
        measure_receptive_field(
            nn.Conv1d(1, 1, 9, padding=4), 1, size=5, seeds=3, progress=lambda *call: calls.append(call)
        )
    assert len(calls) == 3
