"""All implementations of the dilated convolution against torch in float64."""

import pytest
import torch
import torch.nn.functional as F

from wavedil.ops.dilated_conv import cpu, dilated_conv, phases

# Relative to the norm of the result.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 8e-3}


def exact(x, weight, bias, stride, padding, dilation, groups):
    convolve = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    x = F.pad(x, [side for pair in reversed(padding) for side in pair])
    return convolve(x, weight, bias, stride, 0, dilation, groups)


def compare(x, weight, bias, *, stride, padding, dilation, groups, autocast=False, tolerance):
    """Compares the output and all gradients with float64."""
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    rounded = [t.bfloat16() if autocast else t for t in inputs]
    wide = [t.detach().double().requires_grad_() for t in rounded]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    no_bias = [None] * (3 - len(inputs))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = dilated_conv(*inputs, *no_bias, **options)
    d = torch.randn_like(y)
    ours = [y, *torch.autograd.grad(y, inputs, d)]
    y64 = exact(*wide, *no_bias, **options)
    theirs = [y64, *torch.autograd.grad(y64, wide, d.double())]
    assert y.dtype == (torch.bfloat16 if autocast else x.dtype)
    for name, a, b in zip(("output", "input", "weight", "bias"), ours, theirs, strict=False):
        assert a.shape == b.shape
        error = (a.double() - b).norm() / b.norm().clamp(min=1e-30)
        assert error < tolerance, f"{name}: relative error {error:.1e}"


LAYOUTS = {
    "time innermost": lambda x: x,
    "channels innermost": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "neither": lambda x: torch.stack([x, x], -1)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("batch", "channels", "out", "kernel", "time", "dilation", "padding"),
    [
        (2, 9, 5, 2, 63, 7, (7, 0)),  # causal
        (1, 16, 32, 3, 201, 4, (4, 4)),  # same
        (3, 8, 11, 2, 130, 33, (0, 0)),  # valid
        (2, 8, 8, 1, 50, 1, (0, 0)),  # pointwise
        (2, 8, 6, 3, 40, 90, (180, 0)),  # taps in the padding only
        (1, 8, 6, 2, 70, 1, (100, 100)),  # no tap reaches all outputs
    ],
)
def test_products_equal_convolution(batch, channels, out, kernel, time, dilation, padding, dtype, layout):
    x = LAYOUTS[layout](torch.randn(batch, channels, time).to(dtype))
    weight, bias = torch.randn(out, channels, kernel).to(dtype), torch.randn(out).to(dtype)
    assert cpu.supports(x, weight, bias)
    options = {"stride": (1,), "padding": [padding], "dilation": (dilation,), "groups": 1}
    compare(x, weight, bias, **options, tolerance=TOLERANCE[dtype])
    compare(x, weight, None, **options, tolerance=TOLERANCE[dtype])


def test_autocast_gives_bfloat16_with_channels_innermost():
    x, weight = torch.randn(2, 16, 100), torch.randn(8, 16, 2)
    options = {"stride": (1,), "padding": [(5, 0)], "dilation": (5,), "groups": 1}
    compare(x, weight, torch.randn(8), **options, autocast=True, tolerance=8e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert dilated_conv(x, weight, **options).stride() == (800, 1, 8)


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_partial_gradients(needed):
    tensors = [torch.randn(2, 8, 50), torch.randn(6, 8, 2), torch.randn(6)]
    for i in needed:
        tensors[i].requires_grad_()
    options = {"stride": (1,), "padding": [(3, 0)], "dilation": (3,), "groups": 1}
    ours, theirs = (
        torch.autograd.grad(f(*tensors, **options).square().sum(), [tensors[i] for i in needed])
        for f in (dilated_conv, exact)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradcheck():
    tensors = [torch.randn(2, 8, 33), torch.randn(3, 8, 2), torch.randn(3)]
    tensors = [t.double().requires_grad_() for t in tensors]

    def function(*tensors):
        return dilated_conv(*tensors, stride=(1,), padding=[(4, 0)], dilation=(4,), groups=1)

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("autocast", [False, True], ids=["bfloat16", "autocast"])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize(("space", "kernel"), [((23, 40), (3, 3)), ((23, 40), (1, 3)), ((9, 11, 14), (3, 3, 3))])
def test_depthwise_dilated_half_precision(space, kernel, multiplier, autocast):
    """A case where the weight gradient of torch is wrong; see ``_is_wrong_in_torch``."""
    memory_format = torch.channels_last if len(space) == 2 else torch.channels_last_3d
    dtype = torch.float32 if autocast else torch.bfloat16
    x = torch.randn(2, 24, *space).to(dtype).contiguous(memory_format=memory_format)
    weight = torch.randn(24 * multiplier, 1, *kernel).to(dtype)
    ones, twos = (1,) * len(space), (2,) * len(space)
    compare(
        x,
        weight.contiguous(memory_format=memory_format),
        torch.randn(24 * multiplier).to(dtype),
        stride=ones,
        padding=[(2, 2)] * len(space),
        dilation=twos,
        groups=24,
        autocast=autocast,
        tolerance=8e-3,
    )


@pytest.mark.parametrize("layout", list(LAYOUTS)[:2])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"),
    [
        ((5, 5), (4, 4), ((8, 8), (8, 8))),  # same
        ((3, 3), (2, 1), ((0, 0), (1, 2))),  # valid, and not dilated
        ((2, 5), (3, 4), ((5, 1), (9, 16))),  # conv2d pads nothing along the first axis, two positions along the second
        ((3, 2), (9, 16), ((18, 0), (0, 16))),  # causal; interleaved maps of two positions
    ],
)
def test_interleaved_maps_equal_convolution(kernel, dilation, padding, multiplier, layout):
    x, weight = LAYOUTS[layout](torch.randn(2, 6, 17, 23)), torch.randn(6 * multiplier, 1, *kernel)
    assert phases.supports(x.clone().requires_grad_(), weight, None, (1, 1), dilation, 6)
    options = {"stride": (1, 1), "padding": padding, "dilation": dilation, "groups": 6}
    compare(x, weight, torch.randn(6 * multiplier), **options, tolerance=TOLERANCE[torch.float32])
    compare(x, weight, None, **options, tolerance=TOLERANCE[torch.float32])
    with torch.no_grad():
        assert not phases.supports(x, weight.requires_grad_(), None, (1, 1), dilation, 6)


def test_empty_input():
    x, weight = torch.zeros(2, 8, 0), torch.ones(4, 8, 1)
    y = dilated_conv(x, weight, stride=(1,), padding=[(0, 0)], dilation=(1,), groups=1)
    assert y.shape == (2, 4, 0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("space", "kernel", "dilation", "padding", "stride"),
    [
        ((9, 7), (3, 3), (12, 3), [(12, 12), (3, 3)], (1, 1)),  # rows of taps in the padding only
        ((9, 7), (2, 4), (3, 2), [(1, 2), (3, 3)], (1, 1)),  # one more on one side
        ((9, 8), (3, 3), (2, 1), [(4, 0), (1, 0)], (2, 3)),  # causal, and strides
        ((5, 4, 6), (3, 1, 2), (4, 1, 1), [(4, 4), (0, 0), (0, 1)], (1, 1, 2)),
        ((11,), (3,), (5,), [(5, 6)], (2,)),
    ],
)
def test_padding(space, kernel, dilation, padding, stride, groups, dtype):
    x = torch.randn(2, 4, *space).to(dtype)
    weight, bias = torch.randn(6, 4 // groups, *kernel).to(dtype), torch.randn(6).to(dtype)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    compare(x, weight, bias, **options, tolerance=TOLERANCE[dtype])
