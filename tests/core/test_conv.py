"""Dilated convolutions and stacks in 1, 2 and 3 dimensions, by the same tests."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from wavedil import ConvBlock, DilatedConv, DilatedStack
from wavedil.core import stream
from wavedil.errors import WavedilError

pytestmark = pytest.mark.usefixtures("float64")
DIMS = (1, 2, 3)
SIZE = {1: 23, 2: 11, 3: 7}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def random_input(ndim, batch=2, channels=4, size=None):
    return torch.randn(batch, channels, *[size or SIZE[ndim]] * ndim)


# -- results computed by hand ------------------------------------------------------------------------------------------


def with_weights(conv, values):
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(values).view_as(conv.weight))
    return conv


@pytest.mark.parametrize(
    ("padding", "kernel", "dilation", "expected"),
    [
        ("causal", [1, 10], 2, [10, 20, 31, 42, 53]),  # out[t] = x[t-2] + 10 x[t]
        ("causal", [1, 10, 100], 1, [100, 210, 321, 432, 543]),
        ("valid", [1, 10], 2, [31, 42, 53]),
        ("same", [1, 10, 100], 1, [210, 321, 432, 543, 54]),
        ("same", [1, 10], 1, [21, 32, 43, 54, 5]),  # even kernel: the padded position is on the right
        ("same", [1, 10], 3, [30, 41, 52, 3, 4]),  # span 3: one before, two after: out[t] = x[t-1] + 10 x[t+2]
    ],
)
def test_small_integers(padding, kernel, dilation, expected):
    x = torch.tensor([[[1.0, 2, 3, 4, 5]]])
    conv = with_weights(DilatedConv(1, 1, 1, len(kernel), dilation=dilation, padding=padding, bias=False), kernel)
    assert conv(x)[0, 0].tolist() == expected


def test_reflect_by_hand():
    x = torch.tensor([[[1.0, 2, 3, 4, 5]]])
    conv = with_weights(DilatedConv(1, 1, 1, 3, dilation=2, pad_mode="reflect", bias=False), [1, 10, 100])
    assert conv(x)[0, 0].tolist() == [3 + 10 + 300, 2 + 20 + 400, 1 + 30 + 500, 2 + 40 + 400, 3 + 50 + 300]


# -- against torch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", DIMS)
@pytest.mark.parametrize(
    ("kernel", "dilation", "stride", "groups"), [(3, 1, 1, 1), (2, 2, 1, 2), (3, 2, 2, 4), (1, 1, 1, 1)]
)
def test_equals_torch(ndim, kernel, dilation, stride, groups):
    x = random_input(ndim).requires_grad_()
    conv = DilatedConv(ndim, 4, 8, kernel, dilation=dilation, stride=stride, padding="valid", groups=groups)
    y = conv(x)
    expected = CONV[ndim](x, conv.weight, conv.bias, stride=stride, dilation=dilation, groups=groups)
    torch.testing.assert_close(y, expected)
    inputs = (x, conv.weight, conv.bias)
    seed = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, seed), torch.autograd.grad(expected, inputs, seed), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("ndim", DIMS)
def test_same_keeps_the_size_and_agrees_with_torch(ndim):
    for kernel, dilation in itertools.product((1, 2, 3, 4), (1, 2)):
        x = random_input(ndim)
        conv = DilatedConv(ndim, 4, 4, kernel, dilation=dilation)
        assert conv(x).shape == x.shape
        expected = CONV[ndim](
            F.pad(x, [s for pad in reversed(conv.pads) for s in pad]), conv.weight, conv.bias, dilation=dilation
        )
        torch.testing.assert_close(conv(x), expected)
        assert all(0 <= after - before <= 1 for before, after in conv.pads)


@pytest.mark.parametrize("ndim", DIMS)
@pytest.mark.parametrize("padding", ["same", "causal"])
def test_strided_size_is_rounded_up(ndim, padding):
    for size in (6, 7):
        assert (
            DilatedConv(ndim, 2, 2, 3, stride=2, padding=padding)(random_input(ndim, 1, 2, size)).shape[2:]
            == (math.ceil(size / 2),) * ndim
        )


@pytest.mark.parametrize("ndim", DIMS)
def test_different_settings_per_axis(ndim):
    kernel, dilation = (3, 2, 1)[:ndim], (1, 3, 2)[:ndim]
    padding = ("causal", "same", "valid")[:ndim]
    conv = DilatedConv(ndim, 4, 4, kernel, dilation=dilation, padding=padding)
    x = random_input(ndim)
    size = [SIZE[ndim] - (span if name == "valid" else 0) for span, name in zip(conv.span, padding, strict=True)]
    assert list(conv(x).shape[2:]) == size


# -- equivalences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_2d_with_kernel_1_k_equals_1d(causal):
    one = DilatedStack(1, 4, [1, 2, 4], 3, causal=causal)
    two = DilatedStack(2, 4, [1, 2, 4], (1, 3), causal=(False, causal))
    two.load_state_dict(
        {key: value.unsqueeze(2) if value.ndim == 3 else value for key, value in one.state_dict().items()}
    )
    x = torch.randn(2, 4, 5, 19)
    rows = x.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(two(x), one(rows).unflatten(0, (2, 5)).transpose(1, 2))


@pytest.mark.parametrize("ndim", DIMS)
def test_dilation_equals_undilated_convolution_of_interleaved_positions(ndim):
    d = 2
    dilated = DilatedConv(ndim, 4, 3, 3, dilation=d)
    plain = DilatedConv(ndim, 4, 3, 3)
    plain.load_state_dict(dilated.state_dict())
    x = random_input(ndim, size=2 * d * 3)
    y = dilated(x)
    for phase in itertools.product(range(d), repeat=ndim):
        picks = (slice(None), slice(None), *(slice(p, None, d) for p in phase))
        torch.testing.assert_close(y[picks], plain(x[picks]))


@pytest.mark.parametrize("ndim", DIMS)
def test_shift_equivariance_in_the_interior(ndim):
    stack = DilatedStack(ndim, 4, [1, 2], 3, block=ConvBlock)
    x = random_input(ndim, size=16)
    shifted = torch.roll(x, shifts=(1,) * ndim, dims=tuple(range(2, 2 + ndim)))
    inside = (slice(None), slice(None), *(slice(5, -5),) * ndim)
    torch.testing.assert_close(
        stack(shifted)[inside], torch.roll(stack(x), (1,) * ndim, tuple(range(2, 2 + ndim)))[inside]
    )


@pytest.mark.parametrize("ndim", DIMS)
@pytest.mark.parametrize("causal", [True, False])
def test_gradient_footprint_equals_receptive_field(ndim, causal):
    stack = DilatedStack(ndim, 2, [1, 2], 3, causal=causal)
    field = 1 + 2 * (1 + 2)
    assert stack.receptive_field == field
    size, at = 15, 8
    x = random_input(ndim, 1, 2, size).requires_grad_()
    stack(x)[(0, slice(None), *(at,) * ndim)].sum().backward()
    reached = x.grad.abs().sum(dim=(0, 1)) > 0
    first = at - (field - 1) if causal else at - (field - 1) // 2
    expected = torch.zeros_like(reached)
    expected[(slice(first, first + field),) * ndim] = True
    assert torch.equal(reached, expected)


@pytest.mark.parametrize("ndim", DIMS)
def test_no_gradient_from_the_future(ndim):
    stack = DilatedStack(ndim, 2, [1, 2, 4], 2, causal=(*(False,) * (ndim - 1), True))
    x = random_input(ndim, 1, 2, 9).requires_grad_()
    for t in (0, 3, 8):
        (grad,) = torch.autograd.grad(stack(x)[..., t].sum(), x)
        assert grad[..., t + 1 :].count_nonzero() == 0
        assert grad[..., t].abs().max() > 0


# -- streaming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", DIMS)
@pytest.mark.parametrize(
    "options", [{}, {"block": ConvBlock}, {"skip_channels": 0}, {"skip_channels": 3, "skip_scale": 0.5}]
)
def test_chunks_equal_forward(ndim, options):
    stack = DilatedStack(ndim, 4, [1, 3], 3, causal=(*(False,) * (ndim - 1), True), **options)
    x = random_input(ndim, size=12)
    expected = stack(x)
    for lengths in ([12], [1] * 12, [0, 5, 0, 1, 6], [11, 1]):
        state, outputs = None, []
        for chunk in x.split(lengths, dim=-1):
            y, state = stack.step(chunk, state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, -1), expected)


@pytest.mark.parametrize("ndim", DIMS)
def test_conditioned_chunks_equal_forward(ndim):
    stack = DilatedStack(ndim, 4, [1, 2], 2, causal=True, condition_channels=3, residual_scale=0.5**0.5)
    x, c = random_input(ndim, size=8), random_input(ndim, channels=3, size=8)
    state, outputs = None, []
    for chunk, condition in zip(x.split([3, 5], -1), c.split([3, 5], -1), strict=True):
        y, state = stack.step(chunk, state, condition)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, -1), stack(x, c))


def test_state_is_a_dict_of_tensors_that_steps_do_not_modify(tmp_path):
    from safetensors.torch import load_file, save_file

    stack = DilatedStack(1, 4, "1..4 x2", causal=True)
    x = random_input(1)
    _, state = stack.step(x)
    assert all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items())
    save_file(state, tmp_path / "state.safetensors")
    first, _ = stack.step(x, state)
    loaded = load_file(tmp_path / "state.safetensors")
    assert loaded.keys() == state.keys() and all(torch.equal(state[key], loaded[key]) for key in state)
    again, _ = stack.step(x, loaded)
    assert torch.equal(first, again)
    branch, _ = stack.step(x[[1, 1, 0]], stream.select(state, [1, 1, 0]))
    torch.testing.assert_close(branch, first[[1, 1, 0]])
    assert stream.to(state, torch.float32)["layers.0.conv.history"].dtype == torch.float32


def test_invalid_states():
    stack = DilatedStack(1, 4, [1, 2], causal=True)
    _, state = stack.step(random_input(1))
    with pytest.raises(WavedilError, match="from another model or batch size"):
        stack.step(random_input(1, batch=3), state)
    with pytest.raises(WavedilError, match="expected 'history'"):
        stack.step(random_input(1), {"nonsense": torch.zeros(1)})
    with pytest.raises(WavedilError, match="needs a causal axis"):
        DilatedConv(1, 4, 4, 2).step(random_input(1))


@pytest.mark.parametrize("ndim", DIMS)
def test_gradcheck(ndim):
    stack = DilatedStack(ndim, 2, [1, 2], 2, causal=True, condition_channels=1, skip_channels=2)
    x, c = random_input(ndim, 1, 2, 4).requires_grad_(), random_input(ndim, 1, 1, 4).requires_grad_()
    assert torch.autograd.gradcheck(stack, (x, c))
    parameters = [p.detach().requires_grad_() for p in stack.parameters()]
    names = [name for name, _ in stack.named_parameters()]

    def run_with(*weights):
        return torch.func.functional_call(stack, dict(zip(names, weights, strict=True)), (x.detach(), c.detach()))

    assert torch.autograd.gradcheck(run_with, parameters)
