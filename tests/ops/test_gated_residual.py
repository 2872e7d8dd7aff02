"""The fused gated residual layer against the reference."""

import pytest
import torch

from wavedil.ops.gated_residual import cpu, gated_residual, reference

pytest.importorskip("numba")

TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2e-2}


def layer(batch=2, channels=9, hidden=17, kernel=2, time=201, bias=True, dtype=torch.float32):
    shapes = [(2 * hidden, channels, kernel), (2 * hidden,), (channels, hidden, 1), (channels,)]
    x = torch.randn(batch, time, channels).transpose(1, 2)
    tensors = [x, *[0.4 * torch.randn(shape) for shape in shapes]]
    tensors = [t.to(dtype) for t in tensors]
    if not bias:
        tensors[2] = tensors[4] = None
    return [None if t is None else t.requires_grad_() for t in tensors]


def gradients(function, tensors, options, seed=1):
    torch.manual_seed(seed)
    inputs = [t for t in tensors if t is not None and t.requires_grad]
    outputs = function(*tensors, **options)
    d = [torch.randn(o.shape, dtype=torch.float64).to(o.dtype) for o in outputs]
    return [*outputs, *torch.autograd.grad(outputs, inputs, d)]


@pytest.mark.parametrize("order", ["tanh_first", "sigmoid_first"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("kernel", "dilation", "padding", "bias"),
    [(2, 7, (7, 0), True), (3, 5, (5, 5), True), (2, 300, (300, 0), False), (1, 1, (0, 0), True)],
)
def test_fused_equals_reference(kernel, dilation, padding, bias, dtype, order):
    tensors = layer(kernel=kernel, bias=bias, dtype=dtype)
    options = {"padding": [padding], "dilation": (dilation,), "order": order}
    assert cpu.supports(*tensors, options["padding"], options["dilation"])
    ours = gradients(gated_residual, tensors, options)
    wide = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    for a, b in zip(ours, gradients(reference, wide, options), strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        assert (a.double() - b).norm() / b.norm() < TOLERANCE[dtype]


@pytest.mark.parametrize("needed", range(5))
def test_single_gradients(needed):
    tensors = [t.detach().requires_grad_(i == needed) for i, t in enumerate(layer())]
    options = {"padding": [(3, 0)], "dilation": (3,), "order": "tanh_first"}
    ours, theirs = (
        torch.autograd.grad(f(*tensors, **options)[0].square().sum(), tensors[needed])
        for f in (gated_residual, reference)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_unused_output():
    tensors = layer()
    options = {"padding": [(3, 0)], "dilation": (3,), "order": "tanh_first"}
    for used in (0, 1):
        inputs = tensors[: 5 if used == 0 else 3]
        ours, theirs = (
            torch.autograd.grad(f(*tensors, **options)[used].square().sum(), inputs)
            for f in (gated_residual, reference)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_second_derivatives():
    tensors = layer(time=80)
    options = {"padding": [(3, 0)], "dilation": (3,), "order": "tanh_first"}
    second = []
    for function in (gated_residual, reference):
        x, z = function(*tensors, **options)
        first = torch.autograd.grad((x * z[:, :9]).sum(), tensors, create_graph=True)
        second.append(torch.autograd.grad(sum(g.square().sum() for g in first), tensors))
    torch.testing.assert_close(*second, rtol=1e-3, atol=1e-2)


def test_autocast_gives_gradients_of_float32_weights():
    tensors = layer()
    options = {"padding": [(3, 0)], "dilation": (3,), "order": "tanh_first"}
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradients(gated_residual, tensors, options)
    rounded = [t.detach().bfloat16().double().requires_grad_() for t in tensors]
    exact = gradients(reference, rounded, options)
    assert [t.dtype for t in ours] == [torch.bfloat16] * 2 + [torch.float32] * 5
    for a, b in zip(ours, exact, strict=True):
        assert (a.double() - b).norm() / b.norm() < TOLERANCE[torch.bfloat16]


def test_two_axes_and_autocast():
    tensors = [torch.randn(s) for s in ((1, 4, 5, 6), (6, 4, 2, 2), (6,), (4, 3, 1, 1), (4,))]
    x, z = gated_residual(*tensors, padding=[(1, 0), (1, 0)], dilation=(1, 1))
    assert x.shape == (1, 4, 5, 6) and z.shape == (1, 3, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        x, z = gated_residual(*layer(), padding=[(3, 0)], dilation=(3,))
    assert x.dtype == z.dtype == torch.bfloat16 and x.stride() == (9 * 201, 1, 9)
